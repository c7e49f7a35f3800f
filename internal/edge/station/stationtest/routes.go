package stationtest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+station.EnrollPath, s.enroll)
	mux.HandleFunc("POST "+station.RenewPath, s.known(s.renew))
	mux.HandleFunc("GET "+station.StatusPath, s.known(s.status))
	mux.HandleFunc("POST "+station.NoncesPath, s.known(s.drawNonces))
	mux.HandleFunc("POST "+station.ChipsPath, s.known(s.askChips))
	mux.HandleFunc("POST "+station.UnitsPath, s.known(lines(s, s.unit)))
	mux.HandleFunc("POST "+station.ChallengePath, s.known(lines(s, s.challenge)))
	mux.HandleFunc("POST "+station.ConfirmPath, s.known(lines(s, s.confirm)))
	mux.HandleFunc("POST "+station.ScrapPath, s.known(lines(s, s.scrap)))
	mux.HandleFunc("POST "+station.FailedPath, s.known(lines(s, s.fail)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hook := s.Hook; hook != nil && hook(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Refuse answers a call with a refusal, without waiting for the rest of what is
// asked.
func Refuse(w http.ResponseWriter, status int, code fault.Code, detail string) {
	f := fault.New(code)
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	answer(w, station.Result{Code: code.String(), Kind: f.Kind.String(), Message: f.Message, Remedy: f.Remedy, Detail: detail})
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// known lets the station's current certificate through.
func (s *Server) known(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.isStation(r) {
			Refuse(w, http.StatusUnauthorized, fault.StationCertificate, "")
			return
		}
		next(w, r)
	}
}

func (s *Server) isStation(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(r.TLS.PeerCertificates) > 0 && bytes.Equal(r.TLS.PeerCertificates[0].Raw, s.current)
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if r.Header.Get("Content-Type") != "application/json" || d.Decode(v) != nil {
		Refuse(w, http.StatusBadRequest, fault.RequestMalformed, "")
		return false
	}
	return true
}

func (s *Server) enroll(w http.ResponseWriter, r *http.Request) {
	var in station.EnrollRequest
	if !read(w, r, &in) {
		return
	}
	s.mu.Lock()
	good := in.Code == Code && !s.spent
	s.spent = s.spent || good
	s.mu.Unlock()
	if !good {
		Refuse(w, http.StatusUnauthorized, fault.StationCode, "")
		return
	}
	s.certify(w, in.CSR)
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	var in station.RenewRequest
	if read(w, r, &in) {
		s.certify(w, in.CSR)
	}
}

func (s *Server) certify(w http.ResponseWriter, der []byte) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil {
		Refuse(w, http.StatusBadRequest, fault.RequestMalformed, "")
		return
	}
	certificate := s.stationCertificate(csr.PublicKey.(*ecdsa.PublicKey))
	answer(w, station.Enrolled{Station: "station-1", Site: "here", Certificate: certificate.Raw, Chain: [][]byte{s.Root.Raw}})
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := station.Status{Station: "station-1", Site: "here", Now: s.Now()}
	for _, o := range s.orders {
		one := *o
		one.Left = max(0, min(o.Quantity-o.Live, o.Quantity+o.Spares-o.Issued))
		out.Orders = append(out.Orders, one)
	}
	slices.SortFunc(out.Orders, func(a, b station.Order) int {
		if a.Number < b.Number {
			return -1
		}
		return 1
	})
	answer(w, out)
}

func (s *Server) drawNonces(w http.ResponseWriter, r *http.Request) {
	var in station.NoncesRequest
	if !read(w, r, &in) {
		return
	}
	limit := station.MaxNonces
	if in.Offline {
		limit = station.MaxOffline
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.orders[in.Order]
	switch {
	case o == nil:
		Refuse(w, http.StatusForbidden, fault.StationNotAssigned, "")
	case in.Count < 1 || in.Count > limit:
		Refuse(w, http.StatusBadRequest, fault.ParameterInvalid, "count")
	case o.State != "open":
		Refuse(w, http.StatusForbidden, fault.OrderState, "")
	default:
		out := station.Nonces{Order: in.Order, Station: "station-1", ExpiresAt: s.Now().Add(10 * time.Minute).UTC()}
		for range in.Count {
			value := make([]byte, 32)
			_, _ = rand.Read(value)
			s.nonces[string(value)] = in.Order
			out.Nonces = append(out.Nonces, value)
		}
		if in.Offline {
			text, _ := json.Marshal(out)
			out.Signature = s.SignStatement(text)
		}
		answer(w, out)
	}
}

func (s *Server) askChips(w http.ResponseWriter, r *http.Request) {
	var in station.ChipsRequest
	if !read(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out station.Chips
	for _, uid := range in.UIDs {
		a := station.ChipAnswer{UID: uid, OK: s.chips[uid] != nil}
		if !a.OK {
			a.Code, a.Message = fault.ChipUnknown.String(), fault.New(fault.ChipUnknown).Message
		}
		out.Chips = append(out.Chips, a)
	}
	answer(w, out)
}

// lines answers a stream: each line at once, in no order.
func lines[T any](s *Server, do func(*T) station.Result) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != station.LinesType {
			Refuse(w, http.StatusUnsupportedMediaType, fault.RequestMalformed, "")
			return
		}
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.Header().Set("Content-Type", station.LinesType)
		_ = control.Flush()
		var writing sync.Mutex
		var working sync.WaitGroup
		defer working.Wait()
		in := bufio.NewScanner(r.Body)
		in.Buffer(nil, station.MaxLine+1)
		for in.Scan() {
			item := new(T)
			d := json.NewDecoder(bytes.NewReader(in.Bytes()))
			d.DisallowUnknownFields()
			if err := d.Decode(item); err != nil {
				s.t.Errorf("the station sent %q: %v", in.Bytes(), err)
				return
			}
			working.Go(func() {
				result := do(item)
				if s.Spoil != nil {
					s.Spoil(r.URL.Path, &result)
				}
				writing.Lock()
				defer writing.Unlock()
				answer(w, result)
				_ = control.Flush()
			})
		}
	}
}
