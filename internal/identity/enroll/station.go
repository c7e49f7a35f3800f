package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// lookAge is how old the last look at a station's certificate in the record may
// be. A change of the control plane, such as a suspension, is seen at once.
const lookAge = time.Second

// StationSession is a station that showed its certificate. It may be kept as
// long as the connection lasts and used by several goroutines; Check judges it
// anew for each item.
type StationSession struct {
	enroller *Enroller
	leaf     *x509.Certificate
	newest   atomic.Pointer[look]
	looking  sync.Mutex // one look at the record at a time
}

// look is what a session was found to be.
type look struct {
	at         time.Time
	control    control
	credential device.Credential
	station    factory.Station
	site       string
}

// fresh reports whether a look still holds.
func (l *look) fresh(now time.Time, snap *authority.Snapshot) bool {
	age := now.Sub(l.at)
	return l.control.Snapshot == snap && age >= 0 && age <= lookAge && !now.After(l.credential.NotAfter)
}

// maxSessions bounds how many certificates are remembered as judged.
const maxSessions = 4096

// sessions remembers judged certificates, so that a station whose next request
// comes over the same or another connection costs no path building.
type sessions struct {
	mu     sync.Mutex
	judged map[[32]byte]*StationSession // guarded by mu; by SHA-256 of the certificate
}

func (s *sessions) get(id [32]byte) *StationSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.judged[id]
}

func (s *sessions) put(id [32]byte, one *StationSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.judged == nil || len(s.judged) >= maxSessions {
		s.judged = make(map[[32]byte]*StationSession)
	}
	s.judged[id] = one
}

// Station judges the certificate that a caller presented, leaf first: it must be
// the current one of a station that is active, or one before it whose overlap
// has not ended. Judging the same certificate again is cheap.
func (e *Enroller) Station(ctx context.Context, chain []*x509.Certificate) (*StationSession, error) {
	if e.line == nil || len(chain) == 0 {
		return nil, fault.New(fault.StationCertificate)
	}
	id := sha256.Sum256(chain[0].Raw)
	s := e.sessions.get(id)
	if s == nil {
		s = &StationSession{enroller: e, leaf: chain[0]}
	}
	if _, err := s.look(ctx); err != nil {
		return nil, err
	}
	e.sessions.put(id, s)
	return s, nil
}

// Check judges the session anew: nothing is done for a station that was
// suspended, or whose certificate was revoked, since it connected. While the
// control plane is the same and the last look at the record is a second old at
// most, it costs a few comparisons.
func (s *StationSession) Check(ctx context.Context) error {
	_, err := s.look(ctx)
	return err
}

// Station returns the station as it was at the last check.
func (s *StationSession) Station() factory.Station { return s.newest.Load().station }

// Ref returns the station as package factory wants it named.
func (s *StationSession) Ref() factory.StationRef {
	st := &s.newest.Load().station
	return factory.StationRef{ID: st.ID, Name: st.Name, Site: st.Site, Version: st.Version}
}

// Site returns the name of the station's site.
func (s *StationSession) Site() string { return s.newest.Load().site }

// Credential returns the presented certificate as it was on record at the last
// check.
func (s *StationSession) Credential() device.Credential { return s.newest.Load().credential }

// Actor returns the station as ledger entries name it.
func (s *StationSession) Actor() string { return s.Ref().Actor() }

// look returns what the session is now.
func (s *StationSession) look(ctx context.Context) (*look, error) {
	e := s.enroller
	snap, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if l := s.newest.Load(); l != nil && l.fresh(e.now(), snap) {
		return l, nil
	}
	s.looking.Lock()
	defer s.looking.Unlock()
	if snap, err = e.authorities.Snapshot(ctx); err != nil {
		return nil, err
	}
	if l := s.newest.Load(); l != nil && l.fresh(e.now(), snap) {
		return l, nil // somebody else looked meanwhile
	}
	now, err := e.controlAfter(ctx, -1)
	if err != nil {
		return nil, err
	}
	l, err := e.judge(ctx, now, s.leaf)
	if err != nil && e.stationChanged(err) {
		if newer, refreshErr := e.controlAfter(ctx, now.Epoch); refreshErr == nil && newer.Epoch != now.Epoch {
			l, err = e.judge(ctx, newer, s.leaf)
		}
	}
	if err != nil {
		return nil, err
	}
	s.newest.Store(l)
	return l, nil
}

// stationChanged reports whether a newer view of the control plane may lift a
// refusal of judge.
func (e *Enroller) stationChanged(err error) bool {
	return fault.Has(err, fault.StationCertificate) || fault.Has(err, fault.StationState)
}

// judge finds the station behind a certificate. One answer for everything that
// is not a station of ours; a station that was one learns why it is refused.
func (e *Enroller) judge(ctx context.Context, now control, leaf *x509.Certificate) (*look, error) {
	c, err := e.devices.CredentialBySerial(ctx, access.Everything(), leaf.SerialNumber.Bytes())
	if fault.Has(err, fault.CredentialUnknown) {
		return nil, fault.New(fault.StationCertificate)
	}
	if err != nil {
		return nil, err
	}
	if c.Kind != string(profile.KindStation) || !bytes.Equal(c.DER, leaf.Raw) {
		return nil, fault.New(fault.StationCertificate)
	}
	at := e.now()
	switch {
	case c.State == device.Revoked || c.State == device.Held:
		return nil, fault.New(fault.CredentialRevoked)
	case at.After(c.NotAfter):
		return nil, fault.New(fault.StationCertificate, "it has expired")
	}
	if m, ok := now.AuthorityByID(c.Authority); !ok || m.KeyURI == "" {
		return nil, fault.New(fault.StationCertificate)
	}
	if _, err := e.checkPath(ctx, now.Snapshot, leaf, nil); err != nil {
		return nil, err
	}
	st, err := e.holder(ctx, now.line, &c)
	if err != nil {
		return nil, err
	}
	if st.State != factory.StationActive {
		return nil, fault.New(fault.StationState, st.State.String())
	}
	if err := e.confirm(ctx, now.Snapshot, &c, stationActor(st)); err != nil {
		return nil, err
	}
	return &look{at: at, control: now, credential: c, station: *st, site: siteName(now.line, st.Site)}, nil
}

// holder returns the station whose certificate this is: its current one, or one
// that its current one followed by renewal. A station that renewed itself may
// finish what it began with the old one, or may have missed the answer; when the
// overlap is over the old one is revoked. A new code begins a new line, so that
// the computer that was replaced is a stranger.
func (e *Enroller) holder(ctx context.Context, line *factory.Plane, c *device.Credential) (*factory.Station, error) {
	if st, ok := line.StationByCredential(c.ID); ok {
		return st, nil
	}
	st, ok := line.StationByName(c.Purpose)
	if !ok {
		return nil, fault.New(fault.StationCertificate)
	}
	id := st.Credential
	for range maxUnconfirmed {
		if id == c.ID {
			return st, nil
		}
		if id == 0 {
			break
		}
		newer, err := e.devices.Credential(ctx, access.Everything(), id)
		if err != nil {
			return nil, err
		}
		id = newer.Previous
	}
	return nil, fault.New(fault.StationCertificate, "it was replaced")
}

func stationActor(st *factory.Station) string { return factory.StationRef{Name: st.Name}.Actor() }

func siteName(line *factory.Plane, id int64) string {
	if site, ok := line.Site(id); ok {
		return site.Name
	}
	return ""
}
