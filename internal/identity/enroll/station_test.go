package enroll_test

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/status"
)

func (l *line) revoke(certSerial *big.Int) {
	l.t.Helper()
	_, err := l.status.Revoke(l.t.Context(), access.System(), status.Act{CertSerial: certSerial.Bytes(), Reason: "keyCompromise"})
	must(l.t, err)
}

func TestStationEnrollsOnceWithItsCode(t *testing.T) {
	l := newLine(t, nil)
	st := l.addStation("line-8", l.site)
	l.code(st.ID, "the code")
	key := newKey(t)
	first, err := l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, key, nil))
	must(t, err)
	cert := stationCert(t, first)
	if cert.Subject.CommonName != "line-8" || cert.Subject.OrganizationalUnit[0] != "Augsburg" || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("certificate of %s", cert.Subject)
	}
	if first.Station != "line-8" || first.Site != "Augsburg" || first.Credential.Kind != "station" {
		t.Errorf("answer %+v", first)
	}
	issuer, err := x509.ParseCertificate(first.Chain[0])
	must(t, err)
	must(t, cert.CheckSignatureFrom(issuer))
	root, err := x509.ParseCertificate(first.Root)
	must(t, err)
	must(t, issuer.CheckSignatureFrom(root))

	again, err := l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, key, nil))
	must(t, err)
	if !again.Replayed || !bytes.Equal(again.Credential.DER, first.Credential.DER) {
		t.Error("the same key got another certificate")
	}
	_, err = l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, newKey(t), nil))
	refused(t, err, fault.StationCode)
	l.pass(16 * time.Minute)
	_, err = l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, key, nil))
	refused(t, err, fault.StationCode)
}

// A stranger hears the same whatever is wrong with a code.
func TestStationCodesAreRefusedAlike(t *testing.T) {
	l := newLine(t, nil)
	st := l.addStation("line-8", l.site)
	l.code(st.ID, "replaced")
	l.code(st.ID, "too old")
	l.pass(25 * time.Hour)
	texts := map[string]bool{}
	for _, code := range []string{"", "wrong", "replaced", "too old", "code of line-7"} {
		_, err := l.enroller.EnrollStation(t.Context(), code, []byte("not even a request"))
		refused(t, err, fault.StationCode)
		texts[err.Error()] = true
	}
	if len(texts) != 1 {
		t.Errorf("a stranger can tell them apart: %v", texts)
	}
	l.code(st.ID, "good")
	l.move(st.ID, factory.StationSuspended)
	_, err := l.enroller.EnrollStation(t.Context(), "good", newCSR(t, newKey(t), nil))
	refused(t, err, fault.StationState)
}

func TestStationCodeAtOnce(t *testing.T) {
	l := newLine(t, nil)
	st := l.addStation("line-8", l.site)
	l.code(st.ID, "the code")
	var mu sync.Mutex
	issued := 0
	var wg sync.WaitGroup
	for range 32 {
		csr := newCSR(t, newKey(t), nil)
		wg.Go(func() {
			_, err := l.enroller.EnrollStation(t.Context(), "the code", csr)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				issued++
			} else if !fault.Has(err, fault.StationCode) {
				t.Errorf("refused with %v", err)
			}
		})
	}
	wg.Wait()
	if issued != 1 {
		t.Errorf("one code paid for %d certificates", issued)
	}
}

func TestStationRefuses(t *testing.T) {
	l := newLine(t, nil)
	l.world.product("field", "idevid")
	d := l.device("field", "SN-X")
	got, err := l.bySecret(d, newCSR(t, newKey(t), nil))
	must(t, err)
	ldevid := parsed(t, got)
	ca, caKey := foreignCA(t)
	fresh := func() (factory.Station, *x509.Certificate) {
		st := l.addStation("station-"+time.Duration(l.nonces.Add(1)).String(), l.site)
		l.code(st.ID, "code of "+st.Name)
		r, err := l.enroller.EnrollStation(t.Context(), "code of "+st.Name, newCSR(t, newKey(t), nil))
		must(t, err)
		return st, stationCert(t, r)
	}
	for name, tt := range map[string]struct {
		cert func() *x509.Certificate
		want fault.Code
	}{
		"nothing":  {func() *x509.Certificate { return nil }, fault.StationCertificate},
		"a device": {func() *x509.Certificate { return ldevid }, fault.StationCertificate},
		"somebody": {func() *x509.Certificate { return foreignLeaf(t, ca, caKey, newKey(t), "line-7") }, fault.StationCertificate},
		"a forgery with the number of a station": {func() *x509.Certificate {
			_, c := fresh()
			key := newKey(t)
			return signCertificate(t, &x509.Certificate{
				SerialNumber: c.SerialNumber, Subject: c.Subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
			}, nil, key, key)
		}, fault.StationCertificate},
		"revoked": {func() *x509.Certificate {
			_, c := fresh()
			l.revoke(c.SerialNumber)
			return c
		}, fault.CredentialRevoked},
		"on hold": {func() *x509.Certificate {
			_, c := fresh()
			_, err := l.status.Hold(t.Context(), access.System(), status.Act{CertSerial: c.SerialNumber.Bytes()})
			must(t, err)
			return c
		}, fault.CredentialRevoked},
		"suspended": {func() *x509.Certificate {
			st, c := fresh()
			l.move(st.ID, factory.StationSuspended)
			return c
		}, fault.StationState},
		"retired": {func() *x509.Certificate {
			st, c := fresh()
			l.move(st.ID, factory.StationRetired)
			return c
		}, fault.StationState},
		"expired": {func() *x509.Certificate {
			_, c := fresh()
			l.pass(91 * 24 * time.Hour)
			return c
		}, fault.StationCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			var chain []*x509.Certificate
			if c := tt.cert(); c != nil {
				chain = append(chain, c)
			}
			l.refresh()
			_, err := l.enroller.Station(t.Context(), chain)
			refused(t, err, tt.want)
		})
	}
}

