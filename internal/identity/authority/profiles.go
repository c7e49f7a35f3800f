package authority

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// profileBody is the ledger's record of a profile version. The text is on
// record by its digest; the store numbers the version.
type profileBody struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// ImportProfile parses a profile, compiles it against its issuer, and stores it
// as the next version of its name. The text of the newest version again changes
// nothing.
func (s *Service) ImportProfile(ctx context.Context, actor string, text []byte) (ProfileVersion, error) {
	p, err := profile.Parse(text)
	if err != nil {
		return ProfileVersion{}, err
	}
	snap, err := s.Refresh(ctx)
	if err != nil {
		return ProfileVersion{}, err
	}
	if err := snap.fits(p); err != nil {
		return ProfileVersion{}, err
	}
	v, err := s.addProfile(ctx, actor, p)
	if err != nil {
		return ProfileVersion{}, err
	}
	_, err = s.Refresh(ctx)
	return v, err
}

// fits refuses a profile that its issuer could not issue under. A root's own
// profile and those that a root signs are compiled in its session.
func (s *Snapshot) fits(p *profile.Profile) error {
	if _, err := attest.Least(p.LeastEvidence); err != nil {
		return fault.New(fault.ProfileInvalid, "leastEvidence: must be one of", strings.Join(attest.LevelNames(), ", "))
	}
	if p.Kind == profile.KindRoot {
		return nil
	}
	m, err := s.Authority(p.Issuer)
	if err != nil {
		return err
	}
	if m.Certificate != nil && m.CRLShards != p.CRLShards && p.CRL {
		return fault.New(fault.ProfileInvalid, "crlShards: the authority", m.Name, "has", m.CRLShards)
	}
	if m.Issuer == nil {
		return nil
	}
	_, err = issuing.New(p, m.Issuer)
	return err
}

func (s *Service) addProfile(ctx context.Context, actor string, p *profile.Profile) (ProfileVersion, error) {
	return s.store.AddProfileVersion(ctx, ProfileVersion{
		Name: p.Name, Text: p.Text, Digest: p.Digest, Author: actor, ImportedAt: s.now(),
	}, s.entry(ledger.ProfileImported, actor, ledger.JSON(profileBody{Name: p.Name, Digest: hex.EncodeToString(p.Digest[:])})))
}

// preset returns the newest version of a profile, after storing the preset of
// that name if there is none yet.
func (s *Service) preset(ctx context.Context, actor, name string) (ProfileVersion, *profile.Profile, error) {
	versions, err := s.store.ProfileVersions(ctx, name)
	if err != nil && !fault.Has(err, fault.ProfileUnknown) {
		return ProfileVersion{}, nil, err
	}
	if len(versions) > 0 {
		v := slices.MaxFunc(versions, func(a, b ProfileVersion) int { return a.Version - b.Version })
		p, err := profile.Parse(v.Text)
		return v, p, err
	}
	text, ok := profile.Preset(name)
	if !ok {
		return ProfileVersion{}, nil, fault.New(fault.ProfileUnknown, name)
	}
	p, err := profile.Parse(text)
	if err != nil {
		return ProfileVersion{}, nil, err
	}
	v, err := s.addProfile(ctx, actor, p)
	return v, p, err
}

