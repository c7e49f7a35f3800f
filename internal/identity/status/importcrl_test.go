package status_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
)

// elsewhere is a root whose key is not here, with one issuing authority.
type elsewhere struct {
	key           *ecdsa.PrivateKey
	root, issuing *x509.Certificate
}

func newElsewhere(t *testing.T, w *world) *elsewhere {
	t.Helper()
	e := new(elsewhere)
	template := x509.Certificate{
		Subject: pkix.Name{CommonName: "Root elsewhere"}, SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: w.clock.now().Add(-time.Hour), NotAfter: w.clock.now().AddDate(20, 0, 0),
	}
	certify := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		noError(t, err)
		cert, err := x509.ParseCertificate(der)
		noError(t, err)
		return cert
	}
	var err error
	e.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	e.root = certify(&template, &template, e.key, e.key)
	below, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	template.Subject.CommonName, template.SerialNumber = "Issuing elsewhere", big.NewInt(2)
	e.issuing = certify(&template, e.root, below, e.key)
	_, err = w.authorities.Import(t.Context(), "local:root", authority.Existing{Name: "old-root", Certificate: e.root.Raw})
	noError(t, err)
	_, err = w.authorities.Import(t.Context(), "local:root", authority.Existing{Name: "old-issuing", Certificate: e.issuing.Raw})
	noError(t, err)
	return e
}

// list signs a CRL.
func (e *elsewhere) list(t *testing.T, w *world, number int64, change func(*x509.RevocationList)) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: w.clock.now(), NextUpdate: w.clock.now().AddDate(1, 0, 0)}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, e.root, e.key)
	noError(t, err)
	return der
}

func TestACRLOfARootElsewhereIsPublished(t *testing.T) {
	w := newWorld(t)
	e := newElsewhere(t, w)
	ctx := t.Context()
	first := e.list(t, w, 3, nil)
	noError(t, w.ImportCRL(ctx, "local:root", "old-root", first))
	served, err := w.CRL(ctx, "old-root", 0)
	noError(t, err)
	if !bytes.Equal(served.DER, first) || served.Number != 3 {
		t.Errorf("served %d", served.Number)
	}
	noError(t, w.ImportCRL(ctx, "local:root", "old-root", first))

	revoking := e.list(t, w, 4, func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: e.issuing.SerialNumber, RevocationTime: w.clock.now(), ReasonCode: 2}}
	})
	noError(t, w.ImportCRL(ctx, "local:root", "old-root", revoking))
	snap, err := w.authorities.Refresh(ctx)
	noError(t, err)
	if m, err := snap.Authority("old-issuing"); err != nil || m.State != authority.Revoked {
		t.Errorf("old-issuing = %v, %v, want revoked", m.State, err)
	}
	if m, err := snap.Authority("issuing"); err != nil || m.State != authority.Active {
		t.Errorf("issuing = %v, %v, want active", m.State, err)
	}
	wantFault(t, w.ImportCRL(ctx, "local:root", "old-root", first), fault.CRLInvalid)
	w.restart(t)
	if served, err = w.CRL(ctx, "old-root", 0); err != nil || !bytes.Equal(served.DER, revoking) {
		t.Errorf("after a restart: %v, %v", served, err)
	}
}

func TestImportCRLRefuses(t *testing.T) {
	w := newWorld(t)
	e := newElsewhere(t, w)
	ctx := t.Context()
	noError(t, w.ImportCRL(ctx, "local:root", "old-root", e.list(t, w, 5, nil)))
	tampered := e.list(t, w, 6, nil)
	tampered[len(tampered)-1] ^= 1
	other := newElsewhere(t, newWorld(t))
	for name, der := range map[string][]byte{
		"an older number":  e.list(t, w, 4, nil),
		"the same number":  e.list(t, w, 5, func(l *x509.RevocationList) { l.NextUpdate = l.NextUpdate.AddDate(1, 0, 0) }),
		"an earlier time":  e.list(t, w, 6, func(l *x509.RevocationList) { l.ThisUpdate = l.ThisUpdate.Add(-time.Hour) }),
		"expired":          e.list(t, w, 6, func(l *x509.RevocationList) { l.NextUpdate = w.clock.now() }),
		"of tomorrow":      e.list(t, w, 6, func(l *x509.RevocationList) { l.ThisUpdate = w.clock.now().AddDate(0, 0, 1) }),
		"a bad signature":  tampered,
		"another root's":   other.list(t, w, 6, nil),
		"none":             []byte("hello"),
		"a number too big": e.list(t, w, 6, func(l *x509.RevocationList) { l.Number = new(big.Int).Lsh(big.NewInt(1), 80) }),
		"a delta": e.list(t, w, 6, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 5}}}
		}),
		"only of devices": e.list(t, w, 6, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, 0x81, 1, 0xff}}}
		}),
	} {
		if err := w.ImportCRL(ctx, "local:root", "old-root", der); !fault.Has(err, fault.CRLInvalid) {
			t.Errorf("%s: %v, want CRLInvalid", name, err)
		}
	}
	wantFault(t, w.ImportCRL(ctx, "local:root", "root", e.list(t, w, 6, nil)), fault.AuthorityState)
	wantFault(t, w.ImportCRL(ctx, "local:root", "old-issuing", e.list(t, w, 6, nil)), fault.AuthorityState)
	wantFault(t, w.ImportCRL(ctx, "local:root", "nobody", e.list(t, w, 6, nil)), fault.AuthorityUnknown)
}
