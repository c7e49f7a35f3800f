package tpm_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

// withCertificate is a claim of the bench's TPM with another certificate for the
// same EK.
func withCertificate(code fault.Code, name string, edit func(*tpmtest.Certificate)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		c := b.claim()
		c.EKCertificate = b.maker.Certify(t, b.chip.EK.Signer.Public(), tpmtest.Options{Edit: edit})
		_, err := b.check(c)
		return err
	}}
}

// withClaim is a claim that was tampered with.
func withClaim(code fault.Code, name string, edit func(t *testing.T, b *bench, c *wire.Claim)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		c := b.claim()
		c.EKChain = slices.Clone(c.EKChain)
		edit(t, b, &c)
		_, err := b.check(c)
		return err
	}}
}

// withMaker is a claim of a TPM whose maker has other authorities or another entry
// in the bundle.
func withMaker(code fault.Code, name string, o tpmtest.MakerOptions, edit func(*attest.Maker)) hostile {
	return hostile{code, name, func(t *testing.T, _ *bench) error {
		m := tpmtest.NewMaker(t, "Other Chips", o)
		b := devices(m, tpmtest.New(t, m, tpmtest.Options{}))
		file := tpmtest.Bundle(1, m)
		file.Makers[0].Intermediates = nil // the TPM carries them
		if edit != nil {
			edit(&file.Makers[0])
		}
		b.trust = trustIn(t, file)
		_, err := b.check(b.claim())
		return err
	}}
}

// denied is a claim while an entry is on the deny list.
func denied(name string, d attest.Deny) hostile {
	return hostile{fault.EKDenied, name, func(t *testing.T, b *bench) error {
		d.Reason = "broken"
		file := tpmtest.Bundle(5, b.maker)
		file.Deny = []attest.Deny{d}
		b.trust = trustIn(t, file)
		_, err := b.check(b.claim())
		return err
	}}
}

func ekCases() []hostile {
	return slices.Concat(ekCertificateCases(), ekChainCases(), ekDeniedCases(), ekKeyCases())
}

func ekCertificateCases() []hostile {
	critical := func(c *tpmtest.Certificate) {
		value, _ := asn1.Marshal("x")
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: value})
	}
	without := func(arc int) func(*tpmtest.Certificate) {
		return func(c *tpmtest.Certificate) {
			c.Names = slices.DeleteFunc(c.Names, func(n tpmtest.Name) bool { return n.Arc == arc })
		}
	}
	return []hostile{
		withClaim(fault.EKCertificate, "not a certificate", func(_ *testing.T, _ *bench, c *wire.Claim) { c.EKCertificate = []byte("certificate") }),
		withClaim(fault.EKCertificate, "an octet behind the certificate", func(_ *testing.T, _ *bench, c *wire.Claim) {
			c.EKCertificate = append(slices.Clone(c.EKCertificate), 0)
		}),
		withCertificate(fault.EKCertificate, "too long", func(c *tpmtest.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 3}, Value: make([]byte, 8<<10)})
		}),
		withClaim(fault.EKCertificate, "its key is Ed25519", func(t *testing.T, b *bench, c *wire.Claim) {
			key, _, _ := ed25519.GenerateKey(rand.Reader)
			c.EKCertificate = b.maker.Certify(t, key, tpmtest.Options{})
		}),
		withCertificate(fault.EKCertificate, "HPE DevID: another critical extension", critical),
		withCertificate(fault.EKCertificate, "no names", func(c *tpmtest.Certificate) { c.Names = nil; c.Subject = pkix.Name{CommonName: "x"} }),
		withCertificate(fault.EKCertificate, "no manufacturer", without(1)),
		withCertificate(fault.EKCertificate, "no model", without(2)),
		withCertificate(fault.EKCertificate, "no version", without(3)),
		withCertificate(fault.EKCertificate, "two manufacturers", func(c *tpmtest.Certificate) {
			c.Names = append(c.Names, tpmtest.Name{Arc: 1, Value: "id:494E5443"})
		}),
		withCertificate(fault.EKCertificate, "extKeyUsage of a TLS client", func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
		withCertificate(fault.EKCertificate, "extKeyUsage of an AK", func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		}),
		withCertificate(fault.EKCertificate, "keyUsage has signatures", func(c *tpmtest.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }),
		withCertificate(fault.EKCertificate, "keyUsage of the other kind of key", func(c *tpmtest.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
		withCertificate(fault.EKCertificate, "no usage at all", func(c *tpmtest.Certificate) { c.UnknownExtKeyUsage, c.KeyUsage = nil, 0 }),
		withCertificate(fault.EKCertificate, "a CA's", func(c *tpmtest.Certificate) { c.IsCA = true }),
	}
}

