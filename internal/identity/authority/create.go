package authority

import (
	"context"
	"regexp"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// NewAuthority says what authority to make.
type NewAuthority struct {
	Name       string          // lower-case; part of addresses in certificates
	CommonName string          // default: the organization and what the authority is
	KeyType    profile.KeyType // default: P-256, or what the signer's key is
	KeyURI     string          // signer:NAME of a key that the signer has; default: a new file
	Secret     keystore.Secret // passphrase of the new key
	Profile    string          // default: "root" or "issuing"
	CRLShards  int             // default 1
	Hardware   Hardware        // what holds the key, as the operator declares it
}

var authorityName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

func (n *NewAuthority) check(defaultProfile string) error {
	if !authorityName.MatchString(n.Name) {
		return fault.New(fault.AuthorityInvalid, "a name has 1 to 40 lower-case letters, digits and dashes")
	}
	if n.KeyURI != "" && !inSigner(n.KeyURI) {
		return fault.New(fault.KeyURI, "an authority's key is a new file, or signer:NAME")
	}
	if n.KeyType == "" && n.KeyURI == "" {
		n.KeyType = profile.P256
	}
	if n.Profile == "" {
		n.Profile = defaultProfile
	}
	if n.CRLShards == 0 {
		n.CRLShards = 1
	}
	if n.CRLShards < 1 || n.CRLShards > 256 {
		return fault.New(fault.AuthorityInvalid, "an authority has 1 to 256 CRL shards")
	}
	return n.Hardware.check()
}

// inSigner reports whether a key lives in the signer process, which no passphrase
// of ours opens.
func inSigner(uri string) bool { return strings.HasPrefix(uri, "signer:") }

// uri returns where the authority's key is or will be.
func (n *NewAuthority) uri() string {
	if n.KeyURI != "" {
		return n.KeyURI
	}
	return "file:" + n.Name
}

// learnKeyType finds out what a key in the signer is, unless the caller said
// what it must be.
func (s *Service) learnKeyType(ctx context.Context, n *NewAuthority) error {
	if n.KeyType != "" {
		return nil
	}
	key, err := s.keys.Load(ctx, n.KeyURI, nil)
	if err != nil {
		return err
	}
	n.KeyType = key.Type()
	return nil
}

// title tells authorities of one organization apart by their names: two CAs
// with one subject and different keys mislead whoever looks for an issuer.
func (n *NewAuthority) title(what string) string {
	if n.Name == string(Root) || n.Name == string(Issuing) {
		return what
	}
	return n.Name + " " + what
}

// CreateRoot makes a root: its key under the passphrase given, its certificate
// signed by itself, and its record. Each step is on record before the next, so
// that a call that was interrupted anywhere is finished by the same call again.
func (s *Service) CreateRoot(ctx context.Context, actor string, n NewAuthority) (Authority, error) {
	if err := n.check("root"); err != nil {
		return Authority{}, err
	}
	if err := s.learnKeyType(ctx, &n); err != nil {
		return Authority{}, err
	}
	version, p, err := s.preset(ctx, actor, n.Profile)
	if err != nil {
		return Authority{}, err
	}
	if p.Kind != profile.KindRoot || !p.Allows(n.KeyType) {
		return Authority{}, fault.New(fault.AuthorityInvalid, "profile", n.Profile, "does not make a root with this key")
	}
	a, err := s.pending(ctx, actor, Authority{Name: n.Name, Kind: Root, KeyURI: n.uri(), CRLShards: n.CRLShards, Hardware: n.Hardware})
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
	c, err := s.certify(ctx, actor, func(snap *Snapshot) (*decision, error) {
		compiled, err := issuing.New(p, newIssuer(a, key, snap.Installation, s.random))
		if err != nil {
			return nil, err
		}
		return &decision{
			authority: &a, version: version, compiled: compiled, spki: spki, keyKind: device.KeyOurs,
			values: authorityValues(snap.Installation, n.CommonName, n.title("Root CA")),
		}, nil
	})
	if err != nil {
		return Authority{}, err
	}
	return s.activate(ctx, actor, a, c)
}

func authorityValues(i Installation, commonName, what string) profile.Values {
	if commonName == "" {
		commonName = what
		if i.Organization != "" {
			commonName = i.Organization + " " + what
		}
	}
	return profile.Values{CommonName: commonName, Organization: i.Organization}
}

// pending records an authority before anything of it exists, or returns the
// record of an interrupted call.
func (s *Service) pending(ctx context.Context, actor string, a Authority) (Authority, error) {
	snap, err := s.Refresh(ctx)
	if err != nil {
		return Authority{}, err
	}
	if m, err := snap.Authority(a.Name); err == nil {
		if m.State != Pending || m.Kind != a.Kind || m.Parent != a.Parent || m.KeyURI != a.KeyURI || m.CRLShards != a.CRLShards {
			return Authority{}, fault.New(fault.AuthorityExists, a.Name)
		}
		return m.Authority, nil
	}
	now := s.now()
	a.State, a.CreatedAt, a.ChangedAt = Pending, now, now
	a.ID, err = s.store.AddAuthority(ctx, a, s.entry(ledger.AuthorityCreated, actor, bodyOf(&a)))
	return a, err
}

// activate gives a pending authority its certificate.
func (s *Service) activate(ctx context.Context, actor string, a Authority, c device.Credential) (Authority, error) {
	a.State, a.Certificate, a.Credential, a.ChangedAt = Active, c.DER, c.ID, s.now()
	if err := s.store.UpdateAuthority(ctx, a, s.entry(ledger.AuthorityCreated, actor, bodyOf(&a))); err != nil {
		return Authority{}, err
	}
	_, err := s.Refresh(ctx)
	return a, err
}

// Retire ends an authority's issuing; its status goes on.
func (s *Service) Retire(ctx context.Context, actor, name string) error {
	return s.move(ctx, actor, name, ledger.AuthorityRetired, Retired, Active)
}

// MarkRevoked ends an authority for good: nothing is issued under it any more,
// and no listener of ours trusts what it has issued. Doing it twice does
// nothing. Its certificate's revocation and the root's CRL are package status's.
func (s *Service) MarkRevoked(ctx context.Context, actor, name string) error {
	return s.move(ctx, actor, name, ledger.AuthorityRevoked, Revoked, Active, Retired)
}

func (s *Service) move(ctx context.Context, actor, name string, kind ledger.Kind, to State, from ...State) error {
	snap, err := s.Refresh(ctx)
	if err != nil {
		return err
	}
	m, err := snap.Authority(name)
	if err != nil {
		return err
	}
	if m.State == to {
		return nil
	}
	for _, state := range from {
		if m.State != state {
			continue
		}
		a := m.Authority
		a.State, a.ChangedAt = to, s.now()
		if err := s.store.UpdateAuthority(ctx, a, s.entry(kind, actor, bodyOf(&a))); err != nil {
			return err
		}
		_, err := s.Refresh(ctx)
		return err
	}
	return fault.New(fault.AuthorityState, name, "is", m.State)
}
