package chain_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

// point is a DistributionPointName of one URL, as in certificates and CRLs.
func point(url string) []byte { return tlv(0xa0, tlv(0xa0, tlv(0x86, []byte(url)))) }

// idp adds an issuing distribution point of these parts to a CRL.
func idp(parts ...[]byte) func(*x509.RevocationList) {
	return crlExt(asn1.ObjectIdentifier{2, 5, 29, 28}, tlv(0x30, parts...))
}

func crlExt(id asn1.ObjectIdentifier, value []byte) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: id, Critical: true, Value: value})
	}
}

func deltaOf(base byte) func(*x509.RevocationList) {
	return crlExt(asn1.ObjectIdentifier{2, 5, 29, 27}, []byte{2, 1, base})
}

func between(from, to time.Duration) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = now.Add(from), now.Add(to) }
}

var (
	yes       = []byte{0xff}
	userOnly  = tlv(0x81, yes)
	caOnly    = tlv(0x82, yes)
	someOnly  = tlv(0x83, []byte{6, 0x40})       // keyCompromise
	otherOnly = tlv(0x83, []byte{7, 0x3f, 0x80}) // all others
	indirect  = tlv(0x84, yes)
	badEntry  = []pkix.Extension{{Id: private, Critical: true, Value: []byte{5, 0}}}
)

