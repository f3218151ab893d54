package api_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/nexixai/agentos/api"
)

// The pages stand on the public door and on the admin door, ask for nothing, and who looks for a page that isn't there was
// denied nothing: it's no line in the audit, which anybody could fill then.
func TestPages_Doors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *api.Options) { o.AdminApart = true })
	for name, door := range map[string]http.Handler{"public": w.door.Handler(), "admin": w.door.AdminHandler()} {
		for path, status := range map[string]int{
			"/docs": 308, "/docs/": 200, "/docs/swagger-ui.css": 200, "/docs/none": 404, "/openapi/common.yaml": 200, "/openapi/none.yaml": 404, "/openapi/common": 404,
			"/openapi/..%2fcommon.yaml": 404,
		} {
			rec := httptest.NewRecorder()
			door.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
			if rec.Code != status {
				t.Errorf("%s door: %s answers %d, want %d", name, path, rec.Code, status)
			}
		}
	}
	if len(w.refused) > 0 {
		t.Errorf("audited %+v", w.refused)
	}
	rec := httptest.NewRecorder()
	w.door.FederationHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/docs/", nil))
	if rec.Code == 200 {
		t.Error("the federation door serves pages")
	}
}
