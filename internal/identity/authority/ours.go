package authority

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Presented is a certificate of this node's own, with its opened key: of a TLS
// listener or an OCSP responder.
type Presented struct {
	Credential device.Credential
	X509       *x509.Certificate
	Key        keystore.Key
	Chain      [][]byte  // DER, leaf first, then the issuing authorities below the root
	RenewAt    time.Time // two thirds of its life are over
}

// ownKeys is how many keys one name of ours may go through: the next is made
// when the certificate of the one before was revoked.
const ownKeys = 16

// wanted says what certificate a name of ours needs.
type wanted struct {
	uri     string
	keyType profile.KeyType
	profile string
	values  func(Installation) profile.Values
	fits    func(*x509.Certificate) bool // whether a certificate that is there will do
}

// Server returns the certificate of one of our TLS listeners for these hosts,
// which are DNS names and addresses. It issues one when there is none, when the
// hosts differ, or when two thirds of its life are over, so call it again at
// RenewAt.
func (s *Service) Server(ctx context.Context, listener string, hosts []string, t profile.KeyType) (*Presented, error) {
	if len(hosts) == 0 {
		return nil, fault.New(fault.ParameterInvalid, "a TLS server needs at least one host")
	}
	return s.ensure(ctx, wanted{
		uri: "file:tls-" + listener + "-" + string(t), keyType: t, profile: "tls-server",
		values: func(i Installation) profile.Values {
			return profile.Values{Organization: i.Organization, Hosts: hosts}
		},
		fits: func(cert *x509.Certificate) bool { return slices.Equal(hostsOf(cert), normal(hosts)) },
	})
}

func hostsOf(cert *x509.Certificate) []string {
	hosts := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return normal(hosts)
}

// normal sorts hosts and writes addresses in their one form.
func normal(hosts []string) []string {
	hosts = slices.Clone(hosts)
	for i, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			hosts[i] = a.Unmap().String()
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Responder returns this node's OCSP responder of an authority. For an issuing
// authority it issues or renews the certificate as needed; that of a root comes
// from a root session, and is fault.KeyUnavailable without one.
func (s *Service) Responder(ctx context.Context, authority string) (*Presented, error) {
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	m, err := snap.Authority(authority)
	if err != nil {
		return nil, err
	}
	if m.Issuer == nil {
		return s.existing(ctx, m)
	}
	name, err := s.responderProfile(ctx, snap, m.Name)
	if err != nil {
		return nil, err
	}
	return s.ensure(ctx, wanted{
		uri: responderURI(m.Name), keyType: profile.P256, profile: name,
		values: func(i Installation) profile.Values { return authorityValues(i, "", "OCSP "+m.Name) },
		fits: func(cert *x509.Certificate) bool {
			return bytes.Equal(cert.RawIssuer, m.X509.RawSubject) && bytes.Equal(cert.AuthorityKeyId, m.X509.SubjectKeyId)
		},
	})
}

func responderURI(authority string) string { return "file:responder-" + authority }

// responderProfile returns the name of the profile for responders of an
// authority, after deriving one from the preset when the store has none.
func (s *Service) responderProfile(ctx context.Context, snap *Snapshot, authority string) (string, error) {
	for _, r := range snap.Roads() {
		if r.Profile != nil && r.Profile.Kind == profile.KindOCSPResponder && r.Profile.Issuer == authority {
			return r.Version.Name, nil
		}
	}
	p, err := derived("ocsp-responder", authority, "issuing")
	if err != nil {
		return "", err
	}
	if _, err := s.addProfile(ctx, "system", p); err != nil {
		return "", err
	}
	_, err = s.Refresh(ctx)
	return p.Name, err
}

// derived returns a preset for another issuer than the usual one, named after
// it.
func derived(preset, issuer, usual string) (*profile.Profile, error) {
	text, ok := profile.Preset(preset)
	if !ok {
		return nil, fault.New(fault.ProfileUnknown, preset)
	}
	if issuer == usual {
		return profile.Parse(text)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "name:"):
			lines = append(lines, "name: "+preset+"-"+issuer+"\n", "issuer: "+issuer+"\n")
		case !strings.HasPrefix(line, "issuer:"):
			lines = append(lines, line)
		}
	}
	return profile.Parse([]byte(strings.Join(lines, "")))
}

// CreateResponder makes or renews the OCSP responder that answers for what this
// root has signed. Its key is opened by the server without a person.
func (r *RootSession) CreateResponder(ctx context.Context, actor string) (device.Credential, error) {
	s := r.service
	p, err := derived("ocsp-responder-root", r.root.Name, "root")
	if err != nil {
		return device.Credential{}, err
	}
	version, err := s.addProfile(ctx, actor, p)
	if err != nil {
		return device.Credential{}, err
	}
	slot, err := s.ownKey(ctx, responderURI(r.root.Name), profile.P256)
	if err != nil {
		return device.Credential{}, err
	}
	issuer, err := r.Issuer()
	if err != nil {
		return device.Credential{}, err
	}
	return s.certify(ctx, actor, func(snap *Snapshot) (*decision, error) {
		m, ok := snap.AuthorityByID(r.root.ID)
		if !ok || m.State != Active && m.State != Retired {
			return nil, fault.New(fault.AuthorityState, r.root.Name)
		}
		compiled, err := issuing.New(p, issuer)
		if err != nil {
			return nil, err
		}
		return &decision{
			authority: &m.Authority, version: version, compiled: compiled, spki: slot.spki, keyKind: device.KeyOurs,
			sameKeyAs: slot.credential.ID, values: authorityValues(snap.Installation, "", "OCSP "+m.Name),
		}, nil
	})
}