func TestCRLs(t *testing.T) {
	const shard1, shard2 = "http://crl.example.com/1", "http://crl.example.com/2"
	issuer := root(t, "Issuer", p256(t))
	twin := root(t, "Issuer", p256(t))
	mute := root(t, "Mute", p256(t), usage(x509.KeyUsageCertSign))
	signsMute := entity{mute.Certificate, mute.key}
	speaking := certify(t, nil, mute.key, asCA("Mute"))
	plain := issuer.leaf(t, "plain")
	sharded := issuer.leaf(t, "sharded", func(c *x509.Certificate) { c.CRLDistributionPoints = []string{shard1} })
	points := asn1.ObjectIdentifier{2, 5, 29, 31}
	partly := issuer.leaf(t, "partly", ext(points, false, tlv(0x30, tlv(0x30, point(shard1), tlv(0x81, []byte{6, 0x40})))))
	foreign := issuer.leaf(t, "foreign", ext(points, false, tlv(0x30, tlv(0x30, point(shard1), tlv(0xa2, tlv(0xa4, twin.RawSubject))))))
	sub := issuer.ca(t, "Sub")
	below := signsMute.leaf(t, "below")
	onHold, hold := entry(plain, 6), entry(plain, 0)
	badRevoked := entry(plain, 1)
	badRevoked.ExtraExtensions = badEntry
	remove := entry(plain, 8)
	rows := []struct {
		name  string
		cert  entity
		by    entity
		lists []*x509.RevocationList
		want  chain.State
		why   string
	}{
		{"not listed", plain, issuer, lists(issuer.crl(t, 1, nil)), chain.Good, ""},
		{"listed", plain, issuer, lists(issuer.crl(t, 1, nil, entry(plain, 1))), chain.Revoked, ""},
		{"listed without reason", plain, issuer, lists(issuer.crl(t, 1, nil, hold)), chain.Revoked, ""},
		{"on hold", plain, issuer, lists(issuer.crl(t, 1, nil, onHold)), chain.OnHold, ""},
		{"listed twice", plain, issuer, lists(issuer.crl(t, 1, nil, entry(plain, 1), onHold)), chain.Revoked, ""},
		{"another is listed", plain, issuer, lists(issuer.crl(t, 1, nil, entry(sub, 1))), chain.Good, ""},
		{"no CRL", plain, issuer, nil, chain.Unknown, "no CRL"},
		{"expired CRL", plain, issuer, lists(issuer.crl(t, 1, between(-2*time.Hour, -time.Second), entry(plain, 1))), chain.Unknown, "to be replaced"},
		{"CRL at nextUpdate", plain, issuer, lists(issuer.crl(t, 1, between(-2*time.Hour, 0))), chain.Good, ""},
		{"CRL of tomorrow", plain, issuer, lists(issuer.crl(t, 1, between(time.Hour, 2*time.Hour))), chain.Unknown, "later than"},
		{"wrong signer", plain, issuer, lists(twin.crl(t, 1, nil)), chain.Unknown, "not signed by"},
		{"wrong signer beside the right one", plain, issuer, lists(twin.crl(t, 9, nil), issuer.crl(t, 1, nil, entry(plain, 1))), chain.Revoked, ""},
		{"signer without cRLSign", below, signsMute, lists(speaking.crl(t, 1, nil)), chain.Unknown, "may not sign CRLs"},
		{"newer release undoes hold", plain, issuer, lists(issuer.crl(t, 2, nil), issuer.crl(t, 1, nil, onHold)), chain.Good, ""},
		{"newer hold", plain, issuer, lists(issuer.crl(t, 1, nil), issuer.crl(t, 2, nil, onHold)), chain.OnHold, ""},
		{"critical extension", plain, issuer, lists(issuer.crl(t, 1, crlExt(private, []byte{5, 0}))), chain.Unknown, "critical extension"},
		{"critical extension in an entry", plain, issuer, lists(issuer.crl(t, 1, nil, badRevoked)), chain.Unknown, "critical extension"},
		{"removeFromCRL in a complete CRL", plain, issuer, lists(issuer.crl(t, 1, nil, remove)), chain.Unknown, "removeFromCRL"},
		{"users only, a device", plain, issuer, lists(issuer.crl(t, 1, idp(userOnly))), chain.Good, ""},
		{"users only, a CA", sub, issuer, lists(issuer.crl(t, 1, idp(userOnly))), chain.Unknown, "not for CA"},
		{"CAs only, a device", plain, issuer, lists(issuer.crl(t, 1, idp(caOnly))), chain.Unknown, "only for CA"},
		{"CAs only, a CA", sub, issuer, lists(issuer.crl(t, 1, idp(caOnly), entry(sub, 2))), chain.Revoked, ""},
		{"its shard", sharded, issuer, lists(issuer.crl(t, 1, idp(point(shard2))), issuer.crl(t, 1, idp(point(shard1)))), chain.Good, ""},
		{"its shard revokes", sharded, issuer, lists(issuer.crl(t, 1, idp(point(shard2))), issuer.crl(t, 1, idp(point(shard1)), entry(sharded, 1))), chain.Revoked, ""},
		{"another shard", sharded, issuer, lists(issuer.crl(t, 1, idp(point(shard2)))), chain.Unknown, "another distribution point"},
		{"a shard, certificate without", plain, issuer, lists(issuer.crl(t, 1, idp(point(shard1)))), chain.Unknown, "another distribution point"},
		{"a complete CRL, certificate with a shard", sharded, issuer, lists(issuer.crl(t, 1, nil)), chain.Good, ""},
		{"its shard is expired", sharded, issuer, lists(issuer.crl(t, 1, idp(point(shard2))), issuer.crl(t, 1, all2(between(-2*time.Hour, -time.Hour), idp(point(shard1))))), chain.Unknown, "to be replaced"},
		{"some reasons", plain, issuer, lists(issuer.crl(t, 1, idp(someOnly))), chain.Unknown, "all reasons"},
		{"some reasons, listed", plain, issuer, lists(issuer.crl(t, 1, idp(someOnly), entry(plain, 1))), chain.Revoked, ""},
		{"all reasons in two", plain, issuer, lists(issuer.crl(t, 1, idp(someOnly)), issuer.crl(t, 1, idp(otherOnly))), chain.Good, ""},
		{"indirect", plain, issuer, lists(issuer.crl(t, 1, idp(indirect))), chain.Unknown, "indirect"},
		{"attribute certificates only", plain, issuer, lists(issuer.crl(t, 1, idp(tlv(0x85, yes)))), chain.Unknown, "attribute certificates"},
		{"its shard, for some reasons", partly, issuer, lists(issuer.crl(t, 1, idp(point(shard1)))), chain.Unknown, "all reasons"},
		{"its shard, for some reasons, listed", partly, issuer, lists(issuer.crl(t, 1, idp(point(shard1)), entry(partly, 1))), chain.Revoked, ""},
		{"its shard, but of another CRL issuer", foreign, issuer, lists(issuer.crl(t, 1, idp(point(shard1)))), chain.Unknown, "another distribution point"},
		{"unreadable scope", plain, issuer, lists(issuer.crl(t, 1, idp([]byte{1, 2, 3}))), chain.Unknown, "cannot be read"},
		{"a delta alone", plain, issuer, lists(issuer.crl(t, 2, deltaOf(1))), chain.Unknown, "without its base"},
		{"a delta alone revokes", plain, issuer, lists(issuer.crl(t, 2, deltaOf(1), entry(plain, 1))), chain.Revoked, ""},
		{"base and delta", plain, issuer, lists(issuer.crl(t, 1, nil), issuer.crl(t, 2, deltaOf(1))), chain.Good, ""},
		{"the delta revokes", plain, issuer, lists(issuer.crl(t, 1, nil), issuer.crl(t, 2, deltaOf(1), entry(plain, 1))), chain.Revoked, ""},
		{"the delta releases", plain, issuer, lists(issuer.crl(t, 1, nil, onHold), issuer.crl(t, 2, deltaOf(1), remove)), chain.Good, ""},
		{"the delta turns hold into revoked", plain, issuer, lists(issuer.crl(t, 1, nil, onHold), issuer.crl(t, 2, deltaOf(1), entry(plain, 1))), chain.Revoked, ""},
		{"the delta cannot release what is revoked", plain, issuer, lists(issuer.crl(t, 1, nil, entry(plain, 1)), issuer.crl(t, 2, deltaOf(1), remove)), chain.Revoked, ""},
		{"the delta is for a later base", plain, issuer, lists(issuer.crl(t, 1, nil, onHold), issuer.crl(t, 4, deltaOf(3), remove)), chain.OnHold, ""},
		{"the delta is overtaken", plain, issuer, lists(issuer.crl(t, 5, nil), issuer.crl(t, 4, deltaOf(3), onHold)), chain.Good, ""},
		{"the delta is of another scope", plain, issuer, lists(issuer.crl(t, 1, nil, onHold), issuer.crl(t, 2, all2(deltaOf(1), idp(userOnly)), remove)), chain.OnHold, ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s, err := chain.NewCRLs(r.lists, now).Status(t.Context(), r.cert.Certificate, r.by.Certificate)
			if err != nil || s.State != r.want || !strings.Contains(s.Detail, r.why) {
				t.Errorf("got %v (%q) %v, want %v (%q)", s.State, s.Detail, err, r.want, r.why)
			}
		})
	}
}

