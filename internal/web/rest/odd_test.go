package rest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/access"
)

// odd are values for which nobody is prepared, unless they are.
var odd = []string{
	"", "\x00", "a\x00b", "\xff\xfe", "..", "../..", "%", "%00", "'", "' OR 1=1 --", "\"", "é", "٣", "-1", "0", "9223372036854775807",
	"9223372036854775808", "1e400", "null", "=", "a=", "=b", "a=b=c", strings.Repeat("x", 64), strings.Repeat("x", 5000), "0x", "::",
	"ffffffffffffffff", "0000000000000001", "local:", "\u202e", "a\nb", "bmt_x", "2026-11-22", "[]", "{}",
}

// parameters lists the query parameters of an operation.
func parameters(t *testing.T, w *world) map[string][]string {
	t.Helper()
	text, err := w.api.OpenAPI()
	must(t, err)
	var d struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name, In string }
		}
	}
	must(t, json.Unmarshal(text, &d))
	names := map[string][]string{}
	for path, operations := range d.Paths {
		for method, o := range operations {
			for _, p := range o.Parameters {
				if p.In == "query" {
					key := strings.ToUpper(method) + " " + path
					names[key] = append(names[key], p.Name)
				}
			}
		}
	}
	if len(names) < 3 {
		t.Fatalf("%d operations have query parameters", len(names))
	}
	return names
}

// Whatever a caller who may do everything puts into paths, parameters and
// bodies: it is done or refused, but never an error of ours.
func TestOddValues(t *testing.T) {
	w := newWorld(t)
	w.Enrolled(t, "sensor", "SN-1")
	token := w.token(t, access.Everything(), access.Actions()...)
	ask := func(method, target, body string) {
		t.Helper()
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("User", "alice")
		answer := httptest.NewRecorder()
		l := w.network
		if strings.Contains(body, "root_passphrase") {
			l = w.local
		}
		l.ServeHTTP(answer, r)
		if answer.Code < 500 {
			return
		}
		log := l.Log.String()
		t.Errorf("%s %.200s %.200q: %d %s\n%.2000s", method, target, body, answer.Code, answer.Body, log[max(0, len(log)-2000):])
	}
	asks := parameters(t, w)
	bodies := []string{"", "null", "[]", "1", `""`, "{", "{}", `{"":0}`, `{"a":{"b":[{}]}}`, strings.Repeat("[", 10000), `{"name":` + strings.Repeat("9", 5000) + `}`}
	for _, value := range odd {
		quoted, err := json.Marshal(value)
		must(t, err)
		v := string(quoted)
		bodies = append(
			bodies,
			`{"devices":[{"serial":`+v+`,"product":"sensor"}]}`, `{"devices":[{"serial":"ODD","product":`+v+`}]}`,
			`{"devices":[{"serial":"ODD","product":"sensor","region":`+v+`,"labels":{`+v+`:`+v+`}}]}`,
			`{"labels":{`+v+`:`+v+`}}`, `{"state":`+v+`}`, `{"reason":`+v+`}`, `{"name":`+v+`,"profiles":[`+v+`],"description":`+v+`,"part_numbers":[`+v+`]}`,
			`{"text":`+v+`}`, `{"name":`+v+`,"profile":`+v+`,"purpose":`+v+`}`, `{"name":`+v+`,"actions":[`+v+`],"products":[`+v+`],"days":1}`,
			`{"name":`+v+`,"roles":[`+v+`],"products":[`+v+`]}`, `{"approve":true,"reason":`+v+`}`, `{"policy":`+v+`}`, `{"bundle":`+v+`,"signer":`+v+`}`,
			`{"bundle":`+v+`,"signer":"`+strings.Repeat("0", 64)+`"}`, `{"checkpoint":`+v+`}`,
			`{"root":`+v+`,"root_passphrase":`+v+`,"name":`+v+`,"csr":`+v+`,"key_type":`+v+`,"key":`+v+`,"hardware":{"model":`+v+`}}`,
		)
	}
	for _, row := range w.api.Rows() {
		if row.Path == "/api/v1/authorities/import" || row.Path == "/api/v1/system/backup" {
			continue // of this test's own making
		}
		ask(row.Method, fill.Replace(row.Path), "")
		for _, value := range odd {
			path := row.Path
			for path != "" && strings.Contains(path, "{") {
				before, rest, _ := strings.Cut(path, "{")
				_, after, _ := strings.Cut(rest, "}")
				path = before + url.PathEscape(value) + after
			}
			if path != row.Path {
				ask(row.Method, path, "")
			}
			for _, name := range asks[row.Method+" "+row.Path] {
				ask(row.Method, fill.Replace(row.Path)+"?"+url.Values{name: {value}}.Encode(), "")
			}
		}
		if row.Method == http.MethodGet || row.Method == http.MethodDelete {
			continue
		}
		for _, body := range bodies {
			if row.LocalOnly == strings.Contains(body, "root_passphrase") {
				ask(row.Method, strings.ReplaceAll(fill.Replace(row.Path), "66AA", "77"), body)
			}
		}
	}
	for _, status := range []string{"200", "201", "400", "404", "409"} {
		if w.network.Count(t, "birthmark_http_requests_total", status) == 0 {
			t.Errorf("nothing came to %s", status)
		}
	}
}
