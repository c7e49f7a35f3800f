package factory_test

import (
	"crypto/rand"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/keystore"
)

// certified makes a root and an issuing authority, which signs for units from now
// on.
func (w *world) certified() {
	w.t.Helper()
	ctx := w.t.Context()
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
	keys, err := keystore.Open(keystore.Config{Dir: w.folder + "/keys", Rand: rand.Reader, Iterations: 1000})
	w.ok(err)
	w.issuer = m.X509
	w.key, err = keys.Load(ctx, m.KeyURI, serverSecret)
	w.ok(err)
}

func TestCertificateOfOursThatNoRecordNamesRaisesAnAlarm(t *testing.T) {
	w := newWorld(t)
	w.certified()
	ctx := t.Context()
	known, err := w.CheckCertificate(ctx, w.planner, w.issuer.Raw)
	w.ok(err)
	if !known.Ours || known.Unaccounted || known.Authority != "root" {
		t.Errorf("our own: %+v", known)
	}
	sign := func(certSerial *big.Int) []byte {
		return w.certify(&unit{key: newKey(t), serial: "SN0001"}, certSerial.Bytes())
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
	twin := sign(w.issuer.SerialNumber)
	if got, err = w.CheckCertificate(ctx, w.planner, twin); err != nil || !got.Unaccounted {
		t.Errorf("a twin: %+v, %v", got, err)
	}
	if got, err = w.CheckCertificate(ctx, w.planner, newMaker(t, w.clock.now(), w.clock.now().Add(time.Hour)).certificate); err != nil || got.Ours {
		t.Errorf("a stranger's: %+v, %v", got, err)
	}
	_, err = w.CheckCertificate(ctx, w.planner, []byte("hello"))
	w.refused(err, fault.ParameterInvalid)
}

func TestCertificateOfAScrappedUnitThatIsSeenRaisesAnAlarm(t *testing.T) {
	w := newWorld(t)
	w.certified()
	w.opened(terms())
	u := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	got, err := w.CheckCertificate(t.Context(), w.planner, u.credential.DER)
	w.ok(err)
	if !got.Ours || got.Unaccounted || got.Credential.ID != u.credential.ID {
		t.Errorf("%+v", got)
	}
	if list := w.alarmed(factory.AlarmScrapShipped); len(list) != 0 {
		t.Errorf("an alarm for a good unit: %+v", list)
	}
	sites, err := w.Sites(t.Context(), w.planner)
	w.ok(err)
	elsewhere := w.lead
	elsewhere.Scope = access.Limited(nil, []int64{sites[1].ID}, nil)
	if got, err = w.CheckCertificate(t.Context(), elsewhere, u.credential.DER); err != nil || got.Credential.ID != 0 || got.Unaccounted {
		t.Errorf("from another site: %+v, %v", got, err)
	}
	_, err = w.ScrapUnit(t.Context(), w.planner, "PO-1", "SN0001", "broken")
	w.ok(err)
	_, err = w.CheckCertificate(t.Context(), w.planner, u.credential.DER)
	w.ok(err)
	w.wantAlarm(factory.AlarmScrapShipped, 1)
}
