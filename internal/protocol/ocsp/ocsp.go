// Package ocsp serves revocation status over HTTP: OCSP by POST and GET (RFC
// 6960, RFC 5019, RFC 9654), CRLs and the certificates of our authorities. The
// GET form is taken from the raw request target, since base64 has slashes that
// routers like to clean. Answers come signed from package status; here they
// only get their caching headers.
package ocsp

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// Prefix is where OCSP answers; the authority's name follows, and for GET the
// request. The name is for people and caches: the request itself names the
// issuer.
const Prefix = "/ocsp/"

// MaxBody is the largest OCSP request, in octets.
const MaxBody = 16 << 10

// maxTarget is the largest GET target that is looked at (RFC 6960, appendix
// A.1, wants requests of up to 255 octets by GET).
const maxTarget = 8 << 10

// Source is what the handlers need of package status.
type Source interface {
	Answer(ctx context.Context, request []byte) (*status.Answer, error)
	CRL(ctx context.Context, name string, shard int) (*status.CRL, error)
}

// Authorities gives the certificates that are served.
type Authorities interface {
	Snapshot(ctx context.Context) (*authority.Snapshot, error)
}

// Handlers are the operations as functions of request and body, to be put into
// the status listener's route table.
type Handlers struct {
	source      Source
	authorities Authorities
	now         func() time.Time
}

// New returns the handlers.
func New(source Source, authorities Authorities, now func() time.Time) *Handlers {
	return &Handlers{source: source, authorities: authorities, now: now}
}

// Post answers OCSP by POST. The content type is not held against anyone: the
// body is an OCSPRequest or it is not.
func (h *Handlers) Post(w http.ResponseWriter, r *http.Request, body []byte) error {
	a, err := h.source.Answer(r.Context(), body)
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = contentType
	header["Content-Length"] = []string{strconv.Itoa(len(a.DER))}
	_, _ = w.Write(a.DER) // the peer is gone; it may ask again
	return nil
}

var contentType = []string{"application/ocsp-response"}

// Get answers OCSP by GET: base64 of the request behind the authority's name,
// percent-encoded or not (RFC 5019, section 5).
func (h *Handlers) Get(w http.ResponseWriter, r *http.Request, _ []byte) error {
	der, err := decodeTarget(r.RequestURI)
	if err != nil {
		return err
	}
	a, err := h.source.Answer(r.Context(), der)
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = contentType
	header["Last-Modified"] = []string{a.ThisUpdate.UTC().Format(http.TimeFormat)}
	header["Expires"] = []string{a.NextUpdate.UTC().Format(http.TimeFormat)}
	header["Etag"] = []string{a.ETag}
	header["Cache-Control"] = []string{cacheControl(h.maxAge(a))}
	if unchanged(r, a.ETag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header["Content-Length"] = []string{strconv.Itoa(len(a.DER))}
	_, _ = w.Write(a.DER) // the peer is gone; it may ask again
	return nil
}

// maxAge is how long caches may keep an answer: never beyond its nextUpdate.
func (h *Handlers) maxAge(a *status.Answer) time.Duration {
	return max(0, min(a.MaxAge, a.NextUpdate.Sub(h.now())))
}

// unchanged reports whether the asker has what it would get (RFC 9110, section
// 13.1.2: any of a list, weak or not, or whatever there is).
func unchanged(r *http.Request, etag string) bool {
	for _, field := range r.Header["If-None-Match"] {
		for tag := range strings.SplitSeq(field, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
				return true
			}
		}
	}
	return false
}

func cacheControl(age time.Duration) string {
	if age <= 0 {
		return "no-store"
	}
	return "max-age=" + strconv.Itoa(int(age/time.Second)) + ", public, no-transform, must-revalidate"
}

// decodeTarget takes the request out of the raw target "/ocsp/NAME/BASE64". Of
// the base64, "+" may stand for itself, percent-encoded or (wrongly, but seen)
// as a blank, and doubled slashes count.
func decodeTarget(target string) ([]byte, error) {
	malformed := fault.New(fault.OCSPMalformed)
	rest, ok := strings.CutPrefix(target, Prefix)
	if !ok || len(target) > maxTarget {
		return nil, malformed
	}
	_, text, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, malformed
	}
	text, err := url.PathUnescape(text)
	if err != nil {
		return nil, malformed
	}
	text = strings.TrimRight(strings.ReplaceAll(text, " ", "+"), "=")
	der, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, malformed
	}
	return der, nil
}

