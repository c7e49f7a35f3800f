package authority_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	return key
}

// foreign makes the certificate of an authority as another CA's software would.
func foreign(t *testing.T, w *world, key crypto.Signer, change func(*x509.Certificate)) []byte {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Old CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: w.clock.now().Add(-time.Hour), NotAfter: w.clock.now().AddDate(10, 0, 0),
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	noError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	noError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestImportCertificateAlone(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	key := newKey(t)
	a, err := w.Import(t.Context(), "local:root", authority.Existing{Name: "old", Certificate: foreign(t, w, key, nil)})
	noError(t, err)
	if a.Kind != authority.Root || a.State != authority.Active || a.KeyURI != "" {
		t.Fatalf("%+v", a)
	}
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	if n := len(snap.Trusted()); n != 3 {
		t.Fatalf("%d authorities are trusted", n)
	}
	_, err = w.OpenRoot(t.Context(), "old", rootSecret)
	wantFault(t, err, fault.KeyUnknown)
}

// An imported issuing authority with its key issues.
func TestImportWithKey(t *testing.T) {
	for name, encode := range map[string]func(*ecdsa.PrivateKey) []byte{
		"PKCS #8": func(k *ecdsa.PrivateKey) []byte { return keyPEM(t, k) },
		"SEC 1 behind its parameters": func(k *ecdsa.PrivateKey) []byte {
			der, err := x509.MarshalECPrivateKey(k)
			noError(t, err)
			text := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{5, 0}})
			return append(text, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			rootKey, key := newKey(t), newKey(t)
			_, err := w.Import(t.Context(), "local:root", authority.Existing{Name: "old-root", Certificate: foreign(t, w, rootKey, nil)})
			noError(t, err)
			parent := &x509.Certificate{Subject: pkix.Name{CommonName: "Old CA"}}
			child := &x509.Certificate{
				SerialNumber: big.NewInt(8), Subject: pkix.Name{CommonName: "Old Issuing CA"}, IsCA: true, BasicConstraintsValid: true,
				KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: w.clock.now().Add(-time.Hour), NotAfter: w.clock.now().AddDate(5, 0, 0),
			}
			der, err := x509.CreateCertificate(rand.Reader, child, parent, key.Public(), rootKey)
			noError(t, err)
			e := authority.Existing{Name: "issuing", Certificate: der, Key: encode(key), Secret: serverSecret}
			a, err := w.Import(t.Context(), "local:root", e)
			noError(t, err)
			if a.Kind != authority.Issuing || a.Parent == 0 {
				t.Fatalf("%+v", a)
			}
			noError(t, w.ImportPresets(t.Context(), "local:root"))
			p, err := w.Server(t.Context(), "devices", []string{"localhost"}, profile.P256)
			noError(t, err)
			issuer, err := x509.ParseCertificate(der)
			noError(t, err)
			noError(t, p.X509.CheckSignatureFrom(issuer))
			_, err = w.Import(t.Context(), "local:root", e)
			wantFault(t, err, fault.AuthorityExists)
		})
	}
}

func TestImportRefuses(t *testing.T) {
	w := newWorld(t)
	key := newKey(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	noError(t, err)
	good := foreign(t, w, key, nil)
	for _, row := range []struct {
		name string
		e    authority.Existing
		code fault.Code
	}{
		{"no certificate", authority.Existing{Certificate: []byte("x")}, fault.CertificateInvalid},
		{"two certificates", authority.Existing{Certificate: append(good[:len(good):len(good)], good...)}, fault.CertificateInvalid},
		{"a key in its place", authority.Existing{Certificate: keyPEM(t, key)}, fault.CertificateInvalid},
		{"a leaf", authority.Existing{Certificate: foreign(t, w, key, func(c *x509.Certificate) { c.IsCA = false })}, fault.AuthorityInvalid},
		{"no right to sign", authority.Existing{Certificate: foreign(t, w, key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })}, fault.AuthorityInvalid},
		{"no name", authority.Existing{Certificate: foreign(t, w, key, func(c *x509.Certificate) { c.Subject = pkix.Name{} })}, fault.AuthorityInvalid},
		{"expired", authority.Existing{Certificate: foreign(t, w, key, func(c *x509.Certificate) { c.NotAfter = w.clock.now() })}, fault.AuthorityInvalid},
		{"a short key", authority.Existing{Certificate: foreign(t, w, weak, nil)}, fault.KeyAlgorithm},
		{"another key", authority.Existing{Certificate: good, Key: keyPEM(t, newKey(t))}, fault.AuthorityMismatch},
		{"an encrypted key", authority.Existing{Certificate: good, Key: pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY"})}, fault.KeyMalformed},
		{"no PEM", authority.Existing{Certificate: good, Key: []byte("x")}, fault.KeyMalformed},
		{"garbage", authority.Existing{Certificate: good, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})}, fault.KeyMalformed},
		{"a bad name", authority.Existing{Name: "../x", Certificate: good}, fault.AuthorityInvalid},
		{"too many shards", authority.Existing{Certificate: good, CRLShards: 257}, fault.AuthorityInvalid},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.e.Name == "" {
				row.e.Name = "old"
			}
			row.e.Secret = serverSecret
			_, err := w.Import(t.Context(), "local:root", row.e)
			wantFault(t, err, row.code)
		})
	}
	if len(w.store.authorities) != 0 {
		t.Fatal("something was imported")
	}
}