// ImportPresets stores every preset whose name is not taken and whose issuer
// exists and can issue under it, as init does. A fixed form, for one, cannot name
// one of several CRL shards.
func (s *Service) ImportPresets(ctx context.Context, actor string) error {
	snap, err := s.Refresh(ctx)
	if err != nil {
		return err
	}
	for _, name := range profile.Presets() {
		if _, taken := snap.roads[name]; taken {
			continue
		}
		p, err := snap.presetFor(name)
		if err == nil {
			err = snap.fits(p)
		}
		if fault.Has(err, fault.AuthorityUnknown) || fault.Has(err, fault.ValidityOutside) || fault.Has(err, fault.ProfileInvalid) {
			s.log.InfoContext(ctx, "a preset does not fit the authorities and was left out", "profile", name, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		if _, err := s.addProfile(ctx, actor, p); err != nil {
			return err
		}
	}
	_, err = s.Refresh(ctx)
	return err
}

// presetFor returns a preset with as many CRL shards as its issuer has.
func (s *Snapshot) presetFor(name string) (*profile.Profile, error) {
	text, ok := profile.Preset(name)
	if !ok {
		return nil, fault.New(fault.ProfileUnknown, name)
	}
	p, err := profile.Parse(text)
	if err != nil {
		return nil, err
	}
	m, ok := s.byName[p.Issuer]
	if !ok || !p.CRL || m.CRLShards == p.CRLShards {
		return p, nil
	}
	return profile.Parse(fmt.Appendf(text, "crlShards: %d\n", m.CRLShards))
}

// Profiles returns the newest version of every profile.
func (s *Service) Profiles(ctx context.Context) ([]ProfileVersion, error) {
	snap, err := s.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	var all []ProfileVersion
	for _, r := range snap.Roads() {
		all = append(all, r.Version)
	}
	return all, nil
}

// ProfileVersions returns all versions of a profile, oldest first.
func (s *Service) ProfileVersions(ctx context.Context, name string) ([]ProfileVersion, error) {
	all, err := s.store.ProfileVersions(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fault.New(fault.ProfileUnknown, name)
	}
	slices.SortFunc(all, func(a, b ProfileVersion) int { return a.Version - b.Version })
	return all, nil
}

// CheckProduct refuses a product that names a profile which is not there or is
// not for devices. Package device adds products; it cannot see profiles.
func (s *Snapshot) CheckProduct(p *device.Product) error {
	for _, name := range p.Profiles {
		r, ok := s.roads[name]
		if !ok {
			return fault.New(fault.ProfileUnknown, name)
		}
		if r.Profile == nil || !r.Profile.Kind.Device() {
			return fault.New(fault.ParameterInvalid, "profile", name, "is not for devices")
		}
	}
	return nil
}

var (
	labelName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
	// operations are the last path segments of EST, which a label cannot be
	// told from (RFC 7030, section 3.2.2).
	operations = []string{"cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs", "nonce", "tcg-csr"}
)

// SetLabel says what requests under an EST label mean.
func (s *Service) SetLabel(ctx context.Context, actor string, l Label) error {
	if !labelName.MatchString(l.Name) || slices.Contains(operations, l.Name) {
		return fault.New(fault.ParameterInvalid, "a label has 1 to 64 letters, digits, dots and dashes and is no EST operation")
	}
	if l.Wrap != 0 && (l.Wrap < 4 || l.Wrap > 76) {
		return fault.New(fault.ParameterInvalid, "wrap is 0 or 4 to 76")
	}
	if l.Purpose != "" && (!labelName.MatchString(l.Purpose) || l.Purpose == profile.PurposeAttestation) {
		return fault.New(fault.ParameterInvalid, "a purpose has letters, digits, dots and dashes; that of attestation keys is theirs alone")
	}
	snap, err := s.Refresh(ctx)
	if err != nil {
		return err
	}
	if err := snap.CheckProduct(&device.Product{Profiles: []string{l.Profile}}); err != nil {
		return err
	}
	if err := s.store.SetLabel(ctx, l, s.entry(ledger.LabelSet, actor, ledger.JSON(labelBody(l)))); err != nil {
		return err
	}
	_, err = s.Refresh(ctx)
	return err
}

// labelBody is the ledger's record of a label.
type labelBody struct {
	Name    string `json:"name"`
	Profile string `json:"profile"`
	Purpose string `json:"purpose"`
	Wrap    int    `json:"wrap"`
}

// productBody is the ledger's record of a product: the row after the act.
type productBody struct {
	Product       int64    `json:"product,omitempty"` // the store numbers a new row
	Name          string   `json:"name"`
	Description   string   `json:"description"`
	PartNumbers   []string `json:"part_numbers"`
	Profiles      []string `json:"profiles"`
	LeastEvidence string   `json:"least_evidence"`
	ChipTypes     []string `json:"chip_types,omitempty"`
	KeyModel      string   `json:"key_model,omitempty"`
	IDevIDProfile string   `json:"idevid_profile,omitempty"`
	SerialPattern string   `json:"serial_pattern,omitempty"`
	ExternalRef   string   `json:"external_ref,omitempty"`
}

var productName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._+-]{0,62}[A-Za-z0-9+])?$`)

// AddProduct adds a product whose profiles are there.
func (s *Service) AddProduct(ctx context.Context, actor string, p device.Product) (device.Product, error) {
	if err := s.checkProduct(ctx, &p); err != nil {
		return device.Product{}, err
	}
	p.CreatedAt = s.now()
	var err error
	p.ID, err = s.register.AddProduct(ctx, p, s.entry(ledger.ProductAdded, actor, productRecord(&p)))
	if err != nil {
		return device.Product{}, err
	}
	_, err = s.Refresh(ctx)
	return p, err
}

// ChangeProduct replaces what a product says, but not its name.
func (s *Service) ChangeProduct(ctx context.Context, actor string, p device.Product) error {
	if err := s.checkProduct(ctx, &p); err != nil {
		return err
	}
	if err := s.register.UpdateProduct(ctx, p, s.entry(ledger.ProductChanged, actor, productRecord(&p))); err != nil {
		return err
	}
	_, err := s.Refresh(ctx)
	return err
}

func (s *Service) checkProduct(ctx context.Context, p *device.Product) error {
	if !productName.MatchString(p.Name) {
		return fault.New(fault.ParameterInvalid, "a product's name has 1 to 64 letters, digits, spaces and . _ + -")
	}
	if _, err := attest.Least(p.LeastEvidence); err != nil {
		return fault.New(fault.ParameterInvalid, "least evidence: must be one of", strings.Join(attest.LevelNames(), ", "))
	}
	snap, err := s.Refresh(ctx)
	if err != nil {
		return err
	}
	return snap.CheckProduct(p)
}

func productRecord(p *device.Product) ledger.Body {
	return ledger.JSON(productBody{
		p.ID, p.Name, p.Description, p.PartNumbers, p.Profiles, p.LeastEvidence,
		p.ChipTypes, string(p.KeyModel), p.IDevIDProfile, p.SerialPattern, p.ExternalRef,
	})
}
