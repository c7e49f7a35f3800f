package authority_test

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

var (
	rootSecret   = keystore.Secret("root passphrase")
	serverSecret = keystore.Secret("server passphrase")
)

// world is a service over fakes and a real keystore.
type world struct {
	*authority.Service
	store *fake
	keys  *keystore.Store
	clock *clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	keys, err := keystore.Open(keystore.Config{Dir: t.TempDir(), Rand: rand.Reader, Iterations: 1000})
	noError(t, err)
	w := &world{store: newFake(), keys: keys, clock: newClock()}
	w.restart(t)
	return w
}

// restart replaces the service, as a new process would.
func (w *world) restart(t *testing.T) {
	t.Helper()
	var err error
	w.Service, err = authority.New(authority.Config{
		Store: w.store, Register: w.store, Keys: w.keys, Now: w.clock.now, Rand: rand.Reader, Node: "n1", Block: 64,
		Secret: func(string) (keystore.Secret, error) { return serverSecret, nil },
	})
	noError(t, err)
}

// hierarchy makes a root and an issuing authority with all presets.
func (w *world) hierarchy(t *testing.T) {
	t.Helper()
	noError(t, w.make(t))
}

func (w *world) make(t *testing.T) error {
	ctx := t.Context()
	_, err := w.CreateRoot(ctx, "local:root", authority.NewAuthority{Name: "root", Secret: rootSecret})
	if err != nil && !fault.Has(err, fault.AuthorityExists) {
		return err
	}
	session, err := w.OpenRoot(ctx, "root", rootSecret)
	if err != nil {
		return err
	}
	defer session.Close()
	_, err = session.CreateIssuing(ctx, "local:root", authority.NewAuthority{Name: "issuing", Secret: serverSecret})
	if err != nil && !fault.Has(err, fault.AuthorityExists) {
		return err
	}
	return w.ImportPresets(ctx, "local:root")
}

func TestHierarchyIsMade(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	road, err := snap.Road("ldevid-cloud")
	noError(t, err)
	if road.Authority.Name != "issuing" || len(road.Chain) != 1 {
		t.Fatalf("road over %q with a chain of %d", road.Authority.Name, len(road.Chain))
	}
	root, err := snap.Authority("root")
	noError(t, err)
	if root.Issuer != nil {
		t.Fatal("the snapshot opened the root's key")
	}
	if err := road.Authority.X509.CheckSignatureFrom(root.X509); err != nil {
		t.Fatal(err)
	}
	for _, r := range snap.Roads() {
		ca := r.Profile.Kind.CA() || r.Profile.Issuer == "root"
		if (r.Err() == nil) == ca {
			t.Errorf("profile %s: %v", r.Version.Name, r.Err())
		}
	}
	for _, a := range snap.Authorities() {
		c, err := w.store.Credential(t.Context(), everything, a.Credential)
		noError(t, err)
		if string(c.DER) != string(a.Certificate) || c.Kind != string(a.Kind) || c.KeyKind != device.KeyOurs {
			t.Errorf("authority %s is not in the register as it should be", a.Name)
		}
	}
}

var errKilled = errors.New("killed")

// Whatever write the process dies at, the same commands finish the hierarchy,
// and nothing exists twice.
func TestHardwareIsOnRecord(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	ctx := t.Context()
	session, err := w.OpenRoot(ctx, "root", rootSecret)
	noError(t, err)
	defer session.Close()
	hsm := authority.Hardware{Model: "Example HSM 9", Certificate: "FIPS 140-3 #4718", Level: "3"}
	a, err := session.CreateIssuing(ctx, "local:root", authority.NewAuthority{Name: "line", Secret: serverSecret, Hardware: hsm})
	noError(t, err)
	snap, err := w.Snapshot(ctx)
	noError(t, err)
	if m, err := snap.Authority("line"); err != nil || m.Hardware != hsm || a.Hardware != hsm {
		t.Errorf("%+v %v", a.Hardware, err)
	}
	for _, bad := range []authority.Hardware{
		{Certificate: "#1"}, {Model: strings.Repeat("x", 129)}, {Model: "a\x1b[2Jb"}, {Model: "x", Level: "\xff"},
	} {
		_, err := session.CreateIssuing(ctx, "local:root", authority.NewAuthority{Name: "other", Secret: serverSecret, Hardware: bad})
		wantFault(t, err, fault.AuthorityInvalid)
	}
}

