package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

// Trust is whose TPMs are genuine: imported bundles, compiled. It is safe for
// concurrent use and never changes, but for remembering which signatures of
// authorities it has checked.
type Trust struct {
	anchors        *chain.Pool
	intermediates  *chain.Pool
	known          map[[32]byte]bool          // SHA-256 of each certificate in a bundle
	makers         map[[32]byte][]*makerTrust // by SHA-256 of a root: who may vouch with it
	denied         []denial
	deniesFirmware bool
	verifier       *chain.Verifier
	forms          []wire.Template
}

// makerTrust is a maker of a bundle.
type makerTrust struct {
	name          string
	bundle        string
	vendors       []string // eight hexadecimal digits each; none: any
	acceptExpired bool
}

// NewTrust compiles bundles, the newest of each name. What ParseRoots returned
// compiles.
func NewTrust(files []*attest.RootsFile) (*Trust, error) {
	verifier, err := chain.NewVerifier(chain.Config{})
	if err != nil {
		return nil, err
	}
	t := &Trust{
		anchors: chain.NewPool(), intermediates: chain.NewPool(),
		known: map[[32]byte]bool{}, makers: map[[32]byte][]*makerTrust{},
		verifier: verifier, forms: wire.EKTemplates(),
	}
	for _, f := range files {
		if err := t.add(f); err != nil {
			return nil, fault.New(fault.RootsInvalid, f.Name, err)
		}
	}
	return t, nil
}

func (t *Trust) add(f *attest.RootsFile) error {
	for i := range f.Makers {
		m, err := parseMaker(&f.Makers[i])
		if err != nil {
			return fmt.Errorf("maker %d: %w", i+1, err)
		}
		trusted := &makerTrust{
			name: m.name, bundle: fmt.Sprintf("%s %d", f.Name, f.Version), vendors: m.vendors, acceptExpired: f.Makers[i].AcceptExpired,
		}
		for _, root := range m.roots {
			id := sha256.Sum256(root.Raw)
			t.known[id] = true
			t.makers[id] = append(t.makers[id], trusted)
		}
		t.anchors.Add(m.roots...)
		for _, c := range m.intermediates {
			t.known[sha256.Sum256(c.Raw)] = true
		}
		t.intermediates.Add(m.intermediates...)
	}
	for i := range f.Deny {
		d, err := parseDeny(&f.Deny[i])
		if err != nil {
			return fmt.Errorf("deny %d: %w", i+1, err)
		}
		t.denied = append(t.denied, d)
		t.deniesFirmware = t.deniesFirmware || d.byFirmware()
	}
	return nil
}

// ClaimOptions is what the judgment of a claim needs besides the claim.
type ClaimOptions struct {
	Now time.Time
	// Listed reports whether an EK is in an imported manifest, by the SHA-256 of
	// its SubjectPublicKeyInfo. It is asked only about an EK that no maker vouches
	// for. Nil: nothing is listed.
	Listed func(ek [32]byte) (bool, error)
}

func (o *ClaimOptions) listed(ek [32]byte) (bool, error) {
	if o.Listed == nil {
		return false, nil
	}
	return o.Listed(ek)
}

// Check judges a claim: EK certificate, chain, deny list, EK, AK. Nothing is proven
// by it yet; refusals are fault.AttestMalformed and 9010 to 9021.
func (t *Trust) Check(c *wire.Claim, o ClaimOptions) (*TPM, error) {
	x := &TPM{AKPublic: c.AKPublic, EKCertificate: c.EKCertificate}
	var err error
	if len(c.EKCertificate) > 0 {
		err = t.checkCertified(x, c, &o)
	} else {
		err = t.checkBare(x, c.EKPublic, &o)
	}
	if err != nil {
		return nil, err
	}
	if _, err := ParseAK(c.AKPublic); err != nil {
		return nil, err
	}
	return x, nil
}

// checkCertified judges an EK with a certificate. A certificate that leads nowhere
// does no harm to an EK that a manifest lists: then it counts for nothing, except
// that the deny list is asked about what it says.
func (t *Trust) checkCertified(x *TPM, c *wire.Claim, o *ClaimOptions) error {
	cert, err := parseEKCertificate(c.EKCertificate)
	if err != nil {
		return err
	}
	// Encoded anew: one key has one digest, however a certificate spells it.
	if x.EKSPKI, err = x509.MarshalPKIXPublicKey(cert.PublicKey); err != nil {
		return fault.Wrap(fault.EKCertificate, err)
	}
	x.EK = sha256.Sum256(x.EKSPKI)
	if err := t.vouch(x, cert, c.EKChain, o); err != nil {
		return err
	}
	if err := t.checkDenied(cert.names); err != nil {
		return err
	}
	if x.EKForm, x.EKPublic = t.rebuild(cert.PublicKey, c.EKPublic); x.EKPublic != nil {
		return nil
	}
	sent, err := wire.ParsePublic(c.EKPublic)
	if err != nil {
		return err
	}
	if !bytes.Equal(sent.SPKI, x.EKSPKI) {
		return fault.New(fault.EKMismatch)
	}
	return fault.New(fault.EKTemplate)
}