// A live connection is of no use to a station that was suspended, nor is one to
// a station whose certificate was revoked a second ago.
func TestLiveSessionEndsWithTheStation(t *testing.T) {
	l := newLine(t, nil)
	c := l.newChip("0123aa", nil)
	must(t, l.session.Check(t.Context()))
	l.move(l.station.ID, factory.StationSuspended)
	// STORE knows, even if nobody has told this node.
	_, err := l.ask(l.unit("SN-1", newKey(t), c, l.nonce()))
	refused(t, err, fault.StationState)
	refused(t, l.session.Check(t.Context()), fault.StationState)
	l.move(l.station.ID, factory.StationActive)
	l.refresh()
	must(t, l.session.Check(t.Context()))
	l.made(l.unit("SN-1", newKey(t), c, l.nonce()))

	cred := l.session.Credential()
	l.revoke(new(big.Int).SetBytes(cred.CertSerial))
	l.pass(2 * time.Second)
	refused(t, l.session.Check(t.Context()), fault.CredentialRevoked)
	_, err = l.ask(l.unit("SN-2", newKey(t), l.newChip("0123ab", nil), l.nonce()))
	refused(t, err, fault.CredentialRevoked)
}

func TestStationRenewsItself(t *testing.T) {
	l := newLine(t, nil)
	key := newKey(t)
	next, err := l.enroller.RenewStation(t.Context(), l.session, newCSR(t, key, nil))
	must(t, err)
	again, err := l.enroller.RenewStation(t.Context(), l.session, newCSR(t, key, nil))
	must(t, err)
	if !again.Replayed || !bytes.Equal(again.Credential.DER, next.Credential.DER) {
		t.Error("a lost answer is not given again")
	}
	// The answer may be lost for good: the old certificate asks with another key.
	later, err := l.enroller.RenewStation(t.Context(), l.session, newCSR(t, newKey(t), nil))
	must(t, err)
	s := l.sessionOf(later)
	if s.Station().ID != l.station.ID || s.Site() != "Augsburg" || s.Actor() != "station:line-7" {
		t.Errorf("session of %+v", s.Station())
	}
	// What the old one began it may finish.
	l.pass(2 * time.Second)
	must(t, l.session.Check(t.Context()))
	// When the overlap is over, it is revoked.
	l.pass(8 * 24 * time.Hour)
	ended, err := l.store.EndedOverlaps(t.Context(), l.clock(), 10)
	must(t, err)
	old := l.session.Credential()
	found := false
	for _, id := range ended {
		found = found || id == old.ID
	}
	if !found {
		t.Errorf("the overlap of %d does not end: %v", old.ID, ended)
	}
	// The same key may stay.
	sameKey := newKey(t)
	one, err := l.enroller.RenewStation(t.Context(), s, newCSR(t, sameKey, nil))
	must(t, err)
	two, err := l.enroller.RenewStation(t.Context(), l.sessionOf(one), newCSR(t, sameKey, nil))
	must(t, err)
	if two.Replayed || two.Credential.SPKIDigest != one.Credential.SPKIDigest {
		t.Error("renewal with the same key did not renew")
	}
}

func TestStationReplacedComputerIsAStranger(t *testing.T) {
	l := newLine(t, nil)
	renewed, err := l.enroller.RenewStation(t.Context(), l.session, newCSR(t, newKey(t), nil))
	must(t, err)
	old := l.sessionOf(renewed)
	l.code(l.station.ID, "new computer")
	must(t, old.Check(t.Context()))
	r, err := l.enroller.EnrollStation(t.Context(), "new computer", newCSR(t, newKey(t), nil))
	must(t, err)
	l.pass(2 * time.Second)
	must(t, l.sessionOf(r).Check(t.Context()))
	for _, s := range []interface{ Credential() device.Credential }{old, l.session} {
		c := s.Credential()
		row, err := l.store.Credential(t.Context(), access.Everything(), c.ID)
		must(t, err)
		if row.State != device.Revoked {
			t.Errorf("certificate %d of the old computer is %s", c.ID, row.State)
		}
	}
	refused(t, old.Check(t.Context()), fault.CredentialRevoked)
}

func TestStationKeyOfAnotherIsRefusedAndAlarmed(t *testing.T) {
	l := newLine(t, nil)
	key := newKey(t)
	_, err := l.enroller.RenewStation(t.Context(), l.session, newCSR(t, key, nil))
	must(t, err)
	st := l.addStation("line-8", l.site)
	l.code(st.ID, "the code")
	_, err = l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, key, nil))
	refused(t, err, fault.KeyInUse)
	l.alarm(factory.AlarmKeyReused)
	if _, err := l.enroller.EnrollStation(t.Context(), "the code", newCSR(t, newKey(t), nil)); err != nil {
		t.Errorf("the code was spent by a refusal: %v", err)
	}
}

func TestInstallationWithoutLineRefusesStations(t *testing.T) {
	l := newLine(t, nil)
	plain := withoutLine(t, l.world)
	_, err := plain.Station(t.Context(), nil)
	refused(t, err, fault.StationCertificate)
	_, err = plain.EnrollStation(t.Context(), "code", nil)
	refused(t, err, fault.StationCode)
	_, err = plain.EnrollUnit(t.Context(), l.session, l.unit("SN-1", newKey(t), nil, nil))
	refused(t, err, fault.StationCertificate)
}
