// Package station answers the programs of the production line (package
// format/station has the messages). It reads lines, has each worked on by the
// one road to a certificate or by the factory's record, and sends each outcome
// as soon as it is there: a refused unit is the answer to that unit, never the
// end of the stream. Who asks is judged by the station's certificate, anew for
// each item, so that a station that is suspended stops at its next one.
package station

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Enroller is the one road to a certificate, as stations use it. Contracts as
// in package enroll.
type Enroller interface {
	Station(ctx context.Context, chain []*x509.Certificate) (*enroll.StationSession, error)
	EnrollStation(ctx context.Context, code string, csr []byte) (*enroll.StationResponse, error)
	RenewStation(ctx context.Context, s *enroll.StationSession, csr []byte) (*enroll.StationResponse, error)
	ChallengeUnit(ctx context.Context, s *enroll.StationSession, r *station.ChallengeRequest) (*tpm.Challenge, error)
	EnrollUnit(ctx context.Context, s *enroll.StationSession, u *station.Unit) (*enroll.UnitResponse, error)
}

// Factory is what stations ask of the factory's record besides certificates.
// Contracts as in factory.Service.
type Factory interface {
	Status(ctx context.Context, st factory.StationRef) (station.Status, error)
	DrawNonces(ctx context.Context, st factory.StationRef, q station.NoncesRequest) (station.Nonces, error)
	Confirm(ctx context.Context, st factory.StationRef, c *station.Confirm) error
	Scrap(ctx context.Context, st factory.StationRef, x *station.Scrap) error
	Failed(ctx context.Context, st factory.StationRef, f *station.Failed) error
	CountRefused(ctx context.Context, st factory.StationRef, orderNumber string, err error)
	CheckChips(ctx context.Context, st factory.StationRef, q station.ChipsRequest) ([]station.ChipAnswer, error)
}

// Config names what the handlers need. All but Refused are required.
type Config struct {
	Enroller Enroller
	Factory  Factory
	Logger   *slog.Logger
	// Refused is told of each refused item, for counters.
	Refused func(fault.Code)
}

// Handlers are the operations, to be put into the device listener's table.
type Handlers struct {
	enroller Enroller
	factory  Factory
	log      *slog.Logger
	count    func(fault.Code)

	mu   sync.Mutex
	busy map[place]int // guarded by mu
}

// place is something that a station may have a few of at once.
type place struct {
	station int64
	what    string
}

// New returns the handlers.
func New(c Config) (*Handlers, error) {
	if c.Enroller == nil || c.Factory == nil || c.Logger == nil {
		return nil, errors.New("station: enroller, factory and logger are required")
	}
	if c.Refused == nil {
		c.Refused = func(fault.Code) {}
	}
	return &Handlers{enroller: c.Enroller, factory: c.Factory, log: c.Logger, count: c.Refused}, nil
}

const (
	// maxBody is the largest body of an operation with one answer: a hundred chips,
	// or a certificate request.
	maxBody = 64 << 10
	// maxStream is the most that one stream carries: a full shift's units.
	maxStream = 8 << 30
	// maxStreams is how many streams a station may have at once.
	maxStreams = 64
	// idle is how long a stream may say nothing. Then it is closed in order, and
	// the station opens another when it has something to say.
	idle = 5 * time.Minute
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
	post := http.MethodPost
	return []Operation{
		{post, station.EnrollPath, access.Enroll, maxBody, 0, h.Enroll},
		{post, station.RenewPath, access.Station, maxBody, 0, h.Renew},
		{http.MethodGet, station.StatusPath, access.Station, 0, 0, h.Status},
		{post, station.NoncesPath, access.Station, maxBody, 0, h.Nonces},
		{post, station.ChipsPath, access.Station, maxBody, 0, h.Chips},
		{post, station.ChallengePath, access.Station, maxStream, idle, h.Challenge},
		{post, station.UnitsPath, access.Station, maxStream, idle, h.Units},
		{post, station.ConfirmPath, access.Station, maxStream, idle, h.Confirm},
		{post, station.ScrapPath, access.Station, maxStream, idle, h.Scrap},
		{post, station.FailedPath, access.Station, maxStream, idle, h.Failed},
	}
}