// A root signs the key of an authority in another installation, which then
// issues under it.
func TestSubordinateElsewhere(t *testing.T) {
	ctx := t.Context()
	ours, theirs := newWorld(t), newWorld(t)
	ours.hierarchy(t)
	csr, err := theirs.RequestIssuing(ctx, "local:root", authority.NewAuthority{Name: "issuing", CommonName: "Plant CA"})
	noError(t, err)
	session, err := ours.OpenRoot(ctx, "root", rootSecret)
	noError(t, err)
	defer session.Close()
	tampered := append([]byte(nil), csr...)
	tampered[len(tampered)-1] ^= 1
	_, err = session.SignSubordinate(ctx, "local:root", authority.NewAuthority{Name: "plant"}, tampered)
	wantFault(t, err, fault.ProofOfPossession)
	signed, err := session.SignSubordinate(ctx, "local:root", authority.NewAuthority{Name: "plant", CommonName: "Plant CA"}, csr)
	noError(t, err)
	if signed.KeyURI != "" || signed.State != authority.Active || signed.Parent != session.Root().ID {
		t.Fatalf("%+v", signed)
	}
	// Until the certificate is back nothing is issued there.
	snap, err := theirs.Snapshot(ctx)
	noError(t, err)
	if m, err := snap.Authority("issuing"); err != nil || m.State != authority.Pending {
		t.Fatalf("%+v, %v", m, err)
	}
	_, err = theirs.Import(ctx, "local:root", authority.Existing{Name: "issuing", Certificate: foreign(t, theirs, newKey(t), nil)})
	wantFault(t, err, fault.AuthorityMismatch)
	theirs.restart(t)
	_, err = theirs.Import(ctx, "local:root", authority.Existing{Name: "root", Certificate: session.Root().Certificate})
	noError(t, err)
	_, err = theirs.Import(ctx, "local:root", authority.Existing{Name: "issuing", Certificate: signed.Certificate})
	noError(t, err)
	snap, err = theirs.Snapshot(ctx)
	noError(t, err)
	if m, err := snap.Authority("issuing"); err != nil || m.Root == nil {
		t.Fatalf("the imported root is not above it: %+v, %v", m, err)
	}
	noError(t, theirs.ImportPresets(ctx, "local:root"))
	_, err = theirs.Server(ctx, "devices", []string{"localhost"}, profile.P256)
	noError(t, err)
}

func TestSubordinatesKeyMustBeNew(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	w.hierarchy(t)
	session, err := w.OpenRoot(ctx, "root", rootSecret)
	noError(t, err)
	defer session.Close()
	p, err := w.Server(ctx, "devices", []string{"localhost"}, profile.P256)
	noError(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, p.Key)
	noError(t, err)
	_, err = session.SignSubordinate(ctx, "local:root", authority.NewAuthority{Name: "x"}, csr)
	wantFault(t, err, fault.KeyInUse)
}

func TestHierarchiesOfAllKeyTypes(t *testing.T) {
	for _, kind := range []profile.KeyType{profile.P384, profile.Ed25519, profile.RSA3072} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			_, err := w.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", KeyType: kind, Secret: rootSecret})
			noError(t, err)
			session, err := w.OpenRoot(ctx, "root", rootSecret)
			noError(t, err)
			defer session.Close()
			_, err = session.CreateIssuing(ctx, "system", authority.NewAuthority{Name: "issuing", KeyType: kind, Secret: serverSecret})
			noError(t, err)
			noError(t, w.ImportPresets(ctx, "system"))
			_, err = w.Server(ctx, "devices", []string{"localhost"}, profile.P256)
			noError(t, err)
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for _, n := range []authority.NewAuthority{{Name: ""}, {Name: "Root"}, {Name: "a/b"}, {Name: "-a"}, {Name: "root", CRLShards: 300}, {Name: "root", KeyType: profile.RSA2048}, {Name: "root", Profile: "idevid"}} {
		n.Secret = rootSecret
		_, err := w.CreateRoot(ctx, "system", n)
		wantFault(t, err, fault.AuthorityInvalid)
	}
	w.hierarchy(t)
	_, err := w.CreateRoot(ctx, "system", authority.NewAuthority{Name: "root", Secret: rootSecret})
	wantFault(t, err, fault.AuthorityExists)
}

// What an operator has imported under a preset's name stays.
func TestPresetsDoNotReplaceProfiles(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	text, _ := profile.Preset("idevid")
	own, err := w.ImportProfile(t.Context(), "local:root", append([]byte("# ours\n"), text...))
	noError(t, err)
	noError(t, w.ImportPresets(t.Context(), "local:root"))
	snap, err := w.Snapshot(t.Context())
	noError(t, err)
	road, err := snap.Road("idevid")
	noError(t, err)
	if road.Version.ID != own.ID {
		t.Fatal("the preset came back")
	}
}

// A profile whose CRL address would name a shard that its authority does not
// have is refused.
func TestProfileAndAuthorityAgreeOnShards(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	text, _ := profile.Preset("idevid")
	_, err := w.ImportProfile(t.Context(), "local:root", append(text[:len(text):len(text)], "crlShards: 4\n"...))
	wantFault(t, err, fault.ProfileInvalid)
}

// The ledger tells each act of a hierarchy, in order.
func TestActsAreInTheLedger(t *testing.T) {
	w := newWorld(t)
	w.hierarchy(t)
	noError(t, w.Retire(t.Context(), "local:root", "issuing"))
	var acts []ledger.Kind
	for _, k := range w.store.kinds {
		if k != ledger.ProfileImported {
			acts = append(acts, k)
		}
	}
	want := []ledger.Kind{
		ledger.AuthorityCreated, ledger.CertificateIssued, ledger.AuthorityCreated,
		ledger.AuthorityCreated, ledger.CertificateIssued, ledger.AuthorityCreated, ledger.AuthorityRetired,
	}
	if len(acts) != len(want) {
		t.Fatalf("%v", acts)
	}
	for i := range want {
		if acts[i] != want[i] {
			t.Fatalf("act %d is %s, want %s", i, acts[i], want[i])
		}
	}
}