func ekChainCases() []hostile {
	sub := func(edit func(*x509.Certificate)) tpmtest.MakerOptions { return tpmtest.MakerOptions{EditIssuer: edit} }
	return []hostile{
		{fault.EKUntrusted, "a CA that is in no bundle", func(t *testing.T, b *bench) error {
			stranger := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{})
			chip := tpmtest.New(t, stranger, tpmtest.Options{})
			chip.EKChain = append(chip.EKChain, stranger.Root.Raw)
			_, err := b.check(chip.Claim(b.ak))
			return err
		}},
		withClaim(fault.EKUntrusted, "another signature", func(_ *testing.T, _ *bench, c *wire.Claim) {
			c.EKCertificate = slices.Clone(c.EKCertificate)
			c.EKCertificate[len(c.EKCertificate)-1] ^= 1
		}),
		withCertificate(fault.EKUntrusted, "signed by itself under the maker's name", func(c *tpmtest.Certificate) {
			key := tpmtest.RSA(new(testing.T), 2048)
			c.By = &tpmtest.Authority{Certificate: c.By.Certificate, Key: key}
			c.By.Certificate = &x509.Certificate{Raw: c.By.Raw, RawSubject: c.By.RawSubject, SubjectKeyId: c.By.SubjectKeyId, PublicKey: key.Public()}
		}),
		withMaker(fault.EKUntrusted, "an authority is missing", tpmtest.MakerOptions{}, func(m *attest.Maker) {
			m.Roots = [][]byte{m.Roots[0]}
		}).without(func(c *wire.Claim) { c.EKChain = nil }),
		withMaker(fault.EKUntrusted, "the maker does not make TPMs of this vendor", tpmtest.MakerOptions{}, func(m *attest.Maker) {
			m.Vendors = []string{"id:494E5443", "id:49465800"}
		}),
		withMaker(fault.EKUntrusted, "the issuing certificate is no CA's", sub(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), nil),
		withMaker(fault.EKUntrusted, "the issuing CA may not sign certificates", sub(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), nil),
		withMaker(fault.EKUntrusted, "the issuing CA is for TLS", sub(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil),
		withMaker(fault.EKUntrusted, "the issuing CA has an unknown critical extension", sub(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}}}
		}), nil),
		withMaker(fault.EKUntrusted, "the root allows no authority below it", tpmtest.MakerOptions{EditRoot: func(c *x509.Certificate) { c.MaxPathLenZero = true }}, nil),
		withMaker(fault.EKUntrusted, "SHA-1", tpmtest.MakerOptions{RSA: true, EditIssuer: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }}, nil),
		withClaim(fault.EKUntrusted, "a certificate of the chain is none", func(_ *testing.T, _ *bench, c *wire.Claim) { c.EKChain = [][]byte{{0x30, 0}} }),
		withClaim(fault.EKUntrusted, "a long certificate in the chain", func(_ *testing.T, _ *bench, c *wire.Claim) { c.EKChain = [][]byte{make([]byte, 9<<10)} }),
		withClaim(fault.EKUntrusted, "a long chain", func(_ *testing.T, _ *bench, c *wire.Claim) { c.EKChain = slices.Repeat(c.EKChain, 7) }),
		withCertificate(fault.EKExpired, "expired", func(c *tpmtest.Certificate) { c.NotAfter = now.Add(-time.Second) }),
		withCertificate(fault.EKExpired, "not valid yet", func(c *tpmtest.Certificate) { c.NotBefore = now.Add(time.Hour) }),
		withMaker(fault.EKExpired, "the issuing CA has expired", sub(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), nil),
		{fault.EKExpired, "not valid yet, of a maker whose expired ones are accepted", func(t *testing.T, b *bench) error {
			file := tpmtest.Bundle(5, b.maker)
			file.Makers[0].AcceptExpired = true
			b.trust = trustIn(t, file)
			return withCertificate(0, "", func(c *tpmtest.Certificate) { c.NotBefore = now.Add(time.Hour) }).try(t, b)
		}},
		{fault.EKExpired, "expired, and issued by a CA that was over by then", func(t *testing.T, _ *bench) error {
			m := tpmtest.NewMaker(t, "Other Chips", sub(func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, -7, 0) }))
			b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{}))
			file := tpmtest.Bundle(5, m)
			file.Makers[0].AcceptExpired = true
			b.trust = trustIn(t, file)
			_, err := b.check(b.claim())
			return err
		}},
	}
}

