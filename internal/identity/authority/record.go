package authority

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// authorityBody is the ledger's record of an authority: the whole row after the
// act.
type authorityBody struct {
	Authority   int64  `json:"authority,omitempty"` // the store numbers a new row
	Name        string `json:"name"`
	AuthKind    Kind   `json:"authority_kind"`
	State       string `json:"state"`
	KeyURI      string `json:"key_uri"`
	Certificate string `json:"certificate,omitempty"` // SHA-256 of the DER
	Parent      int64  `json:"parent"`
	Credential  int64  `json:"credential"`
	CRLShards   int    `json:"crl_shards"`
	// What holds the key, where that is not a file.
	HardwareModel       string `json:"hardware_model,omitempty"`
	HardwareCertificate string `json:"hardware_certificate,omitempty"`
	HardwareLevel       string `json:"hardware_level,omitempty"`
}

func bodyOf(a *Authority) ledger.Body {
	b := authorityBody{
		Authority: a.ID, Name: a.Name, AuthKind: a.Kind, State: a.State.String(), KeyURI: a.KeyURI,
		Parent: a.Parent, Credential: int64(a.Credential), CRLShards: a.CRLShards,
		HardwareModel: a.Hardware.Model, HardwareCertificate: a.Hardware.Certificate, HardwareLevel: a.Hardware.Level,
	}
	if a.Certificate != nil {
		sum := sha256.Sum256(a.Certificate)
		b.Certificate = hex.EncodeToString(sum[:])
	}
	return ledger.JSON(b)
}

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Pending:
		return "pending"
	case Active:
		return "active"
	case Retired:
		return "retired"
	case Revoked:
		return "revoked"
	}
	return "unknown"
}

// entry is one act of this package.
func (s *Service) entry(kind ledger.Kind, actor string, body ledger.Body) ledger.Entry {
	return ledger.Entry{Kind: kind, At: s.now(), Actor: actor, Body: body}
}

// decision is what to certify, made on one snapshot.
type decision struct {
	authority *Authority // that signs; for a root its own row
	version   ProfileVersion
	compiled  *issuing.Compiled
	spki      []byte
	values    profile.Values
	sameKeyAs device.CredentialID
	keyKind   device.KeyKind
}

func (d *decision) kind() string { return string(d.compiled.Profile().Kind) }

// attempts is how often a decision is made anew because the control plane
// changed in between.
const attempts = 5

// certify leases a serial, signs and stores one certificate of ours: of an
// authority, a responder or a listener. decide is asked again when the control
// plane has changed since. A certificate that an interrupted run has stored for
// the same key is returned in place of a second one.
func (s *Service) certify(ctx context.Context, actor string, decide func(*Snapshot) (*decision, error)) (device.Credential, error) {
	for range attempts {
		snap, err := s.Refresh(ctx)
		if err != nil {
			return device.Credential{}, err
		}
		d, err := decide(snap)
		if err != nil {
			return device.Credential{}, err
		}
		c, err := s.signAndStore(ctx, actor, snap.Epoch, d)
		if errors.Is(err, device.ErrStale) {
			continue
		}
		if conflict, ok := errors.AsType[*device.KeyConflict](err); ok {
			if !d.madeBefore(&conflict.Existing) {
				return device.Credential{}, fault.New(fault.KeyInUse)
			}
			return conflict.Existing, nil
		}
		return c, err
	}
	return device.Credential{}, fault.New(fault.IssuanceBusy)
}

// madeBefore reports whether c is what this decision would make.
func (d *decision) madeBefore(c *device.Credential) bool {
	return c.Device == 0 && c.Authority == d.authority.ID && c.Kind == d.kind() &&
		(c.State == device.Issued || c.State == device.Confirmed)
}

func (s *Service) signAndStore(ctx context.Context, actor string, epoch int64, d *decision) (device.Credential, error) {
	now := s.now()
	notBefore, notAfter, err := d.compiled.Validity(now)
	if err != nil {
		return device.Credential{}, err
	}
	certSerial, err := s.NextSerial(ctx)
	if err != nil {
		return device.Credential{}, err
	}
	der, err := d.compiled.Issue(issuing.Input{
		CertSerial: certSerial.Bytes, NotBefore: notBefore, NotAfter: notAfter, Values: d.values, SPKI: d.spki,
	})
	if err != nil {
		return device.Credential{}, err
	}
	c := device.Credential{
		ID: certSerial.ID, CertSerial: certSerial.Bytes, Authority: d.authority.ID, Profile: d.version.ID,
		Kind: d.kind(), State: device.Issued, KeyKind: d.keyKind, NotBefore: notBefore, NotAfter: notAfter,
		SPKIDigest: sha256.Sum256(d.spki), Previous: d.sameKeyAs, IssuedAt: now, DER: der,
	}
	body := ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, AuthorityName: d.authority.Name,
		Profile: c.Profile, ProfileName: d.version.Name, ProfileVersion: int64(d.version.Version), Kind: c.Kind,
		KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest,
		DER: sha256.Sum256(der), Previous: int64(c.Previous),
	}
	return s.register.StoreIssuance(ctx, device.Issuance{
		Credential: c, Lease: certSerial.Lease, ControlEpoch: epoch, SameKeyAs: d.sameKeyAs,
		Entries: []ledger.Entry{{Kind: ledger.CertificateIssued, At: now, Actor: actor, Body: &body}},
	})
}

// spkiOf returns the DER of a key's public half.
func spkiOf(key crypto.Signer) ([]byte, error) { return x509.MarshalPKIXPublicKey(key.Public()) }
