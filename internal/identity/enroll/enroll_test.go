package enroll_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

func refused(t *testing.T, err error, want fault.Code) {
	t.Helper()
	if !fault.Has(err, want) {
		t.Fatalf("got %v, want %s", err, want)
	}
}

func TestEnrollGivesACertificateFromRegisterAndProfile(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	d := w.device("sensor", "SN-1")
	key := newKey(t)
	r, err := w.bySecret(d, newCSR(t, key, nil))
	must(t, err)
	c := parsed(t, r)
	if c.Subject.CommonName != "SN-1" || c.Subject.Organization[0] != "Acme" {
		t.Errorf("subject %s is not from the register", c.Subject)
	}
	if !key.PublicKey.Equal(c.PublicKey) {
		t.Error("certificate is for another key")
	}
	issuer, err := x509.ParseCertificate(r.Chain[0])
	must(t, err)
	must(t, c.CheckSignatureFrom(issuer))
	stored, err := w.store.CredentialBySerial(t.Context(), access.Everything(), c.SerialNumber.Bytes())
	must(t, err)
	if !bytes.Equal(stored.DER, c.Raw) {
		t.Errorf("register has another row: %+v", stored)
	}
	after, err := w.store.Device(t.Context(), access.Everything(), d.Device.ID)
	must(t, err)
	if after.State != device.Active || after.Current[device.LDevIDSlot("cloud")] != stored.ID || after.Secret.SpentAt.IsZero() {
		t.Errorf("device after enrollment: %+v", after)
	}
}

func TestEnrollRefusesWrongSecretsAlike(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	d := w.device("sensor", "SN-1")
	csr := newCSR(t, newKey(t), nil)
	wrong, unknown := d, d
	wrong.Secret = "guess"
	unknown.Device.DeviceSerial = "SN-2"
	_, err1 := w.bySecret(wrong, csr)
	_, err2 := w.bySecret(unknown, csr)
	refused(t, err1, fault.SecretWrong)
	refused(t, err2, fault.SecretWrong)
	if err1.Error() != err2.Error() {
		t.Errorf("a stranger can tell them apart: %q and %q", err1, err2)
	}
}

func TestEnrollSameRequestGetsSameCertificate(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	d := w.device("sensor", "SN-1")
	key := newKey(t)
	first, err := w.bySecret(d, newCSR(t, key, nil))
	must(t, err)
	second, err := w.bySecret(d, newCSR(t, key, nil))
	must(t, err)
	if !bytes.Equal(first.Credential.DER, second.Credential.DER) || !second.Replayed {
		t.Error("the same request got another certificate")
	}
	_, err = w.bySecret(d, newCSR(t, newKey(t), nil))
	refused(t, err, fault.SecretSpent)
	w.pass(16 * time.Minute)
	_, err = w.bySecret(d, newCSR(t, key, nil))
	refused(t, err, fault.SecretSpent)
}

func TestEnrollAtOnceWithOneSecret(t *testing.T) {
	const requests = 200
	for _, tt := range []struct {
		name    string
		sameKey bool
		want    int // certificates handed out
	}{{"distinct keys", false, 1}, {"one key", true, requests}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.product("sensor", "ldevid-cloud")
			d := w.device("sensor", "SN-1")
			key := newKey(t)
			var mu sync.Mutex
			handed, distinct := 0, map[string]bool{}
			var wg sync.WaitGroup
			for range requests {
				k := key
				if !tt.sameKey {
					k = newKey(t)
				}
				csr := newCSR(t, k, nil)
				wg.Go(func() {
					r, err := w.bySecret(d, csr)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						handed++
						distinct[string(r.Credential.DER)] = true
					} else if !fault.Has(err, fault.SecretSpent) {
						t.Errorf("refused with %v", err)
					}
				})
			}
			wg.Wait()
			if handed != tt.want || len(distinct) != 1 {
				t.Errorf("%d answers with %d certificates, want %d with 1", handed, len(distinct), tt.want)
			}
		})
	}
}

func TestEnrollRefusesKeyOfAnotherDevice(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	key := newKey(t)
	_, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, key, nil))
	must(t, err)
	_, err = w.bySecret(w.device("sensor", "SN-2"), newCSR(t, key, nil))
	refused(t, err, fault.KeyInUse)
}

func TestEnrollRefusesDevicesThatMayNot(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	for _, state := range []device.State{device.Suspended, device.Scrapped, device.Decommissioned} {
		d := w.device("sensor", "SN-"+state.String())
		_, err := w.register.Move(t.Context(), w.operator, d.Device.ID, state)
		must(t, err)
		_, err = w.bySecret(d, newCSR(t, newKey(t), nil))
		refused(t, err, fault.DeviceState)
	}
}

