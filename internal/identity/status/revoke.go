package status

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

// Reason is a reason for revocation as RFC 5280, section 5.3.1, names it.
type Reason string

// Hold is the reason of a certificate on hold. Revoke does not take it.
const Hold Reason = "certificateHold"

type reasonCode struct {
	name Reason
	code int
}

// reasons is the table of names and codes. removeFromCRL (8) belongs to delta
// CRLs; 7 is not used.
var reasons = []reasonCode{
	{"unspecified", issuing.ReasonUnspecified},
	{"keyCompromise", issuing.ReasonKeyCompromise},
	{"cACompromise", issuing.ReasonCACompromise},
	{"affiliationChanged", issuing.ReasonAffiliationChanged},
	{"superseded", issuing.ReasonSuperseded},
	{"cessationOfOperation", issuing.ReasonCessationOfOperation},
	{Hold, issuing.ReasonCertificateHold},
	{"privilegeWithdrawn", issuing.ReasonPrivilegeWithdrawn},
	{"aACompromise", issuing.ReasonAACompromise},
}

// Reasons returns the reasons that Revoke takes.
func Reasons() []Reason {
	var names []Reason
	for _, r := range reasons {
		if r.name != Hold {
			names = append(names, r.name)
		}
	}
	return names
}

// Code returns the reason's number, or fault.ReasonInvalid.
func (r Reason) Code() (int, error) {
	for _, known := range reasons {
		if known.name == r {
			return known.code, nil
		}
	}
	return 0, fault.New(fault.ReasonInvalid, string(r))
}

// ReasonName returns the name of a code, "" for one that is not used.
func ReasonName(code int) Reason {
	for _, known := range reasons {
		if known.code == code {
			return known.name
		}
	}
	return ""
}

// Shard returns the shard of an authority's CRL on which a certificate is looked
// for, for those who may not ask a CA key to sign.
func Shard(certSerial []byte, shards int) int { return issuing.Shard(certSerial, shards) }

// Act is what is done to a certificate's status.
type Act struct {
	CertSerial []byte
	Reason     Reason // of a revocation; empty: unspecified
	Approval   int64  // the approval that this act executes, 0 if none
}

// Revoke ends a certificate for good. When it has returned, nothing that was
// decided while the certificate was good is stored any more, on any node.
func (s *Service) Revoke(ctx context.Context, by access.Caller, a Act) (device.Credential, error) {
	if a.Reason == "" {
		a.Reason = "unspecified"
	}
	code, err := a.Reason.Code()
	if err != nil {
		return device.Credential{}, err
	}
	if a.Reason == Hold {
		return device.Credential{}, fault.New(fault.ReasonInvalid, "a hold is not a revocation")
	}
	return s.revoke(ctx, by, a, code)
}

// Hold revokes a certificate until it is released.
func (s *Service) Hold(ctx context.Context, by access.Caller, a Act) (device.Credential, error) {
	return s.revoke(ctx, by, a, issuing.ReasonCertificateHold)
}

func (s *Service) revoke(ctx context.Context, by access.Caller, a Act, reason int) (device.Credential, error) {
	c, err := s.find(ctx, by.Scope, a.CertSerial)
	if err != nil {
		return device.Credential{}, err
	}
	if c.Kind == string(authority.Root) || c.Kind == string(authority.Issuing) {
		return device.Credential{}, fault.New(fault.AuthorityState, "an authority is revoked in a session of its root")
	}
	return s.record(ctx, by, &c, reason, a.Approval)
}

// record revokes one credential on record.
func (s *Service) record(ctx context.Context, by access.Caller, c *device.Credential, reason int, approval int64) (device.Credential, error) {
	shard, err := s.shardOf(ctx, c)
	if err != nil {
		return device.Credential{}, err
	}
	now := moment(s.now())
	r := Revocation{
		Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, Shard: shard,
		At: now, Reason: reason, NotAfter: c.NotAfter,
	}
	kind := ledger.CertificateRevoked
	if reason == issuing.ReasonCertificateHold {
		kind = ledger.CertificateHeld
	}
	err = s.store.Revoke(ctx, by.Scope, r, ledger.Entry{Kind: kind, At: s.now(), Actor: by.Name, Body: &ledger.Revoked{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device),
		Shard: shard, Reason: reason, RevokedAt: now, NotAfter: c.NotAfter, Approval: approval,
	}})
	if err != nil {
		return device.Credential{}, err
	}
	s.ended(c.ID, c.Device == 0)
	return s.register.Credential(ctx, by.Scope, c.ID)
}

// Release ends a hold.
func (s *Service) Release(ctx context.Context, by access.Caller, a Act) (device.Credential, error) {
	c, err := s.find(ctx, by.Scope, a.CertSerial)
	if err != nil {
		return device.Credential{}, err
	}
	err = s.store.Release(ctx, by.Scope, c.ID, ledger.Entry{
		Kind: ledger.CertificateFreed, At: s.now(), Actor: by.Name,
		Body: &ledger.Released{
			Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority,
			Device: int64(c.Device), Approval: a.Approval,
		},
	})
	if err != nil {
		return device.Credential{}, err
	}
	s.ended(c.ID, c.Device == 0)
	return s.register.Credential(ctx, by.Scope, c.ID)
}

func (s *Service) find(ctx context.Context, scope access.Scope, certSerial []byte) (device.Credential, error) {
	if len(certSerial) == 0 || len(certSerial) > 20 {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	return s.register.CredentialBySerial(ctx, scope, certSerial)
}

// shardOf returns the shard of the CRL on which a certificate is looked for.
func (s *Service) shardOf(ctx context.Context, c *device.Credential) (int, error) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	m, ok := snap.AuthorityByID(c.Authority)
	if !ok { // made since the snapshot
		if snap, err = s.authorities.Refresh(ctx); err != nil {
			return 0, err
		}
		if m, ok = snap.AuthorityByID(c.Authority); !ok {
			return 0, fault.New(fault.AuthorityUnknown)
		}
	}
	return issuing.Shard(c.CertSerial, m.CRLShards), nil
}

// RevokeAuthority ends an issuing authority in a session of its root: from the
// first step on nothing is issued under it and our listeners trust nothing that
// it issued, then it is on record as revoked, then the root's CRL says so. An
// interrupted call is finished by the same call again.
func (s *Service) RevokeAuthority(ctx context.Context, by access.Caller, session *authority.RootSession, name string, reason Reason) error {
	code, err := reason.Code()
	if err != nil || reason == Hold {
		return fault.New(fault.ReasonInvalid, string(reason))
	}
	snap, err := s.authorities.Refresh(ctx)
	if err != nil {
		return err
	}
	m, err := snap.Authority(name)
	if err != nil {
		return err
	}
	if m.Parent != session.Root().ID || m.Credential == 0 {
		return fault.New(fault.AuthorityState, name, "was not signed by", session.Root().Name)
	}
	if _, err := session.Issuer(); err != nil {
		return err
	}
	if err := s.authorities.MarkRevoked(ctx, by.Name, name); err != nil {
		return err
	}
	s.forgetAnswers()
	c, err := s.register.Credential(ctx, access.Everything(), m.Credential)
	if err != nil {
		return err
	}
	if c.State != device.Revoked {
		if _, err := s.record(ctx, by, &c, code, 0); err != nil && !fault.Has(err, fault.AlreadyRevoked) {
			return err
		}
	}
	return s.SignRootCRL(ctx, by.Name, session)
}
