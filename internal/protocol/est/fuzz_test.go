package est_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/protocol/est"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// FuzzEnroll sends whatever to the operations, with whatever credentials. No
// answer is an error of ours, every refusal says why, and only a device that
// shows its secret gets a certificate.
func FuzzEnroll(f *testing.F) {
	w := newWorld(f, server.DefaultLimits())
	d := w.Device(f, "sensor", "FUZZ-1")
	der := webtest.NewCSR(f, webtest.NewKey(f), nil)
	for _, body := range [][]byte{nil, der, based(der), []byte(wrapped(string(based(der)), 64, "\r\n"))} {
		f.Add(body, "application/pkcs10", "", "FUZZ-1", d.Secret)
		f.Add(body, "application/pkcs10; a=b", "lines", "FUZZ-1", "wrong")
		f.Add(body, "", "%2f..", "nobody:", "\x00")
	}
	for _, h := range hostileCases(f) {
		for _, body := range h.bodies(f) {
			if len(body) < 4096 {
				f.Add(body, "application/pkcs10", "", "FUZZ-1", d.Secret)
			}
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, contentType, label, user, password string) {
		for _, operation := range []string{"simpleenroll", "simplereenroll"} {
			r := httptest.NewRequest(http.MethodPost, est.Prefix+operation, bytes.NewReader(body))
			if label != "" {
				r.URL.Path = est.Prefix + label + "/" + operation
			}
			r.Header.Set("Content-Type", contentType)
			r.SetBasicAuth(user, password)
			answer := httptest.NewRecorder()
			w.ServeHTTP(answer, r)
			switch {
			case answer.Code == http.StatusOK:
				if operation != "simpleenroll" || user != "FUZZ-1" || password != d.Secret {
					t.Fatalf("%s issued to %q", operation, user)
				}
			case answer.Code < 400 || answer.Code > 499:
				t.Fatalf("%s: %d %s", operation, answer.Code, answer.Body)
			case answer.Header().Get("Content-Type") == "text/plain; charset=utf-8" && !strings.HasPrefix(answer.Body.String(), "BM-"):
				t.Fatalf("%s: %s", operation, answer.Body)
			}
		}
	})
}

// FuzzBasic takes any Authorization: nobody gets in without the secret.
func FuzzBasic(f *testing.F) {
	w := newWorld(f, server.DefaultLimits())
	d := w.Device(f, "sensor", "FUZZ-2")
	body := based(webtest.NewCSR(f, webtest.NewKey(f), nil))
	for _, value := range []string{"", "Basic", "Basic ", "Basic ====", "basic U04tMTo=", "Bearer x", "Basic \x00", "Digest username=\"x\""} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		r := httptest.NewRequest(http.MethodPost, est.Prefix+"simpleenroll", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/pkcs10")
		r.Header["Authorization"] = []string{value}
		answer := httptest.NewRecorder()
		w.ServeHTTP(answer, r)
		if _, password, _ := r.BasicAuth(); answer.Code != http.StatusUnauthorized && password != d.Secret {
			t.Fatalf("%q: %d %s", value, answer.Code, answer.Body)
		}
	})
}