func TestReenrollKeepsSubjectAndChangesCertificate(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	d := w.device("sensor", "SN-1")
	old, err := w.bySecret(d, newCSR(t, newKey(t), nil))
	must(t, err)
	cert := parsed(t, old)

	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), nil))
	refused(t, err, fault.SubjectChanged)

	rekeyed, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	if rekeyed.Credential.Previous != old.Credential.ID {
		t.Errorf("previous is %d, want %d", rekeyed.Credential.Previous, old.Credential.ID)
	}
	// The answer may have been lost: the old certificate asks again with
	// another key until the new one has been seen.
	again, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	// The newest is used: from now on the old one is done with.
	_, err = w.byCertificate(enroll.Reenroll, parsed(t, again), "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	refused(t, err, fault.CredentialSuperseded)
}

func TestReenrollWithTheSameKeyTwiceIsOneCertificate(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	key := newKey(t)
	old, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, key, nil))
	must(t, err)
	cert := parsed(t, old)
	first, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, key, cert.RawSubject))
	must(t, err)
	if bytes.Equal(first.Credential.DER, old.Credential.DER) {
		t.Fatal("renewal returned the old certificate")
	}
	second, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, key, cert.RawSubject))
	must(t, err)
	if !bytes.Equal(first.Credential.DER, second.Credential.DER) {
		t.Error("the same renewal gave two certificates")
	}
}

func TestReenrollAfterRevocationAndExpiry(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	revoked, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, newKey(t), nil))
	must(t, err)
	c := &revoked.Credential
	must(t, w.store.Revoke(t.Context(), access.Everything(), status.Revocation{
		Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, At: w.clock(), Reason: 1, NotAfter: c.NotAfter,
	}, ledger.Entry{Kind: ledger.CertificateRevoked, At: w.clock(), Actor: "system", Body: &ledger.Revoked{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device), Reason: 1, RevokedAt: w.clock(), NotAfter: c.NotAfter,
	}}))
	cert := parsed(t, revoked)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	refused(t, err, fault.CredentialRevoked)

	expired, err := w.bySecret(w.device("sensor", "SN-2"), newCSR(t, newKey(t), nil))
	must(t, err)
	cert = parsed(t, expired)
	w.pass(366 * 24 * time.Hour)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	refused(t, err, fault.CredentialExpired)
}

func TestIDevIDAuthenticatesLDevIDButNotWithItsOwnKey(t *testing.T) {
	w := newWorld(t)
	w.product("gateway", "idevid", "ldevid-cloud")
	key := newKey(t)
	initial, err := w.bySecret(w.device("gateway", "GW-1"), newCSR(t, key, nil))
	must(t, err)
	if initial.Credential.Kind != "idevid" {
		t.Fatalf("first profile of the product is %s", initial.Credential.Kind)
	}
	cert := parsed(t, initial)
	_, err = w.byCertificate(enroll.Enroll, cert, "", newCSR(t, key, nil))
	if err == nil {
		t.Fatal("an IDevID enrolled under its own profile again")
	}
	must(t, w.plane.SetLabel(t.Context(), "system", label("cloud", "ldevid-cloud")))
	_, err = w.byCertificate(enroll.Enroll, cert, "cloud", newCSR(t, key, nil))
	refused(t, err, fault.KeyOfIDevID)
	operational, err := w.byCertificate(enroll.Enroll, cert, "cloud", newCSR(t, newKey(t), nil))
	must(t, err)
	if operational.Credential.Purpose != "cloud" {
		t.Errorf("purpose %q", operational.Credential.Purpose)
	}
}

func TestForgedCertificateOfTheSameSerialIsRefused(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	old, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, newKey(t), nil))
	must(t, err)
	forged := *parsed(t, old)
	forged.Raw = append([]byte{}, forged.Raw...)
	forged.Raw[len(forged.Raw)-1] ^= 1
	_, err = w.byCertificate(enroll.Reenroll, &forged, "", newCSR(t, newKey(t), forged.RawSubject))
	refused(t, err, fault.RequesterCertificate)
}

func TestApprovalWaitsAndIsExecutedOnce(t *testing.T) {
	w := newWorld(t, "name: guarded\nkind: ldevid\npurpose: guarded\nkeys: [p256]\nvalidity: {days: 30}\nsubject:\n  - {attribute: commonName, from: deviceSerial}\nkeyUsage: [digitalSignature]\nrequireApproval: true\n")
	w.product("sensor", "guarded")
	d := w.device("sensor", "SN-1")
	csr := newCSR(t, newKey(t), nil)
	_, err := w.bySecret(d, csr)
	waiting, ok := errors.AsType[*enroll.Waiting](err)
	if !ok {
		t.Fatalf("got %v, want to wait", err)
	}
	_, err = w.bySecret(d, csr)
	if again, ok := errors.AsType[*enroll.Waiting](err); !ok || again.Approval != waiting.Approval {
		t.Fatalf("got %v, want to wait for the same approval", err)
	}
	a, err := w.store.Approval(t.Context(), waiting.Approval)
	must(t, err)
	a.State, a.DecidedBy, a.DecidedAt = access.Approved, "operator:second", w.clock()
	must(t, w.store.MoveApproval(t.Context(), a, access.Waiting, ledger.Entry{Kind: ledger.ApprovalDecided, At: w.clock(), Actor: "operator:second", Body: ledger.JSON(struct{}{})}))
	r, err := w.bySecret(d, csr)
	must(t, err)
	replay, err := w.bySecret(d, csr)
	must(t, err)
	if !bytes.Equal(r.Credential.DER, replay.Credential.DER) {
		t.Error("an executed approval gave another certificate")
	}
}

