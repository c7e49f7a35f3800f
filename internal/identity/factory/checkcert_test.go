package factory_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/keystore"
)

func TestCertificateOfOursThatNoRecordNamesRaisesAnAlarm(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	rootSecret := keystore.Secret("root passphrase")
	_, err := w.authorities.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", Secret: rootSecret})
	w.ok(err)
	session, err := w.authorities.OpenRoot(ctx, "root", rootSecret)
	w.ok(err)
	defer session.Close()
	_, err = session.CreateIssuing(ctx, "system", authority.NewAuthority{Name: "issuing", Secret: serverSecret, CRLShards: 1})
	w.ok(err)
	w.refresh()
	snap, err := w.authorities.Snapshot(ctx)
	w.ok(err)
	m, err := snap.Authority("issuing")
	w.ok(err)

	known, err := w.CheckCertificate(ctx, w.planner, m.Certificate)
	w.ok(err)
	if !known.Ours || known.Unaccounted || known.Authority != "root" {
		t.Errorf("our own: %+v", known)
	}
	keys, err := keystore.Open(keystore.Config{Dir: w.folder + "/keys", Rand: rand.Reader, Iterations: 1000})
	w.ok(err)
	key, err := keys.Load(ctx, m.KeyURI, serverSecret)
	w.ok(err)
	sign := func(certSerial *big.Int) []byte {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: certSerial, Subject: pkix.Name{CommonName: "SN0001"}, NotBefore: w.clock.now(), NotAfter: w.clock.now().Add(time.Hour),
		}, m.X509, newKey(t).Public(), key)
		w.ok(err)
		return der
	}
	behind := sign(big.NewInt(1 << 60))
	got, err := w.CheckCertificate(ctx, w.planner, behind)
	w.ok(err)
	if !got.Ours || !got.Unaccounted {
		t.Errorf("signed behind our back: %+v", got)
	}
	_, err = w.CheckCertificate(ctx, w.planner, behind)
	w.ok(err)
	w.wantAlarm(factory.AlarmUnaccounted, 2)

	// A certificate with the serial of one on record is not that one.
	twin := sign(m.X509.SerialNumber)
	if got, err = w.CheckCertificate(ctx, w.planner, twin); err != nil || !got.Unaccounted {
		t.Errorf("a twin: %+v, %v", got, err)
	}
	if got, err = w.CheckCertificate(ctx, w.planner, newMaker(t, w.clock.now(), w.clock.now().Add(time.Hour)).certificate); err != nil || got.Ours {
		t.Errorf("a stranger's: %+v, %v", got, err)
	}
	_, err = w.CheckCertificate(ctx, w.planner, []byte("hello"))
	w.refused(err, fault.ParameterInvalid)
}
