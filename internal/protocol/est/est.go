// Package est speaks Enrollment over Secure Transport (RFC 7030, with the
// clarifications of RFC 8951 and RFC 9908). It turns HTTP requests into
// enroll.Request and answers into base64; it decides nothing. Two popular
// clients want opposite base64, one only with line breaks and one only without,
// so the label of a request also says how replies are wrapped.
package est

import (
	"context"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/pki/cms"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// Prefix is where EST lives on a server (RFC 7030, section 3.2.2). A label may
// follow it.
const Prefix = "/.well-known/est/"

// MaxBody is the largest request body that is read, in octets: an RSA-4096
// request with attributes in base64 stays far below.
const MaxBody = request.MaxBody

// Handlers are the operations as functions of request and body, to be put into
// the device listener's route table. Path values: "label", empty for none.
// They return faults; WriteFault renders them.
type Handlers struct {
	service Service
	now     func() time.Time
}

// Service is the one road to a certificate, as EST uses it. Contracts as in package
// enroll.
type Service interface {
	enroll.Service
	// Known judges who asks and decides nothing.
	Known(ctx context.Context, who enroll.Requester) error
	AttestNonce(ctx context.Context, who enroll.Requester) (nonce []byte, expires time.Time, err error)
	Challenge(ctx context.Context, r enroll.ChallengeRequest) (*tpm.Challenge, error)
}

// New returns the handlers over the one road.
func New(service Service) *Handlers { return &Handlers{service: service, now: time.Now} }

const certsOnly = "application/pkcs7-mime; smime-type=certs-only"

// CACerts answers /cacerts: the label's authorities (RFC 7030, section 4.1).
func (h *Handlers) CACerts(w http.ResponseWriter, r *http.Request, _ []byte) error {
	certs, wrap, err := h.service.Authorities(r.Context(), r.PathValue("label"))
	if err != nil {
		return err
	}
	write(w, certsOnly, cms.CertsOnly(certs...), wrap)
	return nil
}

// CSRAttrs answers /csrattrs: what the profile wants to see in a request (RFC
// 8951, section 4).
func (h *Handlers) CSRAttrs(w http.ResponseWriter, r *http.Request, _ []byte) error {
	der, wrap, err := h.service.Attributes(r.Context(), r.PathValue("label"), requester(r))
	if err != nil {
		return err
	}
	write(w, "application/csrattrs", der, wrap)
	return nil
}

// SimpleEnroll answers /simpleenroll (RFC 7030, section 4.2.1).
func (h *Handlers) SimpleEnroll(w http.ResponseWriter, r *http.Request, body []byte) error {
	return h.enroll(w, r, body, enroll.Enroll)
}

// SimpleReenroll answers /simplereenroll (RFC 7030, section 4.2.2).
func (h *Handlers) SimpleReenroll(w http.ResponseWriter, r *http.Request, body []byte) error {
	return h.enroll(w, r, body, enroll.Reenroll)
}

// ServerKeyGen answers /serverkeygen (RFC 7030, section 4.4): a key that we make,
// and its certificate.
func (h *Handlers) ServerKeyGen(w http.ResponseWriter, r *http.Request, body []byte) error {
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return err
	}
	csr, err := request.Decode(body)
	if err != nil {
		return err
	}
	answer, err := h.service.EnrollServerKey(r.Context(), enroll.Request{
		Operation: enroll.Enroll, Requester: requester(r), Label: r.PathValue("label"), CSR: csr, RemoteAddress: r.RemoteAddr,
	})
	if waiting, ok := errors.AsType[*enroll.Waiting](err); ok {
		writeWaiting(w, waiting)
		return nil
	}
	if err != nil {
		return err
	}
	defer answer.Erase()
	writeKey(w, answer)
	return nil
}

func (h *Handlers) enroll(w http.ResponseWriter, r *http.Request, body []byte, op enroll.Operation) error {
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return err
	}
	csr, err := request.Decode(body)
	if err != nil {
		return err
	}
	shown, err := evidence(csr)
	if err != nil {
		return err
	}
	return h.enrollAs(w, r, op, csr, shown)
}

// enrollAs sends a request down the road and its certificate back.
func (h *Handlers) enrollAs(w http.ResponseWriter, r *http.Request, op enroll.Operation, csr []byte, shown *enroll.Attestation) error {
	answer, err := h.service.Enroll(r.Context(), enroll.Request{
		Operation: op, Requester: requester(r), Label: r.PathValue("label"), CSR: csr, Attestation: shown, RemoteAddress: r.RemoteAddr,
	})
	if waiting, ok := errors.AsType[*enroll.Waiting](err); ok {
		writeWaiting(w, waiting)
		return nil
	}
	if err != nil {
		return err
	}
	// RFC 7030, section 4.2.3: the issued certificate alone; the chain is what
	// /cacerts is for.
	write(w, certsOnly, cms.CertsOnly(answer.Credential.DER), answer.Wrap)
	return nil
}

// checkContentType wants application/pkcs10, with or without parameters.
// Content-Transfer-Encoding is ignored (RFC 8951, section 2.1).
func checkContentType(value string) error {
	if value == "application/pkcs10" {
		return nil
	}
	if t, _, err := mime.ParseMediaType(value); err != nil || t != "application/pkcs10" {
		return fault.New(fault.ContentTypeWrong)
	}
	return nil
}

// requester collects what the transport knows of who asks; enroll judges it.
func requester(r *http.Request) enroll.Requester {
	var q enroll.Requester
	if r.TLS != nil {
		q.Chain = r.TLS.PeerCertificates
	}
	if user, password, ok := r.BasicAuth(); ok {
		q.DeviceSerial, q.Secret = user, []byte(password)
	}
	return q
}

// write sends the DER as base64 with its length, in one piece: strongSwan's
// client reads a reply in at most two records. The transfer encoding header is
// for older clients only (RFC 8951, section 2.1: to be ignored).
func write(w http.ResponseWriter, contentType string, der []byte, wrap int) {
	body := encode(der, wrap)
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Transfer-Encoding"] = []string{"base64"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // the peer is gone: the certificate is on record and the request can be repeated
}

// encode renders base64, in lines of wrap characters if wrap is positive.
func encode(der []byte, wrap int) []byte {
	n := base64.StdEncoding.EncodedLen(len(der))
	if wrap <= 0 {
		out := make([]byte, n)
		base64.StdEncoding.Encode(out, der)
		return out
	}
	flat := make([]byte, n)
	base64.StdEncoding.Encode(flat, der)
	out := make([]byte, 0, n+n/wrap+1)
	for len(flat) > 0 {
		line := flat[:min(wrap, len(flat))]
		out = append(append(out, line...), '\n')
		flat = flat[len(line):]
	}
	return out
}

// writeWaiting answers 202 while an approval is outstanding (RFC 7030, section
// 4.2.3). Retry-After in seconds.
func writeWaiting(w http.ResponseWriter, waiting *enroll.Waiting) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(waiting.RetryAfter/time.Second))))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
}

// WriteFault renders a refusal as EST clients print it: a line of text with
// code, message and remedy. Status comes from the listener's table.
func WriteFault(w http.ResponseWriter, status int, f *fault.Error) {
	body := f.Error() + "\n" + f.Remedy + "\n"
	h := w.Header()
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	if status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{`Basic realm="device serial and one-time secret", charset="UTF-8"`}
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