func lists(ls ...*x509.RevocationList) []*x509.RevocationList { return ls }

func all2(fs ...func(*x509.RevocationList)) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		for _, f := range fs {
			f(l)
		}
	}
}

func TestVerifyWithCRLs(t *testing.T) {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	other := root(t, "Other root", p256(t))
	cross := certify(t, &other, i.key, asCA("Issuing"))
	good, crossGood := i.crl(t, 1, nil), other.crl(t, 1, nil)
	rows := []struct {
		name    string
		lists   []*x509.RevocationList
		require bool
		want    fault.Code
	}{
		{"all good", lists(r.crl(t, 1, nil), good), true, 0},
		{"revoked leaf", lists(r.crl(t, 1, nil), i.crl(t, 1, nil, entry(l, 1))), true, fault.ChainRevoked},
		{"leaf on hold", lists(r.crl(t, 1, nil), i.crl(t, 1, nil, entry(l, 6))), true, fault.ChainRevoked},
		{"revoked intermediate", lists(r.crl(t, 1, nil, entry(i, 2)), good), true, fault.ChainRevoked},
		{"revoked intermediate, status not required", lists(r.crl(t, 1, nil, entry(i, 2))), false, fault.ChainRevoked},
		{"no CRL of the root", lists(good), true, fault.ChainStatus},
		{"no CRL of the root, not required", lists(good), false, 0},
		{"no CRL at all", nil, true, fault.ChainStatus},
		{"stale CRL", lists(r.crl(t, 1, nil), i.crl(t, 1, between(-2*time.Hour, -time.Hour))), true, fault.ChainStatus},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now, Status: chain.NewCRLs(row.lists, now), RequireStatus: row.require}
			p, err := chain.Verify(t.Context(), l.Certificate, o)
			check(t, p, err, row.want)
		})
	}
	t.Run("another path goes round the revoked authority", func(t *testing.T) {
		crls := chain.NewCRLs(lists(r.crl(t, 1, nil, entry(i, 2)), crossGood, good), now)
		o := chain.Options{Anchors: pool(r, other), Intermediates: pool(i, cross), At: now, Status: crls, RequireStatus: true}
		p, err := chain.Verify(t.Context(), l.Certificate, o)
		check(t, p, err, 0)
	})
	t.Run("required without a checker", func(t *testing.T) {
		o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now, RequireStatus: true}
		p, err := chain.Verify(t.Context(), l.Certificate, o)
		check(t, p, err, fault.ChainStatus)
	})
	t.Run("a bare anchor", func(t *testing.T) {
		bare := chain.NewPool()
		if err := bare.AddAnchor(r.RawSubject, r.RawSubjectPublicKeyInfo); err != nil {
			t.Fatal(err)
		}
		crls := chain.NewCRLs(lists(r.crl(t, 1, nil, entry(i, 2)), good), now)
		o := chain.Options{Anchors: bare, Intermediates: pool(i), At: now, Status: crls, RequireStatus: true}
		p, err := chain.Verify(t.Context(), l.Certificate, o)
		check(t, p, err, fault.ChainRevoked)
	})
}