// checkBare judges an EK without a certificate: only a list can vouch for it.
func (t *Trust) checkBare(x *TPM, public []byte, o *ClaimOptions) error {
	sent, err := wire.ParsePublic(public)
	if err != nil {
		return err
	}
	x.EKSPKI, x.EK = sent.SPKI, sha256.Sum256(sent.SPKI)
	if x.EKForm, x.EKPublic = t.rebuild(sent.Key, public); x.EKPublic == nil {
		return fault.New(fault.EKTemplate)
	}
	listed, err := o.listed(x.EK)
	if err != nil {
		return err
	}
	if !listed {
		return fault.New(fault.EKNotListed)
	}
	return nil
}

// rebuild makes the EK's public area from each standard form around the key and
// returns the one that is, octet for octet, what the device sent. A device could
// otherwise put a certified key into an object of its own making.
func (t *Trust) rebuild(key any, sent []byte) (form string, public []byte) {
	for _, f := range t.forms {
		if !f.Fits(key) {
			continue
		}
		if public, err := wire.EKPublic(f, key); err == nil && bytes.Equal(public, sent) {
			return f.Name, public
		}
	}
	return "", nil
}

// vouch finds a way from the certificate to a maker's root, or asks whether the EK
// is listed.
func (t *Trust) vouch(x *TPM, cert *ekCertificate, presented [][]byte, o *ClaimOptions) error {
	refusal := t.climb(x, cert, presented, o.Now)
	if refusal == nil || fault.Of(refusal).Kind == fault.Internal {
		return refusal
	}
	listed, err := o.listed(x.EK)
	if err != nil {
		return err
	}
	if listed {
		return nil
	}
	return refusal
}

// maxWork bounds the search for a path: it is enough for five authorities on P-521,
// and a hostile chain costs no more.
const maxWork = 30_000

// climb finds a path to a root and the maker behind it.
func (t *Trust) climb(x *TPM, cert *ekCertificate, presented [][]byte, now time.Time) error {
	further, err := t.parseChain(presented)
	if err != nil {
		return err
	}
	o := chain.Options{Anchors: t.anchors, Intermediates: t.intermediates, Presented: further, At: now, MaxWork: maxWork}
	path, err := t.verifier.Verify(context.Background(), cert.Certificate, o)
	var expired error
	if f := fault.Of(err); fault.Has(err, fault.ChainExpired) {
		// Judged again for the day it was issued: then all of its authorities had to
		// be valid, and the maker's entry says whether that is enough.
		expired = fault.New(fault.EKExpired, f.Detail)
		o.At = cert.NotBefore
		if path, err = t.verifier.Verify(context.Background(), cert.Certificate, o); err != nil {
			return expired
		}
	}
	switch f := fault.Of(err); {
	case err == nil:
	case f.Code == fault.Unexpected:
		return err
	case f.Code == fault.ChainNotYetValid:
		return fault.New(fault.EKExpired, f.Detail)
	default:
		return fault.Wrap(fault.EKUntrusted, err, strings.TrimSuffix(f.Message+": "+f.Detail, ": "))
	}
	return t.attribute(x, cert, path, expired)
}

// attribute finds the maker whose root ends the path, and whether it may vouch for
// TPMs of this vendor.
func (t *Trust) attribute(x *TPM, cert *ekCertificate, path *chain.Path, expired error) error {
	if why := narrowed(path); why != "" {
		return fault.New(fault.EKUntrusted, why)
	}
	root := sha256.Sum256(path.Anchor.Certificate.Raw)
	refusal := fault.New(fault.EKUntrusted, "the maker does not make TPMs of", cert.names.Manufacturer)
	for _, m := range t.makers[root] {
		if !m.makes(cert.names.Manufacturer) {
			continue
		}
		if expired != nil && !m.acceptExpired {
			refusal = fault.Of(expired)
			continue
		}
		x.Genuine, x.Expired, x.Maker, x.Bundle = true, expired != nil, m.name, m.bundle
		x.Vendor, x.Model, x.Version = cert.names.Manufacturer, cert.names.Model, cert.names.Version
		x.HardwareSerial = cert.hardwareSerial()
		for _, c := range path.Certificates[1:] {
			if !t.known[sha256.Sum256(c.Raw)] {
				x.EKChain = append(x.EKChain, c.Raw)
			}
		}
		return nil
	}
	return refusal
}

func (m *makerTrust) makes(manufacturer string) bool {
	if len(m.vendors) == 0 {
		return true
	}
	vendor, ok := vendorNumber(manufacturer)
	return ok && slices.Contains(m.vendors, vendor)
}

// narrowed says which authority of the path is for other certificates than those of
// endorsement keys, or nothing.
func narrowed(path *chain.Path) string {
	for _, c := range path.Certificates[1:] {
		if c == path.Anchor.Certificate || len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
			continue
		}
		if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal) {
			return "an authority on the way to the root is not for endorsement keys"
		}
	}
	return ""
}

// parseChain reads the certificates that a claim carries, but for those that the
// bundles have already.
func (t *Trust) parseChain(presented [][]byte) ([]*x509.Certificate, error) {
	if len(presented) > maxChain {
		return nil, fault.New(fault.EKUntrusted, "the claim carries more than", maxChain, "certificates")
	}
	var certs []*x509.Certificate
	for _, der := range presented {
		if len(der) > maxCertificate {
			return nil, fault.New(fault.EKUntrusted, "a certificate of the chain has more than", maxCertificate, "octets")
		}
		if t.known[sha256.Sum256(der)] {
			continue
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Wrap(fault.EKUntrusted, err, "a certificate of the chain cannot be read")
		}
		certs = append(certs, c)
	}
	return certs, nil
}
