package rest_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/web/rest"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

var update = flag.Bool("update", false, "write api/openapi.json")

// golden shows every change of the API in review.
const golden = "../../../api/openapi.json"

var infoVersion = regexp.MustCompile(`"version": "[^"]*"`)

func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	got, err := w.api.OpenAPI()
	must(t, err)
	got = infoVersion.ReplaceAll(got, []byte(`"version": "development"`)) // the release's; all else is the API's
	if *update {
		must(t, os.WriteFile(golden, append(got, '\n'), 0o644))
		return
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), string(got)+"\n"); diff != "" {
		t.Errorf("api/openapi.json is not what `go test ./internal/web/rest -update` writes (-want +got):\n%s", diff)
	}
}

func TestAPI(t *testing.T) {
	w := newWorld(t)
	description, err := w.api.OpenAPI()
	must(t, err)
	s := &webtest.Script{
		Network: "tcp", Address: w.network.Address,
		Vars:   map[string]string{"root": w.token(t, access.Everything(), access.Actions()...)},
		Bodies: map[string][]byte{"openapi": description},
		Acts: map[string]func(*testing.T, *webtest.Script, []string){
			"enrolled": w.actEnrolled, "devices": w.actDevices,
			"scope": func(t *testing.T, s *webtest.Script, _ []string) {
				all, err := w.Store.Products(t.Context(), access.Everything())
				must(t, err)
				for _, p := range all {
					if p.Name == "meter" {
						s.Vars["meter"] = w.token(t, access.Limited([]int64{p.ID}, nil, nil), access.Actions()...)
					}
				}
			},
		},
	}
	s.Run(t, "testdata/api.txt")
	log := w.network.Log.String()
	if !strings.Contains(log, "fault=BM-2002") || w.network.Count(t, "birthmark_refusals_total", "BM-2002") != 1 {
		t.Error("a refusal of the API is not in log and counters")
	}
	if !strings.Contains(log, "the key of the mint") || !strings.Contains(log, "request_id=") {
		t.Error("the cause of an internal error is not in the log")
	}
	for _, secret := range []string{"canary7391", "bmt_", s.Vars["root"]} {
		if strings.Contains(log, secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
}

func TestLocalAPI(t *testing.T) {
	w := newWorld(t)
	s := &webtest.Script{
		Network: "tcp", Address: w.local.Address, Vars: map[string]string{"passphrase": webtest.RootPassphrase},
	}
	s.Run(t, "testdata/local.txt")
	log := w.local.Log.String()
	if strings.Contains(log, "canary7391") || strings.Contains(log, webtest.RootPassphrase) {
		t.Error("a passphrase is in the log")
	}
}

// fill replaces the names in a path by something that could be there.
var fill = strings.NewReplacer("{device}", "SN-1", "{serial}", "66AA", "{name}", "x", "{id}", "77", "{index}", "1",
	"{number}", "PO-1", "{uid}", "0123")

// Each operation is open to exactly those roles and tokens that hold its
// action. Whoever may gets past the gate, whatever comes then.
func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld(t)
	alice, err := w.Access.LocalCaller(t.Context(), "alice")
	must(t, err)
	for _, role := range access.Roles() {
		must(t, w.Access.AddOperator(t.Context(), alice, access.Operator{Name: "local:" + string(role), Roles: []string{string(role)}, All: true}))
	}
	tokens := map[access.Action]string{}
	for _, action := range access.Actions() {
		tokens[action] = w.token(t, access.Everything(), action)
	}
	rows := w.api.Rows()
	if len(rows) < 30 {
		t.Fatalf("only %d operations", len(rows))
	}
	for _, row := range rows {
		known := false
		for _, action := range access.Actions() {
			known = known || action == row.Action
		}
		if !known {
			t.Errorf("%s %s: action %q is none", row.Method, row.Path, row.Action)
		}
		ask := func(l *webtest.Listener, header, value string) int {
			r := httptest.NewRequest(row.Method, fill.Replace(row.Path), http.NoBody)
			r.Header.Set(header, value)
			answer := httptest.NewRecorder()
			l.ServeHTTP(answer, r)
			if answer.Code >= 500 {
				t.Errorf("%s %s: %d %s", row.Method, row.Path, answer.Code, answer.Body)
			}
			if answer.Code == http.StatusForbidden && !strings.Contains(answer.Body.String(), fault.NotAllowed.String()) {
				return http.StatusOK // past the gate: what was asked for is refused for what it is
			}
			return answer.Code
		}
		for _, role := range access.Roles() {
			actions, _ := access.ActionsOf(role)
			may := false
			for _, a := range actions {
				may = may || a == row.Action
			}
			if code := ask(w.local, "User", string(role)); may != (code != http.StatusForbidden) {
				t.Errorf("%s %s by %s: %d", row.Method, row.Path, role, code)
			}
		}
		for action, token := range tokens {
			code := ask(w.network, "Authorization", "Bearer "+token)
			if row.LocalOnly {
				if code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
					t.Errorf("%s %s on the network: %d", row.Method, row.Path, code)
				}
				continue
			}
			if may := action == row.Action; may != (code != http.StatusForbidden) {
				t.Errorf("%s %s by a token for %s: %d", row.Method, row.Path, action, code)
			}
		}
	}
}

