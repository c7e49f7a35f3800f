package authority

import (
	"context"
	"crypto/x509"
	"maps"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Snapshot is the control plane at one epoch, made ready: keys opened, profiles
// compiled. It never changes; a change of the control plane makes a new one.
type Snapshot struct {
	Epoch        int64
	Installation Installation

	authorities []*Member
	byID        map[int64]*Member
	byName      map[string]*Member
	roads       map[string]*Road
	versions    map[int64]string // profile names by version id, of all versions
	products    map[int64]device.Product
	labels      map[string]Label
}

// Member is an authority with what a snapshot made of its row.
type Member struct {
	Authority
	X509   *x509.Certificate // nil while pending
	Chain  [][]byte          // DER of itself and its parents below the root, itself first; of a root: itself
	Root   []byte            // DER of the root it chains to, nil if that is not ours
	Issuer *issuing.Issuer   // nil unless the key is opened here
	Err    error             // why an active issuing authority's key is not opened
}

// Road is the way to certificates under one profile: its newest version,
// compiled against its issuer.
type Road struct {
	Version   ProfileVersion
	Profile   *profile.Profile
	Authority *Member
	Compiled  *issuing.Compiled
	Chain     [][]byte // DER of the issuing authorities below the root, issuer first

	organization string
	products     map[int64]device.Product
	err          error // why nothing can be issued under it
}

// Values returns what the register knows of a device, for a certificate.
func (r *Road) Values(d *device.Device) profile.Values {
	return profile.Values{
		DeviceSerial: d.DeviceSerial,
		DeviceID:     d.ID.String(),
		Product:      r.products[d.Product].Name,
		Organization: r.organization,
	}
}

// StationValues returns what the register knows of a station, for its
// certificate.
func (r *Road) StationValues(name, site string) profile.Values {
	return profile.Values{CommonName: name, Site: site, Organization: r.organization}
}

// Product returns a product by its id.
func (s *Snapshot) Product(id int64) (device.Product, bool) {
	p, ok := s.products[id]
	return p, ok
}

// Label returns an EST label.
func (s *Snapshot) Label(name string) (Label, bool) {
	l, ok := s.labels[name]
	return l, ok
}

// Labels returns all labels in order of their names.
func (s *Snapshot) Labels() []Label {
	var all []Label
	for _, l := range s.labels {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Label) int { return compare(a.Name, b.Name) })
	return all
}

// ProfileName returns the name of the profile that a version belongs to, or ""
// for a version that does not exist.
func (s *Snapshot) ProfileName(version int64) string { return s.versions[version] }

// Road returns the way to certificates under the newest version of a profile,
// or why there is none.
func (s *Snapshot) Road(name string) (*Road, error) {
	r, ok := s.roads[name]
	if !ok {
		return nil, fault.New(fault.ProfileUnknown, name)
	}
	if r.err != nil {
		return nil, r.err
	}
	return r, nil
}

// Roads returns the newest version of every profile in order of names, also of
// those under which nothing can be issued now.
func (s *Snapshot) Roads() []*Road {
	var all []*Road
	for _, r := range s.roads {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Road) int { return compare(a.Version.Name, b.Version.Name) })
	return all
}

// Err says why nothing can be issued under this profile now; nil if something
// can.
func (r *Road) Err() error { return r.err }

// Authority returns an authority by its name.
func (s *Snapshot) Authority(name string) (*Member, error) {
	m, ok := s.byName[name]
	if !ok {
		return nil, fault.New(fault.AuthorityUnknown, name)
	}
	return m, nil
}

// AuthorityByID returns an authority by its number.
func (s *Snapshot) AuthorityByID(id int64) (*Member, bool) {
	m, ok := s.byID[id]
	return m, ok
}

// Authorities returns all authorities in the order in which they were made.
func (s *Snapshot) Authorities() []*Member { return slices.Clone(s.authorities) }

// Trusted returns the certificates of roots and issuing authorities whose
// certificates our listeners may accept: neither pending nor revoked, nor below
// a revoked one.
func (s *Snapshot) Trusted() []*Member {
	var trusted []*Member
	for _, m := range s.authorities {
		if s.sound(m) {
			trusted = append(trusted, m)
		}
	}
	return trusted
}