// session judges who calls.
func (h *Handlers) session(r *http.Request) (*enroll.StationSession, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, fault.New(fault.StationCertificate)
	}
	s, err := h.enroller.Station(r.Context(), r.TLS.PeerCertificates)
	if err != nil {
		h.count(fault.Of(err).Code)
		return nil, err
	}
	return s, nil
}

// Enroll answers a station that has a one-time code and no certificate yet.
func (h *Handlers) Enroll(w http.ResponseWriter, r *http.Request, body []byte) error {
	var q station.EnrollRequest
	if err := object(r, body, &q); err != nil {
		return err
	}
	answer, err := h.enroller.EnrollStation(r.Context(), q.Code, q.CSR)
	if err != nil {
		return err
	}
	return enrolled(w, answer)
}

// Renew answers a station that wants its next certificate.
func (h *Handlers) Renew(w http.ResponseWriter, r *http.Request, body []byte) error {
	s, err := h.session(r)
	if err != nil {
		return err
	}
	var q station.RenewRequest
	if err := object(r, body, &q); err != nil {
		return err
	}
	answer, err := h.enroller.RenewStation(r.Context(), s, q.CSR)
	if err != nil {
		return err
	}
	return enrolled(w, answer)
}

func enrolled(w http.ResponseWriter, a *enroll.StationResponse) error {
	chain := append(append([][]byte{}, a.Chain...), a.Root)
	return write(w, station.Enrolled{Station: a.Station, Site: a.Site, Certificate: a.Credential.DER, Chain: chain})
}

// Status answers what the station may do now.
func (h *Handlers) Status(w http.ResponseWriter, r *http.Request, _ []byte) error {
	s, err := h.session(r)
	if err != nil {
		return err
	}
	status, err := h.factory.Status(r.Context(), s.Ref())
	if err != nil {
		return err
	}
	return write(w, status)
}

// Nonces answers with fresh nonces of an order.
func (h *Handlers) Nonces(w http.ResponseWriter, r *http.Request, body []byte) error {
	s, err := h.session(r)
	if err != nil {
		return err
	}
	var q station.NoncesRequest
	if err := object(r, body, &q); err != nil {
		return err
	}
	if q.Offline { // thousands of nonces at once
		at := place{s.Ref().ID, "offline"}
		if !h.enter(at, 1) {
			return fault.New(fault.TooManyRequests)
		}
		defer h.leave(at)
	}
	nonces, err := h.factory.DrawNonces(r.Context(), s.Ref(), q)
	if err != nil {
		return err
	}
	return write(w, nonces)
}

// Chips answers whether the chips of a reel may be used.
func (h *Handlers) Chips(w http.ResponseWriter, r *http.Request, body []byte) error {
	s, err := h.session(r)
	if err != nil {
		return err
	}
	var q station.ChipsRequest
	if err := object(r, body, &q); err != nil {
		return err
	}
	chips, err := h.factory.CheckChips(r.Context(), s.Ref(), q)
	if err != nil {
		return err
	}
	return write(w, station.Chips{Chips: chips})
}

// Challenge answers a stream of units with a TPM, each with what its TPM has to
// answer before it gets its identity.
func (h *Handlers) Challenge(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, s *enroll.StationSession, in []byte, out *station.Result) error {
		var q station.ChallengeRequest
		err := decode(in, &q)
		out.ID, out.DeviceSerial = q.ID, q.DeviceSerial
		if err != nil {
			return err
		}
		if out.Challenge, err = h.enroller.ChallengeUnit(ctx, s, &q); err != nil {
			h.factory.CountRefused(ctx, s.Ref(), q.Order, err)
		}
		return err
	})
}

// Units answers a stream of units that want their initial identity.
func (h *Handlers) Units(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, s *enroll.StationSession, in []byte, out *station.Result) error {
		var u station.Unit
		err := decode(in, &u)
		out.ID, out.DeviceSerial = u.ID, u.DeviceSerial
		if err != nil {
			return err
		}
		return h.unit(ctx, s, &u, out)
	})
}