func TestNamesAreComparedAsText(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud")
	old, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, newKey(t), nil))
	must(t, err)
	cert := parsed(t, old)
	printable, err := asn1.Marshal(cert.Subject.ToRDNSequence()) // PrintableString where the certificate may have UTF8String
	must(t, err)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), printable))
	must(t, err)
}

func TestForeignAuthorityVouchesForRegisteredDevices(t *testing.T) {
	w := newWorld(t)
	ca, caKey := foreignCA(t)
	_, err := w.plane.Import(t.Context(), "system", authority.Existing{Name: "chipmaker", Certificate: ca.Raw})
	must(t, err)
	_, err = w.plane.ImportProfile(t.Context(), "system", []byte("name: onboard\nkind: ldevid\npurpose: cloud\nkeys: [p256]\nvalidity: {days: 30}\nsubject:\n  - {attribute: commonName, from: deviceSerial}\nkeyUsage: [digitalSignature]\nextendedKeyUsage: [clientAuth]\ntrusts: [chipmaker]\n"))
	must(t, err)
	w.product("sensor", "onboard")
	w.device("sensor", "SN-1")
	key := newKey(t)

	r, err := w.byCertificate(enroll.Enroll, foreignLeaf(t, ca, caKey, key, "SN-1"), "", newCSR(t, newKey(t), nil))
	must(t, err)
	if cn := parsed(t, r).Subject.CommonName; cn != "SN-1" {
		t.Errorf("certificate is for %q", cn)
	}
	_, err = w.byCertificate(enroll.Enroll, foreignLeaf(t, ca, caKey, key, "SN-2"), "", newCSR(t, newKey(t), nil))
	refused(t, err, fault.RequesterCertificate)

	stranger, strangerKey := foreignCA(t)
	_, err = w.byCertificate(enroll.Enroll, foreignLeaf(t, stranger, strangerKey, key, "SN-1"), "", newCSR(t, newKey(t), nil))
	if err == nil {
		t.Fatal("an authority that nobody imported vouched for a device")
	}
	_, err = w.byCertificate(enroll.Reenroll, foreignLeaf(t, ca, caKey, key, "SN-1"), "", newCSR(t, newKey(t), nil))
	if err == nil {
		t.Fatal("a foreign certificate re-enrolled")
	}
}

func TestExpiredCertificateRenewsWithinTheProfilesGrace(t *testing.T) {
	w := newWorld(t, "name: patient\nkind: ldevid\npurpose: cloud\nkeys: [p256]\nvalidity: {days: 30}\nsubject:\n  - {attribute: commonName, from: deviceSerial}\nkeyUsage: [digitalSignature]\nextendedKeyUsage: [clientAuth]\nacceptExpiredDays: 10\n")
	w.product("sensor", "patient")
	early, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, newKey(t), nil))
	must(t, err)
	late, err := w.bySecret(w.device("sensor", "SN-2"), newCSR(t, newKey(t), nil))
	must(t, err)
	gone, err := w.bySecret(w.device("sensor", "SN-3"), newCSR(t, newKey(t), nil))
	must(t, err)
	must(t, w.end(&gone.Credential))

	w.pass(35 * 24 * time.Hour)
	cert := parsed(t, early)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	cert = parsed(t, gone)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	refused(t, err, fault.CredentialRevoked)

	w.pass(6 * 24 * time.Hour)
	cert = parsed(t, late)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	refused(t, err, fault.CredentialExpired)
}

func TestOldAndNewCertificateAreGoodTogetherForAWhile(t *testing.T) {
	w := newWorld(t)
	w.product("sensor", "ldevid-cloud") // overlapDays: 14
	old, err := w.bySecret(w.device("sensor", "SN-1"), newCSR(t, newKey(t), nil))
	must(t, err)
	cert := parsed(t, old)
	renewed, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	state := func() device.CredentialState {
		row, err := w.store.Credential(t.Context(), access.Everything(), old.Credential.ID)
		must(t, err)
		return row.State
	}
	ended := func() int {
		ids, err := w.store.EndedOverlaps(t.Context(), w.clock(), 10)
		must(t, err)
		return len(ids)
	}
	if state() != device.Confirmed {
		t.Errorf("after its renewal the old certificate is %s", state())
	}
	w.pass(15 * 24 * time.Hour)
	if ended() != 0 {
		t.Error("the old certificate ends before the new one was used")
	}
	// The new one is used: from now on both are good for fourteen days.
	cert = parsed(t, renewed)
	_, err = w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
	must(t, err)
	w.pass(13 * 24 * time.Hour)
	if ended() != 0 {
		t.Error("the overlap is too short")
	}
	w.pass(2 * 24 * time.Hour)
	if ended() != 1 {
		t.Error("the overlap does not end")
	}
	must(t, w.end(&old.Credential))
	if ended() != 0 || state() != device.Revoked {
		t.Error("a revoked certificate is to be ended again")
	}
}
