package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// StationResponse is an issued station certificate.
type StationResponse struct {
	Response
	Station string // its name
	Site    string // the name of its site
	Root    []byte // DER of the root that Chain leads to
}

// stationRequest is a station's request for a certificate.
type stationRequest struct {
	csr *request.Request
	// session is nil when a one-time code pays for the certificate.
	session *StationSession
	code    *[32]byte
}

// EnrollStation gives a station its first certificate, or that of its new
// computer, for the one-time code that an operator made. Whatever is wrong with
// the code, the answer is fault.StationCode.
func (e *Enroller) EnrollStation(ctx context.Context, code string, csr []byte) (*StationResponse, error) {
	if e.line == nil {
		return nil, fault.New(fault.StationCode)
	}
	if err := e.mayIssue(); err != nil {
		return nil, err
	}
	hash := device.HashSecret([]byte(code))
	if _, _, err := e.byCode(ctx, &hash, nil); err != nil {
		return nil, err
	}
	parsed, err := request.Parse(csr) // a stranger does not make us check signatures
	if err != nil {
		return nil, err
	}
	return e.certifyStation(ctx, &stationRequest{csr: parsed, code: &hash})
}

// RenewStation gives a station its next certificate. The one it presented stays
// good as long as the profile's overlap.
func (e *Enroller) RenewStation(ctx context.Context, s *StationSession, csr []byte) (*StationResponse, error) {
	if e.line == nil {
		return nil, fault.New(fault.StationCertificate)
	}
	if err := e.mayIssue(); err != nil {
		return nil, err
	}
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	parsed, err := request.Parse(csr)
	if err != nil {
		return nil, err
	}
	return e.certifyStation(ctx, &stationRequest{csr: parsed, session: s})
}

// byCode returns the station whose one-time code this is. One answer for a code
// that is wrong, spent, replaced or too old. A code that was spent is good for
// another 15 minutes for the key that spent it; spent says so, and what it
// answers is looked up by the caller.
func (e *Enroller) byCode(ctx context.Context, hash, spki *[32]byte) (st factory.Station, spent bool, err error) {
	st, err = e.line.Store.StationByCode(ctx, *hash)
	if err != nil {
		if k := fault.Of(err).Kind; k == fault.NotFound || k == fault.Unauthenticated {
			err = fault.New(fault.StationCode)
		}
		return factory.Station{}, false, err
	}
	now := e.now()
	switch c := &st.Code; {
	case c.Hash != *hash || c.ExpiresAt.IsZero():
		return factory.Station{}, false, fault.New(fault.StationCode)
	case !c.SpentAt.IsZero():
		late := now.Sub(c.SpentAt) > replayWindow
		if late || spki != nil && c.SpentSPKI != *spki {
			return factory.Station{}, false, fault.New(fault.StationCode)
		}
		return st, true, nil
	case now.After(c.ExpiresAt):
		return factory.Station{}, false, fault.New(fault.StationCode)
	}
	return st, false, nil
}

// certifyStation decides, issues and stores, as often as the record changes in
// between.
func (e *Enroller) certifyStation(ctx context.Context, r *stationRequest) (*StationResponse, error) {
	epoch := int64(-1)
	for range decideTries {
		now, err := e.controlAfter(ctx, epoch)
		if err != nil {
			return nil, err
		}
		d, err := e.decideStation(ctx, now, r)
		if err != nil {
			return nil, err
		}
		if d.replay != nil {
			return e.stationResponse(now, d, *d.replay, true), nil
		}
		if err := e.endReplaced(ctx, d); err != nil {
			return nil, err
		}
		stored, err := e.issueStation(ctx, d)
		if err == nil {
			return e.stationResponse(now, d, stored, false), nil
		}
		if conflict, ok := errors.AsType[*device.KeyConflict](err); ok {
			return e.stationKeyTaken(ctx, now, d, &conflict.Existing)
		}
		if !errors.Is(err, device.ErrStale) {
			return nil, err
		}
		epoch = now.Epoch
	}
	return nil, fault.New(fault.IssuanceBusy)
}