// existing returns a responder that was certified elsewhere.
func (s *Service) existing(ctx context.Context, m *Member) (*Presented, error) {
	for n := range ownKeys {
		uri := numbered(responderURI(m.Name), n)
		key, err := s.openKey(ctx, uri)
		if err != nil {
			return nil, fault.Wrap(fault.KeyUnavailable, err, "no OCSP responder for", m.Name)
		}
		slot, err := s.slotOf(ctx, uri, key)
		if err != nil {
			return nil, err
		}
		if slot.credential.ID != 0 && !slot.ended() {
			return slot.present(m)
		}
	}
	return nil, fault.New(fault.KeyUnavailable, "no OCSP responder for", m.Name)
}

// slot is a key of ours with its newest certificate, if it has one.
type slot struct {
	key        keystore.Key
	spki       []byte
	credential device.Credential
}

// ended reports whether the key was given up: its certificate was revoked.
func (k *slot) ended() bool {
	return k.credential.State == device.Revoked || k.credential.State == device.Held
}

func (k *slot) present(m *Member) (*Presented, error) {
	cert, err := x509.ParseCertificate(k.credential.DER)
	if err != nil {
		return nil, err
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	chain := [][]byte{k.credential.DER}
	if m.Kind != Root {
		chain = append(chain, m.Chain...)
	}
	return &Presented{
		Credential: k.credential, X509: cert, Key: k.key, Chain: chain,
		RenewAt: cert.NotBefore.Add(life / 3 * 2),
	}, nil
}

// numbered names the keys that one name of ours goes through.
func numbered(uri string, n int) string {
	if n == 0 {
		return uri
	}
	return uri + "-" + strconv.Itoa(n+1)
}

// ownKey opens or makes the key of a name of ours, the first whose certificate
// was not revoked.
func (s *Service) ownKey(ctx context.Context, uri string, t profile.KeyType) (*slot, error) {
	for n := range ownKeys {
		at := numbered(uri, n)
		key, err := s.openOrMake(ctx, at, t)
		if err != nil {
			return nil, err
		}
		k, err := s.slotOf(ctx, at, key)
		if err != nil || !k.ended() {
			return k, err
		}
	}
	return nil, fault.New(fault.KeyExists, uri, "and its successors were revoked")
}

func (s *Service) slotOf(ctx context.Context, uri string, key keystore.Key) (*slot, error) {
	spki, err := spkiOf(key)
	if err != nil {
		return nil, err
	}
	k := &slot{key: key, spki: spki}
	k.credential, err = s.register.CredentialBySPKI(ctx, access.Everything(), sha256.Sum256(spki))
	switch {
	case fault.Has(err, fault.CredentialUnknown):
		return k, nil
	case err != nil:
		return nil, err
	case k.credential.Device != 0:
		return nil, fault.New(fault.KeyInUse, uri)
	}
	return k, nil
}

func (s *Service) openOrMake(ctx context.Context, uri string, t profile.KeyType) (keystore.Key, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	if k, ok := s.opened[uri]; ok {
		return k, nil
	}
	secret, err := s.secret(uri)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err)
	}
	k, err := s.makeKey(ctx, uri, t, secret)
	if err != nil {
		return nil, err
	}
	s.opened[uri] = k
	return k, nil
}

// ensure returns the certificate of a name of ours, issuing it when there is
// none that will do.
func (s *Service) ensure(ctx context.Context, w wanted) (*Presented, error) {
	k, err := s.ownKey(ctx, w.uri, w.keyType)
	if err != nil {
		return nil, err
	}
	var m *Member
	decide := func(snap *Snapshot) (*decision, error) {
		road, err := snap.Road(w.profile)
		if err != nil {
			return nil, err
		}
		m = road.Authority
		return &decision{
			authority: &m.Authority, version: road.Version, compiled: road.Compiled, spki: k.spki,
			keyKind: device.KeyOurs, sameKeyAs: k.credential.ID, values: w.values(snap.Installation),
		}, nil
	}
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if p := s.usable(snap, k, w); p != nil {
		return p, nil
	}
	if k.credential, err = s.certify(ctx, "system", decide); err != nil {
		return nil, err
	}
	return k.present(m)
}

// usable returns what is there if it will do.
func (s *Service) usable(snap *Snapshot, k *slot, w wanted) *Presented {
	m, ok := snap.AuthorityByID(k.credential.Authority)
	if !ok || !snap.sound(m) {
		return nil
	}
	p, err := k.present(m)
	if err != nil || !w.fits(p.X509) || !s.now().Before(p.RenewAt) {
		return nil
	}
	return p
}
