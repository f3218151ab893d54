package browser_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// operations counts the operations of a document as it lies in the tree.
func operations(t *testing.T, document string) int {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "api", document, "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return len(regexp.MustCompile(`(?m)^ +operationId:`).FindAll(text, -1))
}

// The API page shows every operation of each document, under a policy that forbids what isn't its own, and it asks nobody
// but the node.
func TestDocs(t *testing.T) {
	base := suite.Shared(t).Node().APIURL
	b := open(t)
	b.goTo(base + "/docs")
	if at := eval[string](b, "location.pathname"); at != "/docs/" {
		t.Errorf("/docs leads to %s", at)
	}
	for _, document := range []string{"stack-a", "stack-b", "federation"} {
		if at := eval[string](b, `document.getElementById("document").value`); at != document {
			eval[bool](b, `(() => {
				const choice = document.getElementById("document");
				choice.value = "`+document+`";
				return choice.dispatchEvent(new Event("change"));
			})()`)
			b.until(`location.search === "?document=` + document + `"`)
		}
		b.until(`document.querySelectorAll(".opblock").length > 0 || document.querySelectorAll(".errors-wrapper").length > 0`)
		if text := eval[string](b, `[...document.querySelectorAll(".errors-wrapper")].map(e => e.innerText).join("\n")`); text != "" {
			t.Errorf("%s: the page reports %s", document, text)
		}
		if shown, want := eval[int](b, `document.querySelectorAll(".opblock").length`), operations(t, document); shown != want {
			t.Errorf("%s: %d operations are shown, want %d", document, shown, want)
		}
		// An operation that is opened shows its answers, those too that the documents share.
		eval[bool](b, `document.querySelector(".opblock-summary-control").click() || true`)
		b.until(`document.querySelectorAll(".opblock.is-open .responses-table tr.response").length > 0`)
		if text := eval[string](b, `document.querySelector(".opblock.is-open").innerText`); regexp.MustCompile(`Could not resolve|\$ref`).MatchString(text) {
			t.Errorf("%s: an operation shows %s", document, text)
		}
	}
	b.quiet(base)
}

// A reader types a key in and tries an operation out, and sees the node's answer: the page's policy lets it ask its own
// node, and the documents name no other. The key is gone with the page.
func TestDocs_TryItOut(t *testing.T) {
	d := suite.Shared(t)
	base := d.Node().APIURL
	b := open(t)
	b.goTo(base + "/docs/?document=stack-b")
	b.until(`document.querySelector("#operations-models-models .opblock-summary-control") !== null`)
	click := func(selector string) {
		t.Helper()
		b.until(`document.querySelector("` + selector + `") !== null`)
		eval[bool](b, `document.querySelector("`+selector+`").click() || true`)
	}
	click(".btn.authorize")
	b.until(`document.querySelector(".modal-ux input") !== null`)
	eval[bool](b, `(() => {
		const field = document.querySelector(".modal-ux input");
		Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, "`+d.Key(t, "tnt_demo", "tenant_user")+`");
		return field.dispatchEvent(new Event("input", {bubbles: true}));
	})()`)
	click(".modal-ux .btn.authorize")
	click(".modal-ux .btn-done")
	click("#operations-models-models .opblock-summary-control")
	click("#operations-models-models .try-out__btn")
	click("#operations-models-models .execute")
	b.until(`document.querySelector("#operations-models-models .live-responses-table .response-col_status") !== null`)
	answer := eval[string](b, `document.querySelector("#operations-models-models .live-responses-table").innerText`)
	if !strings.Contains(answer, "200") || !strings.Contains(answer, "builtin/echo-1") {
		t.Errorf("trying it out shows %s", answer)
	}
	if kept := eval[int](b, `localStorage.length + sessionStorage.length + document.cookie.length`); kept != 0 {
		t.Errorf("the page keeps %d things", kept)
	}
	b.quiet(base)
}