// without changes the claim of a case.
func (h hostile) without(edit func(*wire.Claim)) hostile {
	return hostile{h.code, h.name, func(t *testing.T, _ *bench) error {
		m := tpmtest.NewMaker(t, "Other Chips", tpmtest.MakerOptions{})
		b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{}))
		file := tpmtest.Bundle(1, m)
		file.Makers[0].Intermediates = nil
		b.trust = trustIn(t, file)
		c := b.claim()
		edit(&c)
		_, err := b.check(c)
		return err
	}}
}

func ekDeniedCases() []hostile {
	firmware := func(name string, hierarchy uint32, d attest.Deny) hostile {
		return hostile{fault.EKDenied, name, func(t *testing.T, b *bench) error {
			d.Vendor, d.Reason = "id:54455354", "broken"
			file := tpmtest.Bundle(5, b.maker)
			file.Deny = []attest.Deny{d}
			b.trust = trustIn(t, file)
			b.ak.Parent = hierarchy
			x := b.found(t)
			c, err := b.certified(b.answer(t))
			if err != nil {
				t.Fatal(err)
			}
			return b.trust.CheckFirmware(x, c.Counters)
		}}
	}
	return []hostile{
		denied("its vendor", attest.Deny{Vendor: "id:54455354"}),
		denied("its model", attest.Deny{Model: "TEST"}),
		denied("its version", attest.Deny{VersionFrom: "id:00010002", VersionTo: "id:00010002"}),
		denied("its version and all before", attest.Deny{VersionTo: "id:00010002"}),
		denied("its version and all after", attest.Deny{VersionFrom: "id:00010002"}),
		denied("vendor, model and version", attest.Deny{Vendor: "id:54455354", Model: "test", VersionFrom: "id:00010000", VersionTo: "id:00020000"}),
		{fault.EKDenied, "denied, although it is listed", func(t *testing.T, b *bench) error {
			b.list(b.chip.EK)
			return denied("", attest.Deny{Vendor: "id:54455354"}).try(t, b)
		}},
		{fault.EKDenied, "denied, and listed with a certificate of nobody", func(t *testing.T, b *bench) error {
			chip := tpmtest.New(t, tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{}), tpmtest.Options{})
			b.list(chip.EK)
			b.chip = chip
			return denied("", attest.Deny{Vendor: "id:54455354"}).try(t, b)
		}},
		{fault.EKDenied, "a version that cannot be read", func(t *testing.T, b *bench) error {
			b.chip = tpmtest.New(t, b.maker, tpmtest.Options{Version: "7.2"})
			return denied("", attest.Deny{VersionFrom: "id:00030000", VersionTo: "id:00030001"}).try(t, b)
		}},
		firmware("its firmware", tpmtest.Endorsement, attest.Deny{FirmwareFrom: 0x0001000200030004, FirmwareTo: 0x0001000200030004}),
		firmware("its firmware and all before", tpmtest.Endorsement, attest.Deny{FirmwareTo: 0x0001000200030004}),
		firmware("its firmware and all after", tpmtest.Platform, attest.Deny{FirmwareFrom: 0x0001000200030004}),
		firmware("firmware that is masked", tpmtest.Owner, attest.Deny{FirmwareTo: 1}),
	}
}