func TestHierarchySurvivesDeathAtEveryWrite(t *testing.T) {
	writes := 0
	for at := 1; ; at++ {
		w := newWorld(t)
		n := 0
		w.store.fail = func(string) error {
			if n++; n == at {
				return errKilled
			}
			return nil
		}
		err := w.make(t)
		if err == nil {
			writes = n
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("write %d: %v", at, err)
		}
		w.store.fail = nil
		w.restart(t)
		w.hierarchy(t)
		checkComplete(t, w)

		// The write took place, but its caller did not live to see it.
		w = newWorld(t)
		n = 0
		w.store.fail = func(string) error {
			if n++; n > at {
				return errKilled
			}
			return nil
		}
		if err := w.make(t); err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("after write %d: %v", at, err)
		}
		w.store.fail = nil
		w.restart(t)
		w.hierarchy(t)
		checkComplete(t, w)
	}
	if writes < 10 {
		t.Fatalf("only %d writes were seen", writes)
	}
}

func checkComplete(t *testing.T, w *world) {
	t.Helper()
	if len(w.store.authorities) != 2 || len(w.store.credentials) != 2 {
		t.Fatalf("%d authorities, %d certificates", len(w.store.authorities), len(w.store.credentials))
	}
	for _, a := range w.store.authorities {
		if a.State != authority.Active || a.Credential == 0 || a.Certificate == nil {
			t.Fatalf("%s is %v", a.Name, a.State)
		}
	}
}

func TestStaleDecisionIsMadeAgain(t *testing.T) {
	w := newWorld(t)
	once := true
	w.store.leaseGate = func() error {
		if once { // the control plane changes between decision and STORE
			once = false
			w.store.mu.Lock()
			w.store.epoch++
			w.store.mu.Unlock()
		}
		return nil
	}
	w.hierarchy(t)
	checkComplete(t, w)
}

func TestRootSessionNeedsItsPassphraseAndEnds(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	_, err := w.OpenRoot(t.Context(), "root", keystore.Secret("guess"))
	wantFault(t, err, fault.PassphraseWrong)
	_, err = w.OpenRoot(t.Context(), "issuing", serverSecret)
	wantFault(t, err, fault.AuthorityState)
	s, err := w.OpenRoot(t.Context(), "root", rootSecret)
	noError(t, err)
	s.Close()
	s.Close()
	_, err = s.CreateIssuing(t.Context(), "local:root", authority.NewAuthority{Name: "late", Secret: serverSecret})
	wantFault(t, err, fault.KeyUnavailable)
}

func TestRetiredAndRevokedAuthoritiesDoNotIssue(t *testing.T) {
	for _, end := range []struct {
		name    string
		do      func(w *world) error
		trusted int
	}{
		{"retired", func(w *world) error { return w.Retire(t.Context(), "local:root", "issuing") }, 2},
		{"revoked", func(w *world) error { return w.MarkRevoked(t.Context(), "local:root", "issuing") }, 1},
	} {
		t.Run(end.name, func(t *testing.T) {
			w := newWorld(t)
			w.hierarchy(t)
			noError(t, end.do(w))
			noError(t, end.do(w)) // again is nothing
			snap, err := w.Snapshot(t.Context())
			noError(t, err)
			_, err = snap.Road("idevid")
			wantFault(t, err, fault.AuthorityState)
			if n := len(snap.Trusted()); n != end.trusted {
				t.Fatalf("%d authorities are trusted, want %d", n, end.trusted)
			}
		})
	}
}

func TestEverythingBelowARevokedRootIsUntrusted(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	noError(t, w.MarkRevoked(t.Context(), "local:root", "root"))
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	if n := len(snap.Trusted()); n != 0 {
		t.Fatalf("%d authorities are trusted", n)
	}
	_, err = snap.Road("idevid")
	wantFault(t, err, fault.AuthorityState)
}

func TestOneBrokenProfileDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	w.store.profiles = append(w.store.profiles, authority.ProfileVersion{ID: 99, Name: "broken", Version: 1, Text: []byte("name: [")})
	w.store.epoch++
	noError(t, w.Follow(t.Context(), ledger.Batch{Classes: ledger.ClassControl}))
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	if _, err := snap.Road("broken"); err == nil {
		t.Fatal("a broken profile has a road")
	}
	_, err = snap.Road("idevid")
	noError(t, err)
	_, err = snap.Road("nothing")
	wantFault(t, err, fault.ProfileUnknown)
}