func TestRootPassphrasesAreLocal(t *testing.T) {
	w := newWorld(t)
	description, err := w.api.OpenAPI()
	must(t, err)
	if !bytes.Contains(description, []byte("root_passphrase")) {
		t.Fatal("the description names the field otherwise")
	}
	local := 0
	for _, row := range w.api.Rows() {
		if row.LocalOnly {
			local++
		}
	}
	// Each schema that holds a passphrase belongs to an operation of its own.
	if n := bytes.Count(description, []byte(`"root_passphrase": {`)); n > local {
		t.Errorf("%d bodies hold a root's passphrase, %d operations are local", n, local)
	}
}

func TestBackupStreams(t *testing.T) {
	w := newWorld(t)
	token := w.token(t, access.Everything(), access.SystemManage)
	ask := func() (*http.Response, string, error) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.network.Address+"/api/v1/system/backup", nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, string(body), err
	}
	w.system.parts = []string{"one", "two"}
	if resp, body, err := ask(); err != nil || body != "onetwo" || resp.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%v %q %v", resp.Status, body, err)
	}
	w.system.parts, w.system.fail = nil, fault.New(fault.StoreUnavailable)
	if resp, body, _ := ask(); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "BM-7001") || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("nothing sent yet: %v %q", resp.Status, body)
	}
	w.system.parts = []string{strings.Repeat("x", 100<<10)}
	if _, body, err := ask(); err == nil {
		t.Errorf("a backup that broke off looks whole: %d octets", len(body))
	}
}

// The library's own refusals are entries of our table; it has one hook for
// that, in its package.
func TestRefusalsOfTheLibrary(t *testing.T) {
	newWorld(t)
	for status, want := range map[int]string{400: "BM-5033", 422: "BM-5033", 413: "BM-1002", 415: "BM-1004", 500: "BM-9999", 503: "BM-9999"} {
		err := huma.NewError(status, "canary", errors.New("a cause with canary7391"), &huma.ErrorDetail{Message: "wrong", Location: "body.x\x1b[2J" + strings.Repeat("y", 500), Value: "canary7391"})
		text, marshal := err.(interface{ MarshalJSON() ([]byte, error) }).MarshalJSON()
		must(t, marshal)
		if !bytes.Contains(text, []byte(want)) || bytes.Contains(text, []byte("canary7391")) || bytes.Contains(text, []byte("u001b")) || len(text) > 600 {
			t.Errorf("%d: %s", status, text)
		}
	}
}

func TestNewWantsEverything(t *testing.T) {
	if _, err := rest.New(rest.Config{}); err == nil {
		t.Error("an API without services")
	}
}
