package chain_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

// TestManyAuthoritiesOfOneName is a graph in which every authority has the same
// name and several have signed each other, so that there are more paths than
// anyone can walk.
func TestManyAuthoritiesOfOneName(t *testing.T) {
	const n = 50
	keys := make([]crypto.Signer, n)
	for i := range keys {
		keys[i] = p256(t)
	}
	var mids []entity
	for i := range n {
		for _, j := range []int{(i + 1) % n, (i + 7) % n, (i + 13) % n} {
			by := entity{asCA("Same"), keys[j]}
			mids = append(mids, certify(t, &by, keys[i], asCA("Same"), noIdentifiers))
		}
	}
	leaf := mids[0].leaf(t, "device", noIdentifiers)
	o := chain.Options{Anchors: pool(root(t, "Root", p256(t))), Intermediates: pool(mids...), At: now, MaxChain: 50}
	_, err := chain.Verify(t.Context(), leaf.Certificate, o)
	if !fault.Has(err, fault.ChainLimit) && !fault.Has(err, fault.ChainUntrusted) {
		t.Errorf("got %v", err)
	}
	o.Anchors = pool(root(t, "Same", p256(t), noIdentifiers))
	_, err = chain.Verify(t.Context(), leaf.Certificate, o)
	if !fault.Has(err, fault.ChainLimit) {
		t.Errorf("got %v", err)
	}
	// A shorter one with the same authorities can still be trusted.
	o.Anchors, o.MaxChain = pool(mids[0]), 0
	if _, err := chain.Verify(t.Context(), leaf.Certificate, o); err != nil {
		t.Error(err)
	}
}

// TestNamesTimesConstraints has more comparisons of names than the budget.
func TestNamesTimesConstraints(t *testing.T) {
	r := root(t, "Root", p256(t))
	many := func(format string, n int) []string {
		s := make([]string, n)
		for i := range s {
			s[i] = fmt.Sprintf(format, i)
		}
		return s
	}
	for _, excluded := range []bool{true, false} {
		i := r.ca(t, "Constrained", func(c *x509.Certificate) {
			if excluded {
				c.ExcludedDNSDomains = many("x%d.test", 1000)
			} else {
				c.PermittedDNSDomains = append(many("x%d.test", 1000), "ok.test")
			}
		})
		o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now}
		_, err := chain.Verify(t.Context(), i.leaf(t, "few", dns(many("%d.ok.test", 20)...)).Certificate, o)
		if err != nil {
			t.Errorf("few names: %v", err)
		}
		_, err = chain.Verify(t.Context(), i.leaf(t, "many", dns(many("%d.ok.test", 1000)...)).Certificate, o)
		if !fault.Has(err, fault.ChainLimit) {
			t.Errorf("many names: %v", err)
		}
	}
}

func TestPresentedLimits(t *testing.T) {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	fat := r.ca(t, "Fat", ext(private, false, make([]byte, 40_000)))
	repeated := func(c entity, n int) []*x509.Certificate {
		var cs []*x509.Certificate
		for range n {
			cs = append(cs, c.Certificate)
		}
		return cs
	}
	for _, row := range []struct {
		name      string
		leaf      entity
		presented []*x509.Certificate
		want      fault.Code
	}{
		{"its issuer", l, repeated(i, 1), 0},
		{"its issuer often", l, repeated(i, 16), 0},
		{"too often", l, repeated(i, 17), fault.ChainLimit},
		{"nothing", l, nil, fault.ChainUntrusted},
		{"an empty certificate", l, []*x509.Certificate{{}}, fault.CertificateInvalid},
		{"something missing", l, []*x509.Certificate{nil}, fault.CertificateInvalid},
		{"the leaf too", l, []*x509.Certificate{l.Certificate, i.Certificate, r.Certificate}, 0},
		{"a fat one", fat.leaf(t, "x"), repeated(fat, 1), 0},
		{"two fat ones", fat.leaf(t, "x"), repeated(fat, 2), fault.ChainLimit},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := chain.Verify(t.Context(), row.leaf.Certificate, chain.Options{Anchors: pool(r), At: now, Presented: row.presented})
			check(t, p, err, row.want)
		})
	}
	p, err := chain.Verify(t.Context(), nil, chain.Options{Anchors: pool(r), At: now})
	check(t, p, err, fault.CertificateInvalid)
	p, err = chain.Verify(t.Context(), &x509.Certificate{}, chain.Options{Anchors: pool(r), At: now})
	check(t, p, err, fault.CertificateInvalid)
	fatter := fat.ca(t, "Fatter", ext(private, false, make([]byte, 40_000)))
	p, err = chain.Verify(t.Context(), fatter.leaf(t, "x").Certificate, chain.Options{Anchors: pool(r), At: now, Intermediates: pool(fat, fatter)})
	check(t, p, err, fault.ChainLimit)
}