// sound reports whether an authority and all above it are good.
func (s *Snapshot) sound(m *Member) bool {
	for range len(s.authorities) {
		if m.State != Active && m.State != Retired || m.X509 == nil {
			return false
		}
		if m.Parent == 0 {
			return true
		}
		parent, ok := s.byID[m.Parent]
		if !ok {
			return false
		}
		m = parent
	}
	return false
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Snapshot returns the current view of the control plane; after the first call
// it costs a pointer read.
func (s *Service) Snapshot(ctx context.Context) (*Snapshot, error) {
	if snap := s.current.Load(); snap != nil {
		return snap, nil
	}
	return s.Refresh(ctx)
}

// Refresh reads the control plane anew and returns a view that is not older
// than this call. Those who wait for a read that has not begun share it.
func (s *Service) Refresh(ctx context.Context) (*Snapshot, error) {
	begun := s.begun.Load()
	s.loading.Lock()
	defer s.loading.Unlock()
	if snap := s.current.Load(); snap != nil && s.loaded > begun {
		return snap, nil
	}
	turn := s.begun.Add(1)
	snap, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	s.loaded = turn
	s.current.Store(snap)
	return snap, nil
}

// RefreshAfter returns a view of a newer epoch than this one, or the newest
// there is. Callers whose decision STORE refused as stale meet in one read.
func (s *Service) RefreshAfter(ctx context.Context, epoch int64) (*Snapshot, error) {
	if snap := s.current.Load(); snap != nil && snap.Epoch > epoch {
		return snap, nil
	}
	return s.Refresh(ctx)
}

// FollowedClasses are the classes of entries that Follow wants.
const FollowedClasses = ledger.ClassControl

// Follow takes a batch of the change feed: another node may have changed the
// control plane.
func (s *Service) Follow(ctx context.Context, b ledger.Batch) error {
	if b.Classes&FollowedClasses == 0 || s.current.Load() == nil {
		return nil
	}
	_, err := s.Refresh(ctx)
	return err
}

// load makes a snapshot. The caller holds loading.
func (s *Service) load(ctx context.Context) (*Snapshot, error) {
	c, err := s.store.Control(ctx)
	if err != nil {
		return nil, err
	}
	installation, err := s.store.Installation(ctx)
	if err != nil {
		return nil, err
	}
	snap := &Snapshot{
		Epoch: c.Epoch, Installation: installation,
		byID: make(map[int64]*Member), byName: make(map[string]*Member),
		roads: make(map[string]*Road), products: make(map[int64]device.Product), labels: make(map[string]Label),
	}
	for _, p := range c.Products {
		snap.products[p.ID] = p
	}
	for _, l := range c.Labels {
		snap.labels[l.Name] = l
	}
	for _, a := range c.Authorities {
		m := s.member(ctx, a, installation)
		snap.authorities = append(snap.authorities, m)
		snap.byID[a.ID], snap.byName[a.Name] = m, m
	}
	for _, m := range snap.authorities {
		snap.chain(m)
	}
	if err := s.nameVersions(ctx, c.Profiles); err != nil {
		return nil, err
	}
	snap.versions = s.versions
	old := s.current.Load()
	for _, v := range c.Profiles {
		snap.roads[v.Name] = s.road(snap, old, v)
	}
	return snap, nil
}

// member opens an authority's key if it is one that a server opens.
func (s *Service) member(ctx context.Context, a Authority, i Installation) *Member {
	m := &Member{Authority: a}
	if len(a.Certificate) == 0 {
		return m
	}
	m.X509, m.Err = x509.ParseCertificate(a.Certificate)
	if m.Err != nil {
		m.X509 = nil
		return m
	}
	// A root's key is opened in a session only. A retired authority still signs
	// CRLs and its responder.
	if a.Kind != Issuing || a.KeyURI == "" || a.State != Active && a.State != Retired {
		return m
	}
	key, err := s.issuingKey(ctx, a.KeyURI, m.X509.PublicKey)
	if err != nil {
		m.Err = err
		s.log.WarnContext(ctx, "the key of an authority is not available", "authority", a.Name, "error", err)
		return m
	}
	m.Issuer = newIssuer(a, key, i, s.random)
	return m
}

// chain fills the way from m to its root.
func (s *Snapshot) chain(m *Member) {
	for at := m; len(m.Chain) < 8; {
		if at.Kind == Root {
			m.Root = at.Certificate
			break
		}
		m.Chain = append(m.Chain, at.Certificate)
		parent, ok := s.byID[at.Parent]
		if !ok {
			break
		}
		at = parent
	}
	if m.Kind == Root && m.Certificate != nil {
		m.Chain = [][]byte{m.Certificate}
	}
}

// nameVersions learns the names of versions that are not known yet: rows are
// never changed, so each is read once. The caller holds loading.
func (s *Service) nameVersions(ctx context.Context, newest []ProfileVersion) error {
	known := make(map[int64]string, len(s.versions)+len(newest))
	maps.Copy(known, s.versions)
	for _, v := range newest {
		if known[v.ID] != "" {
			continue
		}
		all, err := s.store.ProfileVersions(ctx, v.Name)
		if err != nil {
			return err
		}
		for _, old := range all {
			known[old.ID] = v.Name
		}
		known[v.ID] = v.Name
	}
	s.versions = known
	return nil
}

// road compiles the newest version of a profile, or takes it from the snapshot
// before. What fails concerns this profile alone.
func (s *Service) road(snap, old *Snapshot, v ProfileVersion) *Road {
	r := &Road{Version: v, organization: snap.Installation.Organization, products: snap.products}
	if old != nil {
		if before := old.roads[v.Name]; before != nil && before.Version.ID == v.ID {
			r.Profile = before.Profile
			if before.Compiled != nil && sameIssuer(before.Authority, snap.byName[r.Profile.Issuer]) {
				r.Compiled = before.Compiled
			}
		}
	}
	if r.Profile == nil {
		if r.Profile, r.err = profile.Parse(v.Text); r.err != nil {
			return r
		}
	}
	if r.Profile.Kind == profile.KindRoot {
		r.err = fault.New(fault.AuthorityState, "a root issues in a session of its own")
		return r
	}
	m, ok := snap.byName[r.Profile.Issuer]
	if !ok {
		r.err = fault.New(fault.AuthorityUnknown, r.Profile.Issuer)
		return r
	}
	r.Authority, r.Chain = m, m.Chain
	switch {
	case m.State != Active || !snap.sound(m):
		r.err = fault.New(fault.AuthorityState, m.Name)
	case m.Err != nil:
		r.err = fault.Wrap(fault.KeyUnavailable, m.Err)
	case m.Issuer == nil:
		r.err = fault.New(fault.AuthorityState, m.Name, "has its key elsewhere")
	case r.Compiled == nil:
		r.Compiled, r.err = issuing.New(r.Profile, m.Issuer)
	}
	return r
}

// sameIssuer reports whether what was compiled against before still holds.
func sameIssuer(before, now *Member) bool {
	return before != nil && now != nil && before.ID == now.ID && string(before.Certificate) == string(now.Certificate) &&
		before.Issuer != nil && now.Issuer != nil && before.Issuer.Key == now.Issuer.Key &&
		before.Issuer.StatusURL == now.Issuer.StatusURL
}