func TestSnapshotFollowsControlClassesOnly(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	before := w.store.controlReads
	noError(t, w.Follow(t.Context(), ledger.Batch{Classes: ledger.ClassIssuance | ledger.ClassDevice | ledger.ClassStatus}))
	if w.store.controlReads != before {
		t.Fatal("an issuance made the control plane be read")
	}
	old, err := w.Snapshot(t.Context())
	noError(t, err)
	noError(t, w.Follow(t.Context(), ledger.Batch{Classes: ledger.ClassControl}))
	now, err := w.Snapshot(t.Context())
	noError(t, err)
	if w.store.controlReads != before+1 || old == now {
		t.Fatal("a change of the control plane was not read")
	}
	a, err := old.Road("idevid")
	noError(t, err)
	b, err := now.Road("idevid")
	noError(t, err)
	if a.Compiled != b.Compiled {
		t.Fatal("an unchanged profile was compiled again")
	}
}

func TestProfileVersions(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	text, _ := profile.Preset("ldevid-cloud")
	first, err := w.ImportProfile(t.Context(), "local:root", text)
	noError(t, err)
	second, err := w.ImportProfile(t.Context(), "local:root", append(slices.Clone(text), "\n# changed\n"...))
	noError(t, err)
	if first.Version != 1 || second.Version != 2 {
		t.Fatalf("versions %d and %d", first.Version, second.Version)
	}
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	for _, v := range []authority.ProfileVersion{first, second} {
		if snap.ProfileName(v.ID) != "ldevid-cloud" {
			t.Errorf("version %d belongs to %q", v.Version, snap.ProfileName(v.ID))
		}
	}
	_, err = w.ImportProfile(t.Context(), "local:root", []byte("name: x\nkind: ldevid\nissuer: nobody\npurpose: x\nkeys: [p256]\nvalidity: {days: 1}\nsubject: [{attribute: commonName, from: deviceSerial}]\nkeyUsage: [digitalSignature]\n"))
	wantFault(t, err, fault.AuthorityUnknown)
	_, err = w.ImportProfile(t.Context(), "local:root", append(slices.Clone(text), "leastEvidence: enclave\n"...))
	wantFault(t, err, fault.ProfileInvalid)
	if !strings.Contains(err.Error(), "tpm-firmware") {
		t.Errorf("the refusal names no level: %v", err)
	}
}

func TestProductsAndLabelsNameProfilesThatAreThere(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	ctx := t.Context()
	p, err := w.AddProduct(ctx, "local:root", device.Product{Name: "sensor", Profiles: []string{"idevid", "ldevid-cloud"}})
	noError(t, err)
	_, err = w.AddProduct(ctx, "local:root", device.Product{Name: "x", Profiles: []string{"nothing"}})
	wantFault(t, err, fault.ProfileUnknown)
	_, err = w.AddProduct(ctx, "local:root", device.Product{Name: "x", Profiles: []string{"tls-server"}})
	wantFault(t, err, fault.ParameterInvalid)
	noError(t, w.SetLabel(ctx, "local:root", authority.Label{Name: "cloud", Profile: "ldevid-cloud", Wrap: 64}))
	_, err = w.AddProduct(ctx, "local:root", device.Product{Name: "x", Profiles: []string{"idevid"}, LeastEvidence: "tpn"})
	wantFault(t, err, fault.ParameterInvalid)
	if !strings.Contains(err.Error(), "tpm-genuine") {
		t.Errorf("the refusal names no level: %v", err)
	}
	_, err = w.AddProduct(ctx, "local:root", device.Product{Name: "y", Profiles: []string{"idevid-tpm", "attestation-key"}, LeastEvidence: "tpm-firmware"})
	noError(t, err)
	wantFault(t, w.SetLabel(ctx, "local:root", authority.Label{Name: "cacerts", Profile: "ldevid-cloud"}), fault.ParameterInvalid)
	wantFault(t, w.SetLabel(ctx, "local:root", authority.Label{Name: "a/b", Profile: "ldevid-cloud"}), fault.ParameterInvalid)
	for _, name := range []string{"nonce", "tcg-csr"} {
		wantFault(t, w.SetLabel(ctx, "local:root", authority.Label{Name: name, Profile: "ldevid-cloud"}), fault.ParameterInvalid)
	}
	for _, purpose := range []string{"attestation", "a b"} {
		wantFault(t, w.SetLabel(ctx, "local:root", authority.Label{Name: "c", Profile: "ldevid-cloud", Purpose: purpose}), fault.ParameterInvalid)
	}
	snap, err := w.Snapshot(ctx)
	noError(t, err)
	if got, ok := snap.Product(p.ID); !ok || got.Name != "sensor" {
		t.Fatal("the product is not in the snapshot")
	}
	if l, ok := snap.Label("cloud"); !ok || l.Wrap != 64 {
		t.Fatal("the label is not in the snapshot")
	}
	road, err := snap.Road("idevid")
	noError(t, err)
	if v := road.Values(&device.Device{DeviceSerial: "SN1", Product: p.ID}); v.Product != "sensor" || v.Organization != "Acme" || v.DeviceSerial != "SN1" {
		t.Fatalf("values %+v", v)
	}
}

