package conformance_test

import (
	"testing"
)

// special asks for the answers that take more than one request, or a state of their own.
func (w *world) special(t *testing.T) {
}