func ekKeyCases() []hostile {
	// other is a public area around the EK's own key that is not the template's.
	other := func(name string, edit func(*tpmtest.Area)) hostile {
		return withClaim(fault.EKTemplate, name, func(_ *testing.T, b *bench, c *wire.Claim) {
			area := b.chip.EK.Area
			edit(&area)
			c.EKPublic = area.Bytes(b.chip.EK.Signer.Public())
		})
	}
	return []hostile{
		withClaim(fault.EKMismatch, "HPE DevID: the EK is not the one of the certificate", func(t *testing.T, b *bench, c *wire.Claim) {
			c.EKPublic = tpmtest.New(t, nil, tpmtest.Options{Bare: true}).EK.Public()
		}),
		withClaim(fault.EKMismatch, "an EK of another kind", func(t *testing.T, b *bench, c *wire.Claim) {
			c.EKPublic = tpmtest.New(t, nil, tpmtest.Options{Bare: true, EK: "H-3"}).EK.Public()
		}),
		other("an EK that signs", func(a *tpmtest.Area) { a.Attributes |= wire.Sign }),
		other("an EK that decrypts anything", func(a *tpmtest.Area) {
			a.Attributes &^= wire.Restricted
			a.Symmetric = wire.Symmetric{}
		}),
		other("an EK that may leave its TPM", func(a *tpmtest.Area) { a.Attributes &^= wire.FixedTPM | wire.FixedParent }),
		other("an EK that came from outside", func(a *tpmtest.Area) { a.Attributes &^= wire.SensitiveDataOrigin }),
		other("an EK without the policy", func(a *tpmtest.Area) { a.AuthPolicy = nil }),
		other("an EK with a policy of the device's own", func(a *tpmtest.Area) { a.AuthPolicy = make([]byte, 32) }),
		other("an EK named by SHA-1", func(a *tpmtest.Area) { a.NameAlg, a.AuthPolicy = wire.AlgSHA1, nil }),
		other("an EK with another cipher", func(a *tpmtest.Area) { a.Symmetric.KeyBits = 256 }),
		other("an EK with the low range's attributes and the high range's policy", func(a *tpmtest.Area) {
			for _, f := range wire.EKTemplates() {
				if f.Name == "H-2" {
					a.AuthPolicy = f.AuthPolicy
				}
			}
		}),
		withClaim(fault.EKTemplate, "no certificate and no standard template", func(t *testing.T, b *bench, c *wire.Claim) {
			b.list(b.chip.EK)
			area := b.chip.EK.Area
			area.Attributes |= wire.Sign
			c.EKCertificate, c.EKPublic = nil, area.Bytes(b.chip.EK.Signer.Public())
		}),
		withClaim(fault.EKTemplate, "no certificate, and an AK in place of the EK", func(t *testing.T, b *bench, c *wire.Claim) {
			b.list(b.ak)
			c.EKCertificate, c.EKPublic = nil, c.AKPublic
		}),
		withClaim(fault.EKNotListed, "no certificate and in no list", func(_ *testing.T, _ *bench, c *wire.Claim) { c.EKCertificate = nil }),
	}
}

// TestListedOnly: a list takes the place of the maker, and only of the maker.
func TestListedOnly(t *testing.T) {
	b := newBench(t)
	stranger := tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{})
	for name, o := range map[string]tpmtest.Options{
		"no certificate":                 {Bare: true},
		"a certificate of nobody":        {},
		"an expired one of nobody":       {Edit: func(c *tpmtest.Certificate) { c.NotAfter = now.Add(-time.Hour) }},
		"one of a vendor that it is not": {Vendor: "id:494E5443"},
	} {
		t.Run(name, func(t *testing.T) {
			chip := tpmtest.New(t, stranger, o)
			if _, err := b.check(chip.Claim(b.ak)); err == nil {
				t.Error("accepted although it is not listed")
			}
			b.list(chip.EK)
			x, err := b.check(chip.Claim(b.ak))
			if err != nil {
				t.Fatal(err)
			}
			if x.Genuine || x.Vendor != "" || x.Model != "" || x.HardwareSerial != "" || x.Maker != "" {
				t.Errorf("what nobody vouches for is taken as the maker's word: %+v", x)
			}
			if _, ok := x.EKCertificateDigest(); ok {
				t.Error("a certificate of nobody names the chip")
			}
		})
	}
}

// TestListFails: a register that cannot be asked is neither yes nor no.
func TestListFails(t *testing.T) {
	b := newBench(t)
	down := errors.New("database is down")
	for _, chip := range []*tpmtest.TPM{
		tpmtest.New(t, nil, tpmtest.Options{Bare: true}),
		tpmtest.New(t, tpmtest.NewMaker(t, "Nobody", tpmtest.MakerOptions{}), tpmtest.Options{}),
	} {
		c := chip.Claim(b.ak)
		_, err := b.trust.Check(&c, tpm.ClaimOptions{Now: now, Listed: func([32]byte) (bool, error) { return true, down }})
		if !errors.Is(err, down) {
			t.Errorf("got %v", err)
		}
	}
}

// TestNoTime: without a time nothing is judged, not even what is listed.
func TestNoTime(t *testing.T) {
	b := newBench(t)
	c := b.claim()
	_, err := b.trust.Check(&c, tpm.ClaimOptions{Listed: func([32]byte) (bool, error) { return true, nil }})
	if f := fault.Of(err); f == nil || f.Kind != fault.Internal {
		t.Errorf("got %v", err)
	}
}