// checker is a StatusChecker made of a function.
type checker func(cert, issuer *x509.Certificate) (chain.Status, error)

func (c checker) Status(_ context.Context, cert, issuer *x509.Certificate) (chain.Status, error) {
	return c(cert, issuer)
}

func TestStatusIsAskedFromTheTop(t *testing.T) {
	r := root(t, "Root", p256(t))
	i := r.ca(t, "Issuing")
	l := i.leaf(t, "device")
	var asked []string
	o := chain.Options{Anchors: pool(r), Intermediates: pool(i), At: now, RequireStatus: true}
	o.Status = checker(func(cert, issuer *x509.Certificate) (chain.Status, error) {
		asked = append(asked, cert.Subject.CommonName+"<"+issuer.Subject.CommonName)
		return chain.Status{State: chain.Good}, nil
	})
	p, err := chain.Verify(t.Context(), l.Certificate, o)
	check(t, p, err, 0)
	if got := strings.Join(asked, " "); got != "Issuing<Root device<Issuing" {
		t.Errorf("asked %s", got)
	}
}

func TestStatusErrorsEndTheVerification(t *testing.T) {
	r := root(t, "Root", p256(t))
	l := r.leaf(t, "device")
	o := chain.Options{Anchors: pool(r), At: now}
	for _, row := range []struct {
		err  error
		want fault.Code
	}{
		{errors.New("disk on fire"), fault.ChainStatus},
		{fault.New(fault.StoreUnavailable), fault.StoreUnavailable},
	} {
		o.Status = checker(func(_, _ *x509.Certificate) (chain.Status, error) { return chain.Status{State: chain.Good}, row.err })
		p, err := chain.Verify(t.Context(), l.Certificate, o)
		check(t, p, err, row.want)
		if strings.Contains(err.Error(), "fire") {
			t.Errorf("%v shows the inside", err)
		}
	}
}