// stationDecision is a station's certificate as it will be issued.
type stationDecision struct {
	*stationRequest
	station     factory.Station
	site        string
	epoch       int64
	road        *authority.Road
	idempotency [32]byte
	previous    device.CredentialID
	sameKeyAs   device.CredentialID
	replay      *device.Credential
}

func (e *Enroller) decideStation(ctx context.Context, now control, r *stationRequest) (*stationDecision, error) {
	d := &stationDecision{stationRequest: r, epoch: now.Epoch}
	spent := false
	var err error
	if r.code != nil {
		d.station, spent, err = e.byCode(ctx, r.code, &r.csr.SPKIDigest)
	} else if err = r.session.Check(ctx); err == nil {
		d.station = r.session.Station()
	}
	if err != nil {
		return nil, err
	}
	if d.station.State != factory.StationActive {
		return nil, fault.New(fault.StationState, d.station.State.String())
	}
	d.site = siteName(now.line, d.station.Site)
	if d.road, err = now.newestRoad(profile.KindStation); err != nil {
		return nil, err
	}
	if !d.road.Profile.Allows(r.csr.KeyType) {
		return nil, fault.New(fault.KeyNotAllowed, string(r.csr.KeyType))
	}
	d.idempotency = d.digest()
	if spent {
		d.replay, err = e.spentOn(ctx, d)
		return d, err
	}
	if r.session != nil {
		return d, e.followStation(ctx, d)
	}
	return d, nil
}

// digest stands for the same request again: the same code or certificate asks
// with the same key.
func (d *stationDecision) digest() [32]byte {
	h := sha256.New()
	h.Write([]byte("birthmark station certificate v1\x00"))
	if d.code != nil {
		h.Write(d.code[:])
	} else {
		c := d.session.Credential()
		h.Write(c.CertSerial)
	}
	h.Write(d.csr.SPKIDigest[:])
	return [32]byte(h.Sum(nil))
}

// spentOn returns the certificate that the code paid for.
func (e *Enroller) spentOn(ctx context.Context, d *stationDecision) (*device.Credential, error) {
	c, err := e.devices.CredentialBySPKI(ctx, access.Everything(), d.csr.SPKIDigest)
	if fault.Has(err, fault.CredentialUnknown) || err == nil && !d.answers(e.now(), &c) {
		return nil, fault.New(fault.StationCode)
	}
	return &c, err
}

// answers reports whether c is what the request of d led to before.
func (d *stationDecision) answers(now time.Time, c *device.Credential) bool {
	good := c.State == device.Issued || c.State == device.Confirmed
	return good && c.Kind == string(profile.KindStation) && c.Purpose == d.station.Name &&
		c.Idempotency == d.idempotency && now.Before(c.NotAfter)
}

// followStation makes a renewal follow the newest certificate of the station,
// which is not the presented one when an answer was lost.
func (e *Enroller) followStation(ctx context.Context, d *stationDecision) error {
	d.previous = d.station.Credential
	current := d.session.Credential()
	if current.ID != d.previous {
		var err error
		if current, err = e.devices.Credential(ctx, access.Everything(), d.previous); err != nil {
			return err
		}
	}
	if d.answers(e.now(), &current) && current.ConfirmedAt.IsZero() {
		d.replay = &current
		return nil
	}
	if current.SPKIDigest != d.csr.SPKIDigest {
		return nil
	}
	if !d.road.Profile.RenewSameKey {
		return fault.New(fault.KeyInUse, "the profile wants a new key at each renewal")
	}
	d.sameKeyAs = current.ID
	return nil
}