// unit has one unit enrolled; a refusal counts for the order's yield.
func (h *Handlers) unit(ctx context.Context, s *enroll.StationSession, u *station.Unit, out *station.Result) error {
	answer, err := h.enroller.EnrollUnit(ctx, s, u)
	if err != nil {
		h.factory.CountRefused(ctx, s.Ref(), u.Order, err)
		return err
	}
	out.Replayed = answer.Replayed
	out.Certificate, out.Chain = answer.Credential.DER, answer.Chain
	out.ConfirmNonce, out.Wrapped = answer.ConfirmNonce[:], answer.Wrapped
	return nil
}

// Confirm answers a stream of what devices hold after provisioning.
func (h *Handlers) Confirm(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, s *enroll.StationSession, in []byte, out *station.Result) error {
		var c station.Confirm
		err := decode(in, &c)
		out.ID, out.DeviceSerial = c.ID, c.DeviceSerial
		return h.report(ctx, s, err, func(st factory.StationRef) error { return h.factory.Confirm(ctx, st, &c) })
	})
}

// Scrap answers a stream of units that end.
func (h *Handlers) Scrap(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, s *enroll.StationSession, in []byte, out *station.Result) error {
		var x station.Scrap
		err := decode(in, &x)
		out.ID, out.DeviceSerial = x.ID, x.DeviceSerial
		return h.report(ctx, s, err, func(st factory.StationRef) error { return h.factory.Scrap(ctx, st, &x) })
	})
}

// Failed answers a stream of attempts that failed at the line.
func (h *Handlers) Failed(w http.ResponseWriter, r *http.Request, _ []byte) error {
	return h.items(w, r, func(ctx context.Context, s *enroll.StationSession, in []byte, out *station.Result) error {
		var f station.Failed
		err := decode(in, &f)
		out.ID, out.DeviceSerial = f.ID, f.DeviceSerial
		return h.report(ctx, s, err, func(st factory.StationRef) error { return h.factory.Failed(ctx, st, &f) })
	})
}

// report judges the station anew before the factory takes its word.
func (h *Handlers) report(ctx context.Context, s *enroll.StationSession, err error, do func(factory.StationRef) error) error {
	if err != nil {
		return err
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	return do(s.Ref())
}

// items streams lines of a station whose session lasts as long as the stream.
func (h *Handlers) items(w http.ResponseWriter, r *http.Request, do func(context.Context, *enroll.StationSession, []byte, *station.Result) error) error {
	s, err := h.session(r)
	if err != nil {
		return err
	}
	if err := contentType(r, station.LinesType); err != nil {
		return err
	}
	at := place{s.Ref().ID, "stream"}
	if !h.enter(at, maxStreams) {
		return fault.New(fault.TooManyRequests)
	}
	defer h.leave(at)
	return h.stream(w, r, func(ctx context.Context, in []byte, out *station.Result) error { return do(ctx, s, in, out) })
}

// enter takes a place of a station, unless it has as many as it may.
func (h *Handlers) enter(at place, most int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[at] >= most {
		return false
	}
	if h.busy == nil {
		h.busy = make(map[place]int)
	}
	h.busy[at]++
	return true
}

func (h *Handlers) leave(at place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[at]--; h.busy[at] == 0 {
		delete(h.busy, at)
	}
}

// object reads a request that is one JSON object.
func object(r *http.Request, body []byte, out any) error {
	if err := contentType(r, "application/json"); err != nil {
		return err
	}
	return decode(body, out)
}

func contentType(r *http.Request, want string) error {
	value := r.Header.Get("Content-Type")
	if value == want {
		return nil
	}
	if t, _, err := mime.ParseMediaType(value); err != nil || t != want {
		return fault.New(fault.ContentTypeWrong, "want", want)
	}
	return nil
}

func write(w http.ResponseWriter, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // the peer is gone; what it asked for can be asked for again
	return nil
}