func TestServerCertificateRenewsItself(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	hosts := []string{"est.example.com", "192.0.2.1"}
	get := func() *authority.Presented {
		t.Helper()
		p, err := w.Server(t.Context(), "devices", hosts, profile.P256)
		noError(t, err)
		return p
	}
	first := get()
	if len(first.Chain) != 2 || first.X509.VerifyHostname("est.example.com") != nil || first.X509.VerifyHostname("192.0.2.1") != nil {
		t.Fatal("the certificate is not for its hosts")
	}
	if again := get(); again.Credential.ID != first.Credential.ID {
		t.Fatal("a good certificate was replaced")
	}
	w.restart(t)
	if again := get(); again.Credential.ID != first.Credential.ID {
		t.Fatal("a good certificate was replaced after a restart")
	}
	w.clock.add(first.RenewAt.Sub(w.clock.now()) - time.Second)
	if again := get(); again.Credential.ID != first.Credential.ID {
		t.Fatal("renewed too early")
	}
	w.clock.add(time.Second)
	second := get()
	if second.Credential.ID == first.Credential.ID || second.Credential.Previous != first.Credential.ID {
		t.Fatal("not renewed at two thirds of its life")
	}
	hosts = append(hosts, "other.example.com")
	if third := get(); third.Credential.ID == second.Credential.ID || third.X509.VerifyHostname("other.example.com") != nil {
		t.Fatal("not renewed for new hosts")
	}
	// A revoked certificate takes its key with it.
	fourth := get()
	w.store.credentials[len(w.store.credentials)-1].State = device.Revoked
	fifth := get()
	if fifth.Credential.SPKIDigest == fourth.Credential.SPKIDigest {
		t.Fatal("a revoked key went on")
	}
}

func TestResponders(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	ctx := t.Context()
	_, err := w.Responder(ctx, "root")
	wantFault(t, err, fault.KeyUnavailable)
	session, err := w.OpenRoot(ctx, "root", rootSecret)
	noError(t, err)
	defer session.Close()
	_, err = session.CreateIssuing(ctx, "local:root", authority.NewAuthority{Name: "second", Secret: serverSecret})
	noError(t, err)
	_, err = session.CreateResponder(ctx, "local:root")
	noError(t, err)
	for _, name := range []string{"root", "issuing", "second"} {
		p, err := w.Responder(ctx, name)
		noError(t, err)
		snap, err := w.Snapshot(ctx)
		noError(t, err)
		m, err := snap.Authority(name)
		noError(t, err)
		if err := p.X509.CheckSignatureFrom(m.X509); err != nil {
			t.Errorf("responder of %s: %v", name, err)
		}
		if !slices.Contains(p.X509.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
			t.Errorf("responder of %s has no OCSPSigning", name)
		}
		again, err := w.Responder(ctx, name)
		noError(t, err)
		if again.Credential.ID != p.Credential.ID {
			t.Errorf("responder of %s was replaced", name)
		}
	}
}

func TestListIsInOrder(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	var names []string
	for _, m := range snap.Authorities() {
		names = append(names, fmt.Sprint(m.Name, " ", m.State))
	}
	if !slices.Equal(names, []string{"root active", "issuing active"}) {
		t.Fatal(names)
	}
}
