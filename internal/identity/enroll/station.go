package enroll

import (
	"context"
	"crypto/x509"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/format/station"
)

// StationSession is a station that showed its current certificate. It may be
// kept as long as the connection lasts and used by several goroutines; Check
// judges it anew for each item.
type StationSession struct {
	enroller *Enroller
}

// StationResponse is an issued station certificate.
type StationResponse struct {
	Response
	Station string // its name
	Site    string // the name of its site
	Root    []byte // DER of the root that Chain leads to
}

// UnitResponse is the initial identity of a unit.
type UnitResponse struct {
	Response
	Unit         factory.Unit
	ConfirmNonce [32]byte // for proof.Confirm
	Wrapped      []byte   // the injected key in the form that was asked for
}

// Station judges the certificate that a caller presented, leaf first: it must be
// the current one of a station that is active. Judging the same certificate
// again is cheap.
func (e *Enroller) Station(ctx context.Context, chain []*x509.Certificate) (*StationSession, error) {
	return nil, errNoLine()
}

// Check judges the session anew: nothing is done for a station that was
// suspended, or whose certificate was revoked or replaced, since it connected.
// While the control plane is the same and the last look at the record is a
// second old at most, it costs a few comparisons.
func (s *StationSession) Check(ctx context.Context) error { return errNoLine() }

// Station returns the station as it was at the last check.
func (s *StationSession) Station() factory.Station { return factory.Station{} }

// Site returns the name of the station's site.
func (s *StationSession) Site() string { return "" }

// Credential returns the station's certificate as it is on record.
func (s *StationSession) Credential() device.Credential { return device.Credential{} }

// Actor returns the station as ledger entries name it.
func (s *StationSession) Actor() string { return "" }

// EnrollStation gives a station its first certificate, or that of its new
// computer, for the one-time code that an operator made. Whatever is wrong with
// the code, the answer is fault.StationCode.
func (e *Enroller) EnrollStation(ctx context.Context, code string, csr []byte) (*StationResponse, error) {
	return nil, errNoLine()
}

// RenewStation gives a station its next certificate. The one it presented stays
// good as long as the profile's overlap.
func (e *Enroller) RenewStation(ctx context.Context, s *StationSession, csr []byte) (*StationResponse, error) {
	return nil, errNoLine()
}

// EnrollUnit gives one unit of a production order its initial identity. Many
// goroutines may call it for one session.
func (e *Enroller) EnrollUnit(ctx context.Context, s *StationSession, u *station.Unit) (*UnitResponse, error) {
	return nil, errNoLine()
}