// TestOneDigest: an EK has one digest, with or without a certificate.
func TestOneDigest(t *testing.T) {
	b := newBench(t)
	with := b.found(t)
	b.list(b.chip.EK)
	c := b.claim()
	c.EKCertificate = nil
	bare, err := b.check(c)
	if err != nil || bare.EK != with.EK {
		t.Errorf("%x and %x, %v", with.EK, bare.EK, err)
	}
}

// TestAcceptExpired: where the operator says so, a certificate that was good when it
// was made is good for ever, and what is kept says that it is over.
func TestAcceptExpired(t *testing.T) {
	for name, o := range map[string]struct {
		issuer func(*x509.Certificate)
		ek     func(*tpmtest.Certificate)
	}{
		"the EK's":         {nil, func(c *tpmtest.Certificate) { c.NotAfter = now.Add(-time.Hour) }},
		"the issuing CA's": {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := tpmtest.NewMaker(t, "Acme Chips", tpmtest.MakerOptions{EditIssuer: o.issuer})
			b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{Edit: o.ek}))
			_, err := b.check(b.claim())
			refusedWith(t, err, fault.EKExpired)
			file := tpmtest.Bundle(5, m)
			file.Makers[0].AcceptExpired = true
			b.trust = trustIn(t, file)
			if x := b.found(t); !x.Genuine || !x.Expired {
				t.Errorf("genuine %v, expired %v", x.Genuine, x.Expired)
			}
		})
	}
}

// TestGoodEKCertificates are forms that real makers use.
func TestGoodEKCertificates(t *testing.T) {
	b := newBench(t)
	for name, edit := range map[string]func(*tpmtest.Certificate){
		"all names in one set":              func(c *tpmtest.Certificate) { c.OneSet = true },
		"a subject, and names not critical": func(c *tpmtest.Certificate) { c.Lenient, c.Subject = true, pkix.Name{CommonName: "TPM EK"} },
		"a subject, and names critical":     func(c *tpmtest.Certificate) { c.Subject = pkix.Name{CommonName: "SN0001"} },
		"valid for ever":                    func(c *tpmtest.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) },
		"more than one extKeyUsage": func(c *tpmtest.Certificate) {
			c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 2, 3})
		},
		"its last second": func(c *tpmtest.Certificate) { c.NotAfter = now },
		"subjectDirectoryAttributes": func(c *tpmtest.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 9}, Value: []byte{0x30, 0}}}
		},
		"keyAgreement and keyEncipherment too": func(c *tpmtest.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment },
	} {
		t.Run(name, func(t *testing.T) {
			c := b.claim()
			c.EKCertificate = b.maker.Certify(t, b.chip.EK.Signer.Public(), tpmtest.Options{Edit: edit})
			if _, err := b.check(c); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestChains: an authority may come with the claim or with the bundle; what no
// bundle has is kept with the TPM.
func TestChains(t *testing.T) {
	b := newBench(t)
	other := tpmtest.NewMaker(t, "Other", tpmtest.MakerOptions{})
	narrow := tpmtest.NewMaker(t, "Narrow", tpmtest.MakerOptions{EditIssuer: func(c *x509.Certificate) {
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{tpmtest.OIDEKCertificate}
	}})
	bundled := tpmtest.Bundle(1, b.maker)
	carried := tpmtest.Bundle(1, b.maker)
	carried.Makers[0].Intermediates = nil
	for name, c := range map[string]struct {
		m     *tpmtest.Maker
		file  *attest.RootsFile
		chain [][]byte
		kept  int
	}{
		"bundled":                    {b.maker, bundled, nil, 0},
		"bundled and carried":        {b.maker, bundled, [][]byte{b.maker.Issuer.Raw}, 0},
		"carried":                    {b.maker, carried, [][]byte{b.maker.Issuer.Raw}, 1},
		"carried twice, among more":  {b.maker, carried, [][]byte{other.Root.Raw, b.maker.Root.Raw, b.maker.Issuer.Raw, other.Issuer.Raw, b.maker.Issuer.Raw}, 1},
		"an issuing CA only for EKs": {narrow, tpmtest.Bundle(1, narrow), nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			chip := tpmtest.New(t, c.m, tpmtest.Options{})
			chip.EKChain = c.chain
			claim := chip.Claim(b.ak)
			x, err := trustIn(t, c.file).Check(&claim, tpm.ClaimOptions{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			if len(x.EKChain) != c.kept {
				t.Errorf("%d authorities are kept, want %d", len(x.EKChain), c.kept)
			}
		})
	}
}

// TestSeveralBundles: each maker vouches for its own vendors, also where two entries
// share a root.
func TestSeveralBundles(t *testing.T) {
	m := tpmtest.NewMaker(t, "Foundry", tpmtest.MakerOptions{})
	one, two := tpmtest.Bundle(3, m), tpmtest.Bundle(7, m)
	one.Name, one.Makers[0].Name, one.Makers[0].Vendors = "one", "First", []string{"id:494E5443"}
	two.Name, two.Makers[0].Name, two.Makers[0].Vendors = "two", "Second", []string{"id:54455354"}
	b := benchOf(t, m, tpmtest.New(t, m, tpmtest.Options{}))
	b.trust = trustIn(t, one, two)
	if x := b.found(t); x.Maker != "Second" || x.Bundle != "two 7" {
		t.Errorf("%s of %s", x.Maker, x.Bundle)
	}
	intel := tpmtest.New(t, m, tpmtest.Options{Vendor: "id:494E5443"})
	if x, err := b.check(intel.Claim(b.ak)); err != nil || x.Maker != "First" {
		t.Errorf("%+v, %v", x, err)
	}
	b.trust = trustIn(t)
	_, err := b.check(b.claim())
	refusedWith(t, err, fault.EKUntrusted)
}

// TestTrustIsShared: many claims are judged at once (for the race detector).
func TestTrustIsShared(t *testing.T) {
	b := newBench(t)
	file := tpmtest.Bundle(1, b.maker)
	file.Makers[0].Intermediates = nil
	b.trust = trustIn(t, file)
	good := b.claim()
	bad := good
	bad.EKPublic = b.ak.Public()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				if _, err := b.check(good); err != nil {
					t.Error(err)
				}
				_, err := b.check(bad)
				refusedWith(t, err, fault.EKMismatch)
			}
		})
	}
	all.Wait()
}

