package authority

import (
	"context"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// RootSession is an opened root. It lives as long as a person's act: open,
// sign, close. Package status signs the root's CRL with it.
type RootSession struct {
	service *Service
	root    Authority

	mu     sync.Mutex
	issuer *issuing.Issuer // holds the key; nil after Close
}

// OpenRoot opens a root's key with its passphrase. A key in the signer needs
// none: what it may sign is bounded there.
func (s *Service) OpenRoot(ctx context.Context, name string, secret keystore.Secret) (*RootSession, error) {
	snap, err := s.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	m, err := snap.Authority(name)
	switch {
	case err != nil:
		return nil, err
	case m.Kind != Root || m.State != Active && m.State != Retired:
		return nil, fault.New(fault.AuthorityState, name)
	case m.KeyURI == "":
		return nil, fault.New(fault.KeyUnknown, name, "has its key elsewhere")
	}
	key, err := s.keys.Load(ctx, m.KeyURI, secret)
	if err != nil {
		return nil, err
	}
	if err := fits(m.Certificate, key); err != nil {
		return nil, err
	}
	return &RootSession{
		service: s, root: m.Authority, issuer: newIssuer(m.Authority, key, snap.Installation, s.random),
	}, nil
}

// Close drops the root's key from memory. Closing twice does nothing.
func (r *RootSession) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.issuer = nil
}

// Root returns the root's record.
func (r *RootSession) Root() Authority { return r.root }

// Issuer returns the opened root, or fault.KeyUnavailable after Close.
func (r *RootSession) Issuer() (*issuing.Issuer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.issuer == nil {
		return nil, fault.New(fault.KeyUnavailable, "the root session is closed")
	}
	return r.issuer, nil
}

// CreateIssuing makes an issuing authority with a key of its own under this
// root. A call that was interrupted is finished by the same call again.
func (r *RootSession) CreateIssuing(ctx context.Context, actor string, n NewAuthority) (Authority, error) {
	s := r.service
	version, p, err := r.profile(ctx, actor, &n)
	if err != nil {
		return Authority{}, err
	}
	if err := s.learnKeyType(ctx, &n); err != nil {
		return Authority{}, err
	}
	if !p.Allows(n.KeyType) {
		return Authority{}, fault.New(fault.KeyNotAllowed, n.KeyType)
	}
	a, err := s.pending(ctx, actor, Authority{
		Name: n.Name, Kind: Issuing, KeyURI: n.uri(), Parent: r.root.ID, CRLShards: n.CRLShards, Hardware: n.Hardware,
	})
	if err != nil {
		return Authority{}, err
	}
	key, err := s.makeKey(ctx, a.KeyURI, n.KeyType, n.Secret)
	if err != nil {
		return Authority{}, err
	}
	spki, err := spkiOf(key)
	if err != nil {
		return Authority{}, err
	}
	c, err := r.certify(ctx, actor, version, p, spki, device.KeyOurs, n.CommonName, n.title("Issuing CA"))
	if err != nil {
		return Authority{}, err
	}
	return s.activate(ctx, actor, a, c)
}

// SignSubordinate certifies an issuing authority whose key is elsewhere, from
// the CSR (DER) that its keeper sent. Only the key is taken from the CSR.
func (r *RootSession) SignSubordinate(ctx context.Context, actor string, n NewAuthority, csr []byte) (Authority, error) {
	s := r.service
	req, err := request.Parse(csr)
	if err != nil {
		return Authority{}, err
	}
	version, p, err := r.profile(ctx, actor, &n)
	if err != nil {
		return Authority{}, err
	}
	a, err := s.pending(ctx, actor, Authority{Name: n.Name, Kind: Issuing, Parent: r.root.ID, CRLShards: n.CRLShards, Hardware: n.Hardware})
	if err != nil {
		return Authority{}, err
	}
	c, err := r.certify(ctx, actor, version, p, req.SPKI, device.KeySoftware, n.CommonName, n.title("Issuing CA"))
	if err != nil {
		return Authority{}, err
	}
	return s.activate(ctx, actor, a, c)
}

// profile returns the profile of a subordinate, from the store or the presets.
func (r *RootSession) profile(ctx context.Context, actor string, n *NewAuthority) (ProfileVersion, *profile.Profile, error) {
	if err := n.check("issuing"); err != nil {
		return ProfileVersion{}, nil, err
	}
	version, p, err := r.service.preset(ctx, actor, n.Profile)
	if err != nil {
		return ProfileVersion{}, nil, err
	}
	if p.Kind != profile.KindIssuing {
		return ProfileVersion{}, nil, fault.New(fault.AuthorityInvalid, "profile", n.Profile, "is not for an issuing authority")
	}
	return version, p, nil
}

// certify signs with the root's key.
func (r *RootSession) certify(ctx context.Context, actor string, version ProfileVersion, p *profile.Profile, spki []byte, kind device.KeyKind, commonName, what string) (device.Credential, error) {
	issuer, err := r.Issuer()
	if err != nil {
		return device.Credential{}, err
	}
	return r.service.certify(ctx, actor, func(snap *Snapshot) (*decision, error) {
		m, ok := snap.AuthorityByID(r.root.ID)
		if !ok || m.State != Active {
			return nil, fault.New(fault.AuthorityState, r.root.Name)
		}
		if p.Issuer != r.root.Name {
			return nil, fault.New(fault.AuthorityInvalid, "profile", version.Name, "names another issuer")
		}
		compiled, err := issuing.New(p, issuer)
		if err != nil {
			return nil, err
		}
		return &decision{
			authority: &m.Authority, version: version, compiled: compiled, spki: spki, keyKind: kind,
			values: authorityValues(snap.Installation, commonName, what),
		}, nil
	})
}
