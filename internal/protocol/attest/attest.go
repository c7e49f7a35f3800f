// Package attest lets devices prove their keys with a TPM 2.0 (package format/tpm
// has the messages): one request for challenges, one for certificates with what the
// TPM made of them. Both are streams of JSON objects, one to a line, and each item
// has its own outcome; what one item gets wrong never ends the others. It
// translates and decides nothing: package enroll does.
//
// The device is known by the certificate of its connection or by HTTP Basic with
// its one-time secret, as in EST. A stranger is refused before anything is read.
package attest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/enroll"
)

// Enroller is the one road to a certificate, as devices with a TPM use it.
// Contracts as in package enroll.
type Enroller interface {
	// Known judges who asks and decides nothing.
	Known(ctx context.Context, r enroll.Requester) error
	Challenge(ctx context.Context, r enroll.ChallengeRequest) (*tpm.Challenge, error)
	Enroll(ctx context.Context, r enroll.Request) (*enroll.Response, error)
}

// Config names what the handlers need. All but Refused are required.
type Config struct {
	Enroller Enroller
	Logger   *slog.Logger
	// Refused is told of each refused item, for counters.
	Refused func(fault.Code)
}

// Handlers are the operations, to be put into the device listener's table.
type Handlers struct {
	enroller Enroller
	log      *slog.Logger
	count    func(fault.Code)
}

// New returns the handlers.
func New(c Config) (*Handlers, error) {
	if c.Enroller == nil || c.Logger == nil {
		return nil, errors.New("attest: enroller and logger are required")
	}
	if c.Refused == nil {
		c.Refused = func(fault.Code) {}
	}
	return &Handlers{enroller: c.Enroller, log: c.Logger, count: c.Refused}, nil
}

// LinesType is the media type of a stream of JSON objects.
const LinesType = "application/x-ndjson"

const (
	// MaxItems is how many items one request carries: the keys of one device.
	MaxItems = 64
	maxBody  = 16 << 20
	// idle is how long a stream may say nothing.
	idle = 30 * time.Second
	// sendTime is how long a device may take to accept an answer.
	sendTime = 30 * time.Second
)

// Operation is a row of the device listener's table.
type Operation struct {
	Method, Path string
	Action       access.Action
	MaxBody      int64
	Stream       time.Duration
	Handler      func(w http.ResponseWriter, r *http.Request, body []byte) error
}

// Operations returns the table's rows.
func (h *Handlers) Operations() []Operation {
	return []Operation{
		{http.MethodPost, tpm.ChallengePath, access.Enroll, maxBody, idle, h.Challenge},
		{http.MethodPost, tpm.EnrollPath, access.Enroll, maxBody, idle, h.Enroll},
	}
}

// Challenge answers each claim with what only the claimed TPM can answer.
func (h *Handlers) Challenge(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, by enroll.Requester, in []byte, out *tpm.Result) error {
		var q tpm.ChallengeRequest
		err := decode(in, &q)
		out.ID = q.ID
		if err != nil {
			return err
		}
		out.Challenge, err = h.enroller.Challenge(ctx, enroll.ChallengeRequest{
			Requester: by, Label: q.Label, Claim: q.Claim, RemoteAddress: r.RemoteAddr,
		})
		return err
	})
}

// Enroll answers each answered challenge with a certificate.
func (h *Handlers) Enroll(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, by enroll.Requester, in []byte, out *tpm.Result) error {
		var q tpm.EnrollRequest
		err := decode(in, &q)
		out.ID = q.ID
		if err != nil {
			return err
		}
		answer, err := h.enroller.Enroll(ctx, enroll.Request{
			Operation: enroll.Enroll, Requester: by, Label: q.Label, CSR: q.CSR, TPM: &q.Answer, RemoteAddress: r.RemoteAddr,
		})
		if err != nil {
			return waiting(err)
		}
		out.Certificate, out.Chain, out.Replayed = answer.Credential.DER, answer.Chain, answer.Replayed
		return nil
	})
}

// waiting makes a request that waits for an operator a refusal that may be lifted.
func waiting(err error) error {
	if w, ok := errors.AsType[*enroll.Waiting](err); ok {
		return fault.New(fault.ApprovalWaiting, "ask again in", w.RetryAfter, "with a new challenge")
	}
	return err
}

// items answers the lines of a device one after the other, each answer as soon as
// it is there.
func (h *Handlers) items(w http.ResponseWriter, r *http.Request, do func(context.Context, enroll.Requester, []byte, *tpm.Result) error) error {
	by := requester(r)
	if err := h.enroller.Known(r.Context(), by); err != nil {
		return err
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != LinesType {
		return fault.New(fault.ContentTypeWrong, "want", LinesType)
	}
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		w.WriteHeader(http.StatusContinue) // once the answer has begun it could not be said any more
	}
	w.Header()["Content-Type"] = []string{LinesType}
	w.Header()["Cache-Control"] = []string{"no-store"}
	out := &answers{w: w, control: http.NewResponseController(w)}
	if err := out.flush(); err != nil { // a device may wait for the headers before it sends
		return http.ErrAbortHandler
	}
	in := newLines(r.Body)
	for n := 0; ; n++ {
		text, err := in.next()
		if text == nil && err != nil {
			return in.ended(err)
		}
		if n == MaxItems && err == nil {
			err = fault.New(fault.RequestTooLarge, "more than", MaxItems, "items")
		}
		result := h.outcome(func(out *tpm.Result) error {
			if err != nil {
				return err
			}
			return do(r.Context(), by, text, out)
		})
		if out.send(&result) != nil {
			return http.ErrAbortHandler
		}
		if err != nil { // what follows would not be lines
			return nil
		}
	}
}

// outcome is the result of one item; what the work on it panics with is a refusal
// of this item alone.
func (h *Handlers) outcome(do func(*tpm.Result) error) (result tpm.Result) {
	defer func() {
		if p := recover(); p != nil {
			h.refuse(&result, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	if err := do(&result); err != nil {
		h.refuse(&result, err)
		return result
	}
	result.OK = true
	return result
}

// refuse makes result the refusal that err is. What went wrong on our side is
// logged under a number that the device can quote.
func (h *Handlers) refuse(result *tpm.Result, err error) {
	f := fault.Of(err)
	if f.Kind == fault.Internal {
		id := rand.Text()[:12]
		h.log.Error("an item of a device", "request_id", id, "fault", f.Code.String(), "error", err, "cause", errors.Unwrap(f))
		f = fault.New(f.Code, "request", id)
	}
	h.count(f.Code)
	*result = tpm.Result{
		ID: result.ID, Code: f.Code.String(), Kind: f.Kind.String(), Message: f.Message, Detail: f.Detail, Remedy: f.Remedy,
	}
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

// decode reads one JSON object. Members that are not known are left alone: a device
// may be newer than its server.
func decode(in []byte, out any) error {
	if err := json.Unmarshal(in, out); err != nil {
		return fault.Wrap(fault.RequestMalformed, err, "not the one JSON object that belongs here")
	}
	return nil
}