// TestNotDenied: an entry denies what it names and nothing beside it.
func TestNotDenied(t *testing.T) {
	b := newBench(t)
	for _, d := range []attest.Deny{
		{Vendor: "id:494E5443"},
		{Vendor: "id:494E5443", Model: "TEST"},
		{Vendor: "id:54455354", Model: "OTHER"},
		{Vendor: "id:54455354", VersionFrom: "id:00010003"},
		{Vendor: "id:54455354", VersionTo: "id:00010001"},
		{Vendor: "id:54455354", FirmwareTo: 0x0001000200030003},
		{Vendor: "id:54455354", FirmwareFrom: 0x0001000200030005},
		{Vendor: "id:494E5443", FirmwareFrom: 1},
	} {
		d.Reason = "broken"
		file := tpmtest.Bundle(5, b.maker)
		file.Deny = []attest.Deny{d}
		b.trust = trustIn(t, file)
		b.ak.Parent = tpmtest.Endorsement
		x, err := b.check(b.claim())
		if err != nil {
			t.Errorf("%+v: %v", d, err)
			continue
		}
		c, err := b.certified(b.answer(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.trust.CheckFirmware(x, c.Counters); err != nil {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// TestHardwareSerial is the form of hardwareModuleName.
func TestHardwareSerial(t *testing.T) {
	b := newBench(t)
	x := b.found(t)
	cert, err := x509.ParseCertificate(b.chip.EKCertificate)
	if err != nil {
		t.Fatal(err)
	}
	want := "54455354:" + hex.EncodeToString(cert.AuthorityKeyId) + ":" + hex.EncodeToString(cert.SerialNumber.Bytes())
	if x.HardwareSerial != want {
		t.Errorf("%s, want %s", x.HardwareSerial, want)
	}
	b.chip = tpmtest.New(t, b.maker, tpmtest.Options{Vendor: "Example"})
	if x := b.found(t); x.HardwareSerial != "" || !x.Genuine {
		t.Errorf("a vendor without a number has the hardware serial %q", x.HardwareSerial)
	}
}

// TestRSAEKOfAnotherSize: no template fits a certified key of an odd size.
func TestRSAEKOfAnotherSize(t *testing.T) {
	b := newBench(t)
	key, err := rsa.GenerateKey(rand.Reader, 2560)
	if err != nil {
		t.Fatal(err)
	}
	c := b.claim()
	c.EKCertificate = b.maker.Certify(t, key.Public(), tpmtest.Options{})
	_, err = b.check(c)
	refusedWith(t, err, fault.EKMismatch)
}