// The OCSPResponseStatus of a refusal (RFC 6960, section 4.2.1): malformed 1,
// internal error 2, try later 3, unauthorized 6. Each is a whole OCSPResponse
// of five octets.
func refusal(f *fault.Error) []byte {
	state := byte(2)
	switch {
	case f.Code == fault.OCSPUnauthorized:
		state = 6
	case f.Kind == fault.Invalid:
		state = 1
	case f.Kind == fault.Unavailable || f.Kind == fault.Exhausted:
		state = 3
	}
	return []byte{0x30, 0x03, 0x0a, 0x01, state}
}

// WriteFault renders a refusal in OCSP's own form. It goes out with 200, since
// clients look into the answer only then (RFC 6960, appendix A.2).
func WriteFault(w http.ResponseWriter, _ int, f *fault.Error) {
	body := refusal(f)
	header := w.Header()
	header["Content-Type"] = contentType
	header["Cache-Control"] = []string{"no-store"}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // the peer is gone
}

// CRL serves "/crl/NAME/SHARD.crl".
func (h *Handlers) CRL(w http.ResponseWriter, r *http.Request, _ []byte) error {
	text, ok := strings.CutSuffix(r.PathValue("shard"), ".crl")
	shard, err := strconv.Atoi(text)
	if !ok || err != nil || text != strconv.Itoa(shard) { // one address for one list
		return fault.New(fault.CRLUnknown)
	}
	return h.crl(w, r, r.PathValue("issuer"), shard)
}

// WholeCRL serves "/crl/NAME.crl", the first shard, for people and for
// authorities with one.
func (h *Handlers) WholeCRL(w http.ResponseWriter, r *http.Request, _ []byte) error {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".crl")
	if !ok {
		return fault.New(fault.CRLUnknown)
	}
	return h.crl(w, r, name, 0)
}

func (h *Handlers) crl(w http.ResponseWriter, r *http.Request, name string, shard int) error {
	c, err := h.source.CRL(r.Context(), name, shard)
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/pkix-crl")
	header.Set("ETag", `"`+strconv.FormatInt(c.Number, 10)+`"`)
	header.Set("Last-Modified", c.ThisUpdate.UTC().Format(http.TimeFormat))
	header.Set("Expires", c.NextUpdate.UTC().Format(http.TimeFormat))
	header.Set("Cache-Control", cacheControl(max(0, min(crlMaxAge, c.NextUpdate.Sub(h.now())))))
	if unchanged(r, header.Get("ETag")) || unchangedSince(r, c.ThisUpdate) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	header.Set("Content-Length", strconv.Itoa(len(c.DER)))
	_, _ = w.Write(c.DER) // the peer is gone; it may ask again
	return nil
}

// unchangedSince is for clients that remember dates only; a tag goes before
// (RFC 9110, section 13.1.3). No two lists begin in the same second.
func unchangedSince(r *http.Request, at time.Time) bool {
	if r.Header.Get("If-None-Match") != "" {
		return false
	}
	since, err := http.ParseTime(r.Header.Get("If-Modified-Since"))
	return err == nil && !at.Truncate(time.Second).After(since)
}

// crlMaxAge keeps caches within the promise that a revocation is in the CRL
// that is served after 60 s.
const crlMaxAge = 30 * time.Second

// Authority serves "/ca/NAME.cer": an authority's certificate as DER.
func (h *Handlers) Authority(w http.ResponseWriter, r *http.Request, _ []byte) error {
	name, ok := strings.CutSuffix(r.PathValue("file"), ".cer")
	if !ok {
		return fault.New(fault.AuthorityUnknown)
	}
	plane, err := h.authorities.Snapshot(r.Context())
	if err != nil {
		return err
	}
	m, err := plane.Authority(name)
	if err != nil || m.Certificate == nil {
		return fault.New(fault.AuthorityUnknown)
	}
	header := w.Header()
	header.Set("Content-Type", "application/pkix-cert")
	header.Set("Cache-Control", "public, max-age=3600")
	header.Set("Content-Length", strconv.Itoa(len(m.Certificate)))
	_, _ = w.Write(m.Certificate) // the peer is gone
	return nil
}