// endReplaced revokes what a station had before its new code is spent: the
// computer that was replaced must not go on. It comes first, so that no crash
// leaves both of them good; if the rest fails, the code is still there.
func (e *Enroller) endReplaced(ctx context.Context, d *stationDecision) error {
	if d.code == nil || d.station.Credential == 0 {
		return nil
	}
	_, err := e.devices.CredentialBySPKI(ctx, access.Everything(), d.csr.SPKIDigest)
	if !fault.Has(err, fault.CredentialUnknown) { // the key is taken: nothing will be issued
		return err
	}
	id := d.station.Credential
	for range maxUnconfirmed {
		if id == 0 {
			break
		}
		c, err := e.devices.Credential(ctx, access.Everything(), id)
		if err != nil {
			return err
		}
		id = c.Previous
		if c.State == device.Revoked || e.now().After(c.NotAfter) {
			continue
		}
		_, err = e.line.Status.Revoke(ctx, access.System(), status.Act{CertSerial: c.CertSerial, Reason: "superseded"})
		if err != nil && !fault.Has(err, fault.AlreadyRevoked) {
			return err
		}
	}
	return nil
}

// stationKeyTaken answers with the certificate of the same request, or refuses.
func (e *Enroller) stationKeyTaken(ctx context.Context, now control, d *stationDecision, existing *device.Credential) (*StationResponse, error) {
	if d.answers(e.now(), existing) {
		return e.stationResponse(now, d, *existing, true), nil
	}
	e.raise(ctx, stationActor(&d.station), factory.Alarm{
		Kind: factory.AlarmKeyReused, Key: spkiText(d.csr.SPKIDigest), Station: d.station.ID, Site: d.station.Site,
		Message: "station " + d.station.Name + " asked for a certificate with a public key that is on record already",
	})
	return nil, fault.New(fault.KeyInUse)
}

func (e *Enroller) stationResponse(now control, d *stationDecision, c device.Credential, replayed bool) *StationResponse {
	r := &StationResponse{
		Response: Response{Credential: c, Chain: d.road.Chain, Replayed: replayed},
		Station:  d.station.Name, Site: d.site, Root: d.road.Authority.Root,
	}
	if m, ok := now.AuthorityByID(c.Authority); ok && replayed { // the profile may have moved to another since
		r.Chain, r.Root = m.Chain, m.Root
	}
	return r
}

func (e *Enroller) issueStation(ctx context.Context, d *stationDecision) (device.Credential, error) {
	now := e.now()
	notBefore, notAfter, err := d.road.Compiled.Validity(now)
	if err != nil {
		return device.Credential{}, err
	}
	certSerial, err := e.authorities.NextSerial(ctx)
	if err != nil {
		return device.Credential{}, err
	}
	der, err := d.road.Compiled.Issue(issuing.Input{
		CertSerial: certSerial.Bytes, NotBefore: notBefore, NotAfter: notAfter, SPKI: d.csr.SPKI,
		Values: d.road.StationValues(d.station.Name, d.site),
	})
	if err != nil {
		return device.Credential{}, err
	}
	c := device.Credential{
		ID: certSerial.ID, CertSerial: certSerial.Bytes, Authority: d.road.Authority.ID, Profile: d.road.Version.ID,
		Kind: string(profile.KindStation), Purpose: d.station.Name, Site: d.station.Site, State: device.Issued,
		KeyKind: device.KeySoftware, NotBefore: notBefore, NotAfter: notAfter, SPKIDigest: d.csr.SPKIDigest,
		Idempotency: d.idempotency, Previous: d.previous, IssuedAt: now, DER: der,
	}
	change := &device.StationIssue{ID: d.station.ID, Version: d.station.Version}
	if d.code != nil {
		change.SpendSPKI = &d.csr.SPKIDigest
	}
	return e.devices.StoreIssuance(ctx, device.Issuance{
		Credential: c, Lease: certSerial.Lease, ControlEpoch: d.epoch, SameKeyAs: d.sameKeyAs, Station: change,
		Entries: []ledger.Entry{{Kind: ledger.CertificateIssued, At: now, Actor: stationActor(&d.station), Body: stationIssuedBody(&c, d)}},
	})
}
