package issuing

import (
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/lint"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Compiled is a profile under an issuer as DER with holes. It never changes and
// may be used by many goroutines.
type Compiled struct {
	profile    *profile.Profile
	authority  *authority
	issuerName string // in addresses
	base       string // of addresses; empty: none

	name     []attribute
	altNames []altName
	points   [][]byte // cRLDistributionPoints of each shard
	layouts  map[profile.KeyType]*layout
}

// layout is the part of a certificate's extensions that the subject's key type
// decides.
type layout struct {
	intent []extension
	pieces []piece
	size   int // octets of all fixed pieces
}

// piece is a run of fixed extensions, or a hole.
type piece struct {
	fixed []byte
	hole  hole
}

// New compiles a profile under an issuer. It lints a sample for each key type
// that the profile allows and refuses what breaks a rule with
// fault.ProfileLint.
func New(p *profile.Profile, iss *Issuer) (*Compiled, error) {
	c, err := compile(p, iss)
	if err != nil {
		return nil, err
	}
	for _, t := range p.Keys {
		der, err := c.sample(t)
		if err != nil {
			return nil, err
		}
		findings := append(lint.Certificate(der), lint.AgainstProfile(der, p)...)
		if why := worst(findings); why != "" {
			return nil, fault.New(fault.ProfileLint, p.Name, "with", t, "key:", why)
		}
	}
	return c, nil
}

// worst joins the errors among findings.
func worst(findings []lint.Finding) string {
	var lines []string
	for _, f := range findings {
		if f.Severity == lint.Error {
			lines = append(lines, f.Message+" ("+f.Source+")")
		}
	}
	return strings.Join(lines, "; ")
}

func compile(p *profile.Profile, iss *Issuer) (*Compiled, error) {
	a, err := newAuthority(iss)
	if err != nil {
		return nil, err
	}
	if (a.certificate == nil) != (p.Kind == profile.KindRoot) {
		return nil, fault.New(fault.AuthorityInvalid, "a root signs itself, and nothing else does")
	}
	if err := a.mayIssue(p); err != nil {
		return nil, err
	}
	c := &Compiled{
		profile: p, authority: a, issuerName: iss.Name, base: strings.TrimSuffix(iss.StatusURL, "/"),
		layouts: make(map[profile.KeyType]*layout),
	}
	if c.name, err = compileName(p.Subject); err != nil {
		return nil, err
	}
	if c.altNames, err = compileAltNames(p.AltNames); err != nil {
		return nil, err
	}
	for shard := range p.CRLShards {
		c.points = append(c.points, pointsValue(CRLURL(c.base, c.issuerName, shard)))
	}
	for _, t := range p.Keys {
		intent, err := c.extensions(t)
		if err != nil {
			return nil, err
		}
		c.layouts[t] = newLayout(intent)
	}
	return c, nil
}

// mayIssue refuses an issuer whose certificate does not allow what the profile
// is for.
func (a *authority) mayIssue(p *profile.Profile) error {
	if a.certificate == nil {
		return nil
	}
	if err := a.needs(x509.KeyUsageCertSign, "signing certificates"); err != nil {
		return err
	}
	limit := a.certificate.MaxPathLen
	if limit < 0 || limit == 0 && !a.certificate.MaxPathLenZero {
		return nil
	}
	if p.Kind.CA() && (p.PathLen < 0 || p.PathLen >= limit) {
		return fault.New(fault.AuthorityInvalid, "its path length leaves no room for this authority")
	}
	return nil
}

func newLayout(intent []extension) *layout {
	l := &layout{intent: intent}
	var run []byte
	for i := range intent {
		e := &intent[i]
		if e.hole == holeNone {
			run = e.appendTo(run)
			continue
		}
		l.pieces = append(l.pieces, piece{fixed: run}, piece{hole: e.hole})
		l.size += len(run)
		run = nil
	}
	l.pieces = append(l.pieces, piece{fixed: run})
	l.size += len(run)
	return l
}

// Profile returns the profile that was compiled.
func (c *Compiled) Profile() *profile.Profile { return c.profile }

// noExpiry is the time that says a certificate has no well-defined expiration
// date (RFC 5280, section 4.1.2.5).
var noExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Validity returns the times of a certificate that is issued now.
func (c *Compiled) Validity(now time.Time) (notBefore, notAfter time.Time, err error) {
	a, v := c.authority, &c.profile.Validity
	notBefore = start(v, now)
	if a.certificate == nil {
		return notBefore, end(v, notBefore), nil
	}
	now = now.UTC()
	if now.Before(a.notBefore) || now.After(a.notAfter) {
		return time.Time{}, time.Time{}, fault.New(fault.ValidityOutside, "the authority is valid from", stamp(a.notBefore), "to", stamp(a.notAfter))
	}
	if notBefore.Before(a.notBefore) {
		notBefore = a.notBefore
		if v.AlignHour && !notBefore.Equal(notBefore.Truncate(time.Hour)) {
			return time.Time{}, time.Time{}, fault.New(fault.ValidityOutside, "the authority has not been valid for a full hour")
		}
	}
	notAfter = end(v, notBefore)
	if notAfter.After(a.notAfter) && !v.NoExpiry {
		if !v.Shorten {
			return time.Time{}, time.Time{}, fault.New(fault.ValidityOutside, "the authority ends", stamp(a.notAfter))
		}
		notAfter = a.notAfter
	}
	return notBefore, notAfter, nil
}

func stamp(t time.Time) string { return t.Format(time.RFC3339) }

// start returns notBefore of a certificate made now.
func start(v *profile.Validity, now time.Time) time.Time {
	t := now.UTC().Add(-v.Backdate).Truncate(time.Second)
	if !v.AlignHour {
		return t
	}
	t = t.Truncate(time.Hour)
	if v.WholeYears && !v.NoExpiry && t.Month() == time.February && t.Day() == 29 && t.AddDate(v.Years, 0, 0).Day() != 29 {
		// A chip that changes only the year of 29 February would show a day that
		// does not exist, so the certificate starts in the last hour of the 28th.
		t = time.Date(t.Year(), time.February, 28, 23, 0, 0, 0, time.UTC)
	}
	return t
}

// end returns the notAfter that belongs to a notBefore. Both ends are inclusive,
// so a year has its last second before its first comes round again.
func end(v *profile.Validity, notBefore time.Time) time.Time {
	switch {
	case v.NoExpiry:
		return noExpiry
	case v.WholeYears:
		return notBefore.AddDate(v.Years, 0, 0)
	case v.Years > 0:
		return notBefore.AddDate(v.Years, 0, 0).Add(-time.Second)
	}
	return notBefore.Add(time.Duration(v.Days)*24*time.Hour + time.Duration(v.Hours)*time.Hour - time.Second)
}

var errValidity = errors.New("issuing: validity is not what the profile and the issuer give")

// checkValidity refuses times that Validity would not have given at any moment.
func (c *Compiled) checkValidity(in *Input) error {
	a, v := c.authority, &c.profile.Validity
	if !whole(in.NotBefore) || !whole(in.NotAfter) || !in.NotBefore.Before(in.NotAfter) {
		return errValidity
	}
	if v.AlignHour && !in.NotBefore.Equal(in.NotBefore.Truncate(time.Hour)) {
		return errValidity
	}
	want := end(v, in.NotBefore.UTC())
	if a.certificate == nil {
		if !in.NotAfter.Equal(want) {
			return errValidity
		}
		return nil
	}
	if in.NotBefore.Before(a.notBefore) || in.NotAfter.After(a.notAfter) && !v.NoExpiry {
		return fault.New(fault.ValidityOutside, "the authority is valid from", stamp(a.notBefore), "to", stamp(a.notAfter))
	}
	if v.Shorten && want.After(a.notAfter) {
		want = a.notAfter
	}
	if !in.NotAfter.Equal(want) {
		return errValidity
	}
	return nil
}