func TestVerifyNeedsATime(t *testing.T) {
	r := root(t, "Root", p256(t))
	if _, err := chain.Verify(t.Context(), r.Certificate, chain.Options{Anchors: pool(r)}); err == nil {
		t.Error("judged for no moment")
	}
}

func TestVerifyStopsWithTheContext(t *testing.T) {
	r := root(t, "Root", p256(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := chain.Verify(ctx, r.leaf(t, "device").Certificate, chain.Options{Anchors: pool(r), At: now})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestTheLeastFaultyPathIsNamed: the expired cross-certificate is no reason when
// the other path has only one thing wrong.
func TestTheLeastFaultyPathIsNamed(t *testing.T) {
	a, b := root(t, "A", p256(t)), root(t, "B", p256(t))
	shared := p256(t)
	underA := certify(t, &a, shared, asCA("Shared"))
	stale := certify(t, &b, shared, asCA("Shared"), valid(now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0)))
	l := underA.leaf(t, "device", eku(x509.ExtKeyUsageServerAuth))
	for _, mids := range []*chain.Pool{pool(underA, stale), pool(stale, underA)} {
		o := chain.Options{Anchors: pool(a, b), Intermediates: mids, At: now, Usage: chain.UsageClient}
		_, err := chain.Verify(t.Context(), l.Certificate, o)
		if !fault.Has(err, fault.ChainUsage) {
			t.Errorf("got %v", err)
		}
		o.Host, o.Usage = "x.test", chain.UsageServer
		_, err = chain.Verify(t.Context(), l.Certificate, o)
		if !fault.Has(err, fault.ChainHost) || !strings.Contains(err.Error(), "x.test") {
			t.Errorf("got %v", err)
		}
	}
}

// TestFewFaultsWeighMoreThanGraveOnes: one expired certificate is nearer to a
// good path than two other faults.
func TestFewFaultsWeighMoreThanGraveOnes(t *testing.T) {
	a, b := root(t, "A", p256(t)), root(t, "B", p256(t))
	shared := p256(t)
	bad := certify(t, &a, shared, asCA("Shared"), notCA, valid(now.AddDate(0, 0, 1), now.AddDate(1, 0, 0)))
	stale := certify(t, &b, shared, asCA("Shared"), valid(now.AddDate(-2, 0, 0), now.AddDate(-1, 0, 0)))
	l := stale.leaf(t, "device")
	for _, mids := range []*chain.Pool{pool(bad, stale), pool(stale, bad)} {
		p, err := chain.Verify(t.Context(), l.Certificate, chain.Options{Anchors: pool(a, b), Intermediates: mids, At: now})
		check(t, p, err, fault.ChainExpired)
	}
}

// TestSignaturesAreCheckedOnce gives just enough work for each signature once,
// although the path is walked twice to find out why it is refused.
func TestSignaturesAreCheckedOnce(t *testing.T) {
	r := root(t, "Root", p256(t))
	leaf, mids := ladder(t, r, 2)
	o := chain.Options{Anchors: pool(r), Intermediates: pool(mids...), At: now, MaxWork: 3*500 + 200, RequireStatus: true}
	p, err := chain.Verify(t.Context(), leaf.Certificate, o)
	check(t, p, err, fault.ChainLimit) // the status costs too
	o.MaxWork = 3*500 + 3*500 + 200
	p, err = chain.Verify(t.Context(), leaf.Certificate, o)
	check(t, p, err, fault.ChainStatus)
}

// TestKeyIdentifiersSaveWork puts the issuer behind others of its name, with
// work for one wrong try at most.
func TestKeyIdentifiersSaveWork(t *testing.T) {
	r := root(t, "Root", p256(t))
	var mids []entity
	for range 6 {
		mids = append(mids, r.ca(t, "Issuing"))
	}
	l := mids[5].leaf(t, "device")
	p, err := chain.Verify(t.Context(), l.Certificate, chain.Options{Anchors: pool(r), Intermediates: pool(mids...), At: now, MaxWork: 1200})
	check(t, p, err, 0)
}

// TestAnAnchorNeedsNoStatus: nobody above it could revoke it.
func TestAnAnchorNeedsNoStatus(t *testing.T) {
	r := root(t, "Root", p256(t))
	bare := chain.NewPool()
	if err := bare.AddAnchor(r.RawSubject, r.RawSubjectPublicKeyInfo); err != nil {
		t.Fatal(err)
	}
	for _, anchors := range []*chain.Pool{bare, pool(r), pool(certify(t, nil, r.key, asCA("Root")))} {
		p, err := chain.Verify(t.Context(), r.Certificate, chain.Options{Anchors: anchors, At: now, RequireStatus: true})
		check(t, p, err, 0)
	}
}

func TestBareAnchors(t *testing.T) {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	p := chain.NewPool()
	if err := p.AddAnchor(r.RawSubject, r.RawSubjectPublicKeyInfo); err != nil {
		t.Fatal(err)
	}
	path, err := chain.Verify(t.Context(), l.Certificate, chain.Options{Anchors: p, Intermediates: pool(i), At: now})
	check(t, path, err, 0)
	if path != nil && (len(path.Certificates) != 2 || path.Anchor.Certificate != nil || string(path.Anchor.Name) != string(r.RawSubject)) {
		t.Errorf("path %+v", path)
	}
	// The same name with another key is someone else.
	other := chain.NewPool()
	if err := other.AddAnchor(r.RawSubject, root(t, "Root", p256(t)).RawSubjectPublicKeyInfo); err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Verify(t.Context(), l.Certificate, chain.Options{Anchors: other, Intermediates: pool(i), At: now}); err == nil {
		t.Error("accepted under another key")
	}
	// Bare entries among the intermediates mean nothing.
	if _, err := chain.Verify(t.Context(), l.Certificate, chain.Options{Anchors: pool(root(t, "Other", p256(t))), Intermediates: p, At: now}); err == nil {
		t.Error("accepted by a bare intermediate")
	}
	for _, bad := range [][2][]byte{{nil, r.RawSubjectPublicKeyInfo}, {tlv(0x30), r.RawSubjectPublicKeyInfo}, {r.RawSubject, nil}, {append(append([]byte(nil), r.RawSubject...), 0), r.RawSubjectPublicKeyInfo}} {
		if err := p.AddAnchor(bad[0], bad[1]); err == nil {
			t.Errorf("took %x", bad)
		}
	}
}

func TestVerifierRemembersSignaturesOnly(t *testing.T) {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing", valid(now.AddDate(-1, 0, 0), now.AddDate(0, 1, 0)))
	v, err := chain.NewVerifier(chain.Config{Leaves: 10})
	if err != nil {
		t.Fatal(err)
	}
	l := i.leaf(t, "device")
	o := chain.Options{Anchors: pool(r), At: now, Presented: []*x509.Certificate{i.Certificate}}
	for range 3 {
		if _, err := v.Verify(t.Context(), l.Certificate, o); err != nil {
			t.Fatal(err)
		}
	}
	expired := o
	expired.At = now.AddDate(0, 2, 0)
	p, err := v.Verify(t.Context(), l.Certificate, expired)
	check(t, p, err, fault.ChainExpired)
	revoked := o
	revoked.Status = checker(func(c, _ *x509.Certificate) (chain.Status, error) {
		if c.SerialNumber.Cmp(i.SerialNumber) == 0 {
			return chain.Status{State: chain.Revoked}, nil
		}
		return chain.Status{State: chain.Good}, nil
	})
	p, err = v.Verify(t.Context(), l.Certificate, revoked)
	check(t, p, err, fault.ChainRevoked)
	usage := o
	usage.Host = "x.test"
	p, err = v.Verify(t.Context(), l.Certificate, usage)
	check(t, p, err, fault.ChainHost)
	// A changed signature under the same tbs is another certificate.
	raw := append([]byte(nil), l.Raw...)
	raw[len(raw)-1] ^= 1
	p, err = v.Verify(t.Context(), parse(t, raw), o)
	check(t, p, err, fault.ChainSignature)
	// So is the right one under another authority of the same name.
	twin := root(t, "Root", p256(t), func(c *x509.Certificate) { c.SubjectKeyId = r.SubjectKeyId })
	foreign := o
	foreign.Anchors = pool(twin)
	p, err = v.Verify(t.Context(), l.Certificate, foreign)
	check(t, p, err, fault.ChainSignature)
	if _, err := chain.NewVerifier(chain.Config{Issuers: -1}); err == nil {
		t.Error("took a negative size")
	}
}

// TestVerifierCannotBePoisoned changes the parsed fields of a certificate, which
// nothing but its bytes may decide about.
func TestVerifierCannotBePoisoned(t *testing.T) {
	r := root(t, "Root", p256(t))
	good := r.leaf(t, "good")
	stranger := root(t, "Stranger", p256(t))
	fake := certify(t, &stranger, p256(t), base("fake"))
	mixed := *fake.Certificate
	mixed.RawTBSCertificate, mixed.Signature = good.RawTBSCertificate, good.Signature
	mixed.RawIssuer = good.RawIssuer
	if _, err := chain.Verify(t.Context(), &mixed, chain.Options{Anchors: pool(r), At: now}); err == nil {
		t.Error("a signature over other bytes was accepted")
	}
}

// TestVerifierIsBounded verifies more leaves and authorities than it keeps.
func TestVerifierIsBounded(t *testing.T) {
	r := root(t, "Root", p256(t))
	v, err := chain.NewVerifier(chain.Config{Issuers: 2, Leaves: 2})
	if err != nil {
		t.Fatal(err)
	}
	for k := range 6 {
		i := r.ca(t, fmt.Sprint("Issuing ", k))
		for range 2 {
			o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now}
			if _, err := v.Verify(t.Context(), i.leaf(t, "x").Certificate, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	if issuers, leaves, nodes := v.Remembered(); issuers != 2 || leaves != 2 || nodes != 2 {
		t.Errorf("remembers %d, %d, %d", issuers, leaves, nodes)
	}
}

// TestRepeatedVerificationCostsOneSignature counts work instead of time.
func TestRepeatedVerificationCostsOneSignature(t *testing.T) {
	r := root(t, "Root", p256(t))
	_, mids := ladder(t, r, 3)
	v, err := chain.NewVerifier(chain.Config{})
	if err != nil {
		t.Fatal(err)
	}
	last := mids[len(mids)-1]
	o := chain.Options{Anchors: pool(r), Intermediates: pool(mids...), At: now, MaxWork: 600}
	if _, err := v.Verify(t.Context(), last.leaf(t, "x").Certificate, o); !fault.Has(err, fault.ChainLimit) {
		t.Errorf("four signatures within the work of one: %v", err)
	}
	full := o
	full.MaxWork = 0
	if _, err := v.Verify(t.Context(), last.leaf(t, "x").Certificate, full); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), last.leaf(t, "x").Certificate, o); err != nil {
		t.Errorf("a second leaf costs more than one signature: %v", err)
	}
}
