package status_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/needs"
)

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	noError(t, err)
	return cert
}

func ocspRequest(t testing.TB, issuer, cert *x509.Certificate) []byte {
	t.Helper()
	der, err := ocsp.CreateRequest(cert, issuer, nil)
	noError(t, err)
	return der
}

// answer asks, and returns what an independent parser makes of the answer.
func (w *world) answer(t testing.TB, s *status.Service, issuer string, c device.Credential, hash crypto.Hash) *ocsp.Response {
	t.Helper()
	ca := w.certificate(t, issuer)
	request, err := ocsp.CreateRequest(parse(t, c.DER), ca, &ocsp.RequestOptions{Hash: hash})
	noError(t, err)
	a, err := s.Answer(t.Context(), request)
	noError(t, err)
	r, err := ocsp.ParseResponseForCert(a.DER, parse(t, c.DER), ca)
	noError(t, err)
	if r.Certificate == nil || r.IssuerHash != hash || !r.ThisUpdate.Equal(a.ThisUpdate) || !r.NextUpdate.Equal(a.NextUpdate) {
		t.Fatalf("answer %+v", r)
	}
	if a.MaxAge > time.Minute || !a.NextUpdate.After(w.clock.now().Add(a.MaxAge)) || a.ETag == "" {
		t.Fatalf("an answer to be kept %v until %v", a.MaxAge, a.NextUpdate)
	}
	return r
}

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	good, bad, held := w.issue(t), w.issue(t), w.issue(t)
	w.revoke(t, bad, "keyCompromise")
	_, err := w.Hold(t.Context(), officer, status.Act{CertSerial: held.CertSerial})
	noError(t, err)
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		if r := w.answer(t, w.Service, "issuing", good, hash); r.Status != ocsp.Good {
			t.Errorf("good: %d", r.Status)
		}
		if r := w.answer(t, w.Service, "issuing", bad, hash); r.Status != ocsp.Revoked || r.RevocationReason != ocsp.KeyCompromise || !r.RevokedAt.Equal(w.clock.now()) {
			t.Errorf("revoked: %d for %d at %v", r.Status, r.RevocationReason, r.RevokedAt)
		}
		if r := w.answer(t, w.Service, "issuing", held, hash); r.Status != ocsp.Revoked || r.RevocationReason != ocsp.CertificateHold {
			t.Errorf("held: %d for %d", r.Status, r.RevocationReason)
		}
	}
}

// Serials that were leased but never became a certificate, and serials that
// nobody leased, are unknown: a good answer about them would vouch for forgeries.
func TestNeverIssuedIsUnknown(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	lease, err := w.authorities.NextSerial(t.Context())
	noError(t, err)
	ca := w.certificate(t, "issuing")
	for _, certSerial := range [][]byte{lease.Bytes, bytes.Repeat([]byte{0x42}, 17), {1}, bytes.Repeat([]byte{0x42}, 20)} {
		cert := parse(t, c.DER)
		cert.SerialNumber.SetBytes(certSerial)
		a, err := w.Answer(t.Context(), ocspRequest(t, ca, cert))
		noError(t, err)
		r, err := ocsp.ParseResponse(a.DER, ca)
		noError(t, err)
		if r.Status != ocsp.Unknown {
			t.Errorf("%x: status %d", certSerial, r.Status)
		}
	}
	// A certificate of one authority under another's name is unknown, too.
	root := w.certificate(t, "root")
	w.root(t, func(r *authority.RootSession) {
		_, err := r.CreateResponder(t.Context(), "system")
		noError(t, err)
	})
	a, err := w.Answer(t.Context(), ocspRequest(t, root, parse(t, c.DER)))
	noError(t, err)
	r, err := ocsp.ParseResponse(a.DER, root)
	noError(t, err)
	if r.Status != ocsp.Unknown {
		t.Errorf("under another issuer: status %d", r.Status)
	}
}

func TestRootsResponderAnswersForAuthorities(t *testing.T) {
	w := newWorld(t)
	root, issuer := w.certificate(t, "root"), w.certificate(t, "issuing")
	request := ocspRequest(t, root, issuer)
	_, err := w.Answer(t.Context(), request)
	wantFault(t, err, fault.OCSPUnauthorized)
	want := func(state int) {
		t.Helper()
		a, err := w.Answer(t.Context(), request)
		noError(t, err)
		r, err := ocsp.ParseResponse(a.DER, root)
		noError(t, err)
		if r.Status != state {
			t.Fatalf("status %d, want %d", r.Status, state)
		}
	}
	w.root(t, func(r *authority.RootSession) {
		_, err := r.CreateResponder(t.Context(), "system")
		noError(t, err)
		want(ocsp.Good)
		noError(t, w.RevokeAuthority(t.Context(), officer, r, "issuing", "cACompromise"))
		want(ocsp.Revoked)
	})
}

func TestUnknownIssuerIsUnauthorized(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	c := other.issue(t)
	_, err := w.Answer(t.Context(), ocspRequest(t, other.certificate(t, "issuing"), parse(t, c.DER)))
	wantFault(t, err, fault.OCSPUnauthorized)
}

// A repeated request gets the very same bytes, until the certificate's status
// changes on any node, or the answer is old.
func TestAnswersAreCachedUntilSomethingChanges(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c, neighbor := w.issue(t), w.issue(t)
	ca := w.certificate(t, "issuing")
	other := w.service(t, "n2")
	request, beside := ocspRequest(t, ca, parse(t, c.DER)), ocspRequest(t, ca, parse(t, neighbor.DER))
	get := func(s *status.Service, request []byte) *status.Answer {
		t.Helper()
		a, err := s.Answer(ctx, request)
		noError(t, err)
		return a
	}
	w.tell(t, w.Service, other)
	get(w.Service, request) // the first answer makes the responder
	w.tell(t, w.Service, other)
	first, far, near := get(w.Service, request), get(other, request), get(other, beside)
	if get(w.Service, bytes.Clone(request)) != first {
		t.Fatal("signed again")
	}
	w.clock.add(29 * time.Minute)
	if get(w.Service, request) != first {
		t.Fatal("signed again within half the answer's life")
	}
	if get(other, request) != far {
		t.Fatal("the other node signed again")
	}
	w.revoke(t, c, "keyCompromise")
	status := func(a *status.Answer) int {
		r, err := ocsp.ParseResponse(a.DER, ca)
		noError(t, err)
		return r.Status
	}
	if status(get(w.Service, request)) != ocsp.Revoked {
		t.Fatal("the node that revoked still says good")
	}
	w.tell(t, w.Service, other)
	if status(get(other, request)) != ocsp.Revoked {
		t.Fatal("another node still says good after it was told")
	}
	if get(other, beside) != near {
		t.Fatal("another certificate's answer was thrown away")
	}
	w.clock.add(31 * time.Minute)
	if get(other, beside) == near {
		t.Fatal("an old answer is still given")
	}
}

// between lets something happen after a credential was read.
type between struct {
	status.Register
	then func()
}

func (b *between) CredentialBySerial(ctx context.Context, s access.Scope, certSerial []byte) (device.Credential, error) {
	c, err := b.Register.CredentialBySerial(ctx, s, certSerial)
	if then := b.then; then != nil {
		b.then = nil
		then()
	}
	return c, err
}

// An answer that was being made while its certificate was revoked is not kept.
func TestAnswerOvertakenByRevocationIsNotCached(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	ca := w.certificate(t, "issuing")
	register := &between{Register: w.store}
	s, err := status.New(status.Config{
		Store: w.store, Register: register, Leases: w.store, Authorities: w.authorities,
		Now: w.clock.now, Rand: rand.Reader, Node: "n2",
	})
	noError(t, err)
	register.then = func() {
		w.revoke(t, c, "keyCompromise")
		w.tell(t, s)
	}
	if r := w.answer(t, s, "issuing", c, crypto.SHA1); r.Status != ocsp.Good {
		t.Fatalf("status %d: the test did not reach its moment", r.Status)
	}
	a, err := s.Answer(t.Context(), ocspRequest(t, ca, parse(t, c.DER)))
	noError(t, err)
	if r, err := ocsp.ParseResponse(a.DER, ca); err != nil || r.Status != ocsp.Revoked {
		t.Fatalf("still good: %v", err)
	}
}

func TestNoncesAreEchoedAndNotCached(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	ca := w.certificate(t, "issuing")
	plain := ocspRequest(t, ca, parse(t, c.DER))
	for _, n := range []int{1, 32, 33, 128} {
		nonce := bytes.Repeat([]byte{0xab}, n)
		a, err := w.Answer(t.Context(), withNonce(t, plain, nonce))
		noError(t, err)
		r, err := ocsp.ParseResponse(a.DER, ca)
		noError(t, err)
		if !bytes.Contains(a.DER, append([]byte{0x04}, lengthOf(nonce)...)) || a.MaxAge != 0 || r.Status != ocsp.Good {
			t.Errorf("nonce of %d octets is not echoed", n)
		}
		again, err := w.Answer(t.Context(), withNonce(t, plain, nonce))
		noError(t, err)
		if again == a {
			t.Errorf("an answer with a nonce was cached")
		}
	}
	for _, n := range []int{0, 129, 1000} {
		_, err := w.Answer(t.Context(), withNonce(t, plain, make([]byte, n)))
		wantFault(t, err, fault.OCSPMalformed)
	}
}

func lengthOf(content []byte) []byte {
	der, _ := asn1.Marshal(content)
	return der[1:]
}

type extension struct {
	ID       asn1.ObjectIdentifier
	Critical bool `asn1:"optional"`
	Value    []byte
}

// withNonce adds requestExtensions to a request without.
func withNonce(t testing.TB, plain, nonce []byte) []byte {
	t.Helper()
	value, err := asn1.Marshal(nonce)
	noError(t, err)
	return withExtensions(t, plain, extension{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: value})
}

func withExtensions(t testing.TB, plain []byte, extensions ...extension) []byte {
	t.Helper()
	var outer struct{ TBS asn1.RawValue }
	_, err := asn1.Unmarshal(plain, &outer)
	noError(t, err)
	var tbs struct {
		List       asn1.RawValue
		Extensions []extension `asn1:"explicit,tag:2,optional"`
	}
	tbs.List = asn1.RawValue{FullBytes: outer.TBS.Bytes}
	tbs.Extensions = extensions
	inner, err := asn1.Marshal(tbs)
	noError(t, err)
	der, err := asn1.Marshal(struct{ TBS asn1.RawValue }{asn1.RawValue{FullBytes: inner}})
	noError(t, err)
	return der
}

func TestSigningForStrangersIsLimited(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	s, err := status.New(status.Config{
		Store: w.store, Register: w.store, Leases: w.store, Authorities: w.authorities,
		Now: w.clock.now, Rand: rand.Reader, Node: "n1", SignRate: 2,
	})
	noError(t, err)
	ca := w.certificate(t, "issuing")
	plain := ocspRequest(t, ca, parse(t, c.DER))
	answered := 0
	for i := range 20 {
		_, err = s.Answer(t.Context(), withNonce(t, plain, []byte{byte(i)}))
		if err == nil {
			answered++
		} else {
			wantFault(t, err, fault.OCSPBusy)
		}
	}
	if answered != 4 {
		t.Fatalf("%d answers of a burst of 4", answered)
	}
	if _, err := s.Answer(t.Context(), plain); err != nil {
		t.Fatal("a certificate of ours is not answered for:", err)
	}
	w.clock.add(time.Second)
	_, err = s.Answer(t.Context(), withNonce(t, plain, []byte{1}))
	noError(t, err)
}

func TestDatabaseDownIsTryLater(t *testing.T) {
	w := newWorld(t)
	a, b := w.issue(t), w.issue(t)
	ca := w.certificate(t, "issuing")
	known := ocspRequest(t, ca, parse(t, a.DER))
	_, err := w.Answer(t.Context(), known)
	noError(t, err)
	noError(t, w.store.Close())
	if _, err := w.Answer(t.Context(), known); err != nil {
		t.Fatal("a cached answer is not given:", err)
	}
	_, err = w.Answer(t.Context(), ocspRequest(t, ca, parse(t, b.DER)))
	wantFault(t, err, fault.OCSPBusy)
}

func TestFirstAskersShareOneSignature(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	request := ocspRequest(t, w.certificate(t, "issuing"), parse(t, c.DER))
	_, err := w.Answer(t.Context(), request) // makes the responder
	noError(t, err)
	w.follow(t)
	var mu sync.Mutex
	seen := make(map[string]bool)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			a, err := w.Answer(t.Context(), request)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			seen[string(a.DER)] = true
			mu.Unlock()
		})
	}
	all.Wait()
	if len(seen) != 1 {
		t.Fatalf("%d different answers", len(seen))
	}
}

// Answers asked for after a revocation has returned never say good, however
// many ask and revoke at once.
func TestNeverGoodAfterRevoke(t *testing.T) {
	w := newWorld(t)
	ca := w.certificate(t, "issuing")
	for range 8 {
		c := w.issue(t)
		request := ocspRequest(t, ca, parse(t, c.DER))
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for ctx.Err() == nil {
					if _, err := w.Answer(ctx, request); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		w.revoke(t, c, "keyCompromise")
		a, err := w.Answer(t.Context(), request)
		stop()
		all.Wait()
		noError(t, err)
		r, err := ocsp.ParseResponse(a.DER, ca)
		noError(t, err)
		if r.Status != ocsp.Revoked {
			t.Fatal("good after revoke had returned")
		}
	}
}

func TestResponderRenewsItself(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	first := w.answer(t, w.Service, "issuing", c, crypto.SHA1).Certificate
	w.clock.add(21 * 24 * time.Hour)
	second := w.answer(t, w.Service, "issuing", c, crypto.SHA1).Certificate
	if first.SerialNumber.Cmp(second.SerialNumber) == 0 || !second.NotAfter.After(w.clock.now().Add(20*24*time.Hour)) {
		t.Fatal("the responder's certificate was not renewed")
	}
}

func TestMalformedRequests(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	good := ocspRequest(t, w.certificate(t, "issuing"), parse(t, c.DER))
	var list struct {
		TBS struct{ List []asn1.RawValue }
	}
	_, err := asn1.Unmarshal(good, &list)
	noError(t, err)
	many := func(n int) []byte {
		l := list
		l.TBS.List = slices.Repeat(l.TBS.List, n)
		der, err := asn1.Marshal(l)
		noError(t, err)
		return der
	}
	if ids, _, err := status.ParseRequest(many(16)); err != nil || ids != 16 {
		t.Fatalf("sixteen certificates: %d, %v", ids, err)
	}
	if ids, _, err := status.ParseRequest(withExtensions(t, good, extension{ID: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})); err != nil || ids != 1 {
		t.Fatalf("an extension that need not be understood: %v", err)
	}
	for name, der := range map[string][]byte{
		"nothing":                {},
		"a byte behind":          append(slices.Clone(good), 0),
		"a byte less":            good[:len(good)-1],
		"no certificate":         many(0),
		"seventeen certificates": many(17),
		"too large":              make([]byte, status.MaxOCSPRequest+1),
		"a critical extension":   withExtensions(t, good, extension{ID: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}),
		"two nonces": withExtensions(t, good,
			extension{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: []byte{4, 1, 1}},
			extension{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: []byte{4, 1, 1}}),
		"a bare nonce":  withExtensions(t, good, extension{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: []byte{1, 2, 3}}),
		"a certificate": c.DER,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Answer(t.Context(), der)
			wantFault(t, err, fault.OCSPMalformed)
		})
	}
	for i := range good {
		_, err := w.Answer(t.Context(), good[:i])
		wantFault(t, err, fault.OCSPMalformed)
	}
}

func FuzzOCSPRequest(f *testing.F) {
	w := newWorld(f)
	c := w.issue(f)
	good := ocspRequest(f, w.certificate(f, "issuing"), parse(f, c.DER))
	f.Add(good)
	f.Add(withNonce(f, good, []byte("nonce")))
	f.Add(withExtensions(f, good, extension{ID: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}))
	f.Fuzz(func(t *testing.T, der []byte) {
		ids, nonce, err := status.ParseRequest(der)
		if err != nil {
			wantFault(t, err, fault.OCSPMalformed)
			return
		}
		if ids < 1 || ids > 16 || nonce != nil && (len(nonce) < 1 || len(nonce) > 128) {
			t.Fatalf("%d certificates, nonce of %d", ids, len(nonce))
		}
		// What we read, the library reads too, except where it wants SHA only.
		if r, err := ocsp.ParseRequest(der); err == nil && r.SerialNumber == nil {
			t.Fatal("no serial")
		}
	})
}

func TestOpenSSLAcceptsAnswers(t *testing.T) {
	openssl := needs.OpenSSL(t)
	w := newWorldAt(t, time.Now(), 1)
	good, bad := w.issue(t), w.issue(t)
	w.revoke(t, bad, "keyCompromise")
	dir := t.TempDir()
	file := func(name string, ders ...[]byte) string {
		t.Helper()
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		noError(t, os.WriteFile(path, text, 0o600))
		return path
	}
	issuer, root := file("issuing.pem", w.certificate(t, "issuing").Raw), file("root.pem", w.certificate(t, "root").Raw)
	first, second := file("good.pem", good.DER), file("bad.pem", bad.DER)
	request, response := filepath.Join(dir, "request.der"), filepath.Join(dir, "response.der")
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, hash := range []string{"-sha1", "-sha256"} {
		for _, nonce := range []string{"-nonce", "-no_nonce"} {
			asked := []string{"ocsp", "-issuer", issuer, hash, "-cert", first, hash, "-cert", second}
			run(append(slices.Clone(asked), nonce, "-reqout", request)...)
			der, err := os.ReadFile(request)
			noError(t, err)
			a, err := w.Answer(t.Context(), der)
			noError(t, err)
			noError(t, os.WriteFile(response, a.DER, 0o600))
			out := run(append(slices.Clone(asked), "-no_nonce", "-reqin", request, "-respin", response, "-CAfile", root, "-verify_other", issuer)...)
			for _, want := range []string{"Response verify OK", first + ": good", second + ": revoked", "Reason: keyCompromise"} {
				if !strings.Contains(out, want) {
					t.Errorf("%s %s: openssl does not say %q:\n%s", hash, nonce, want, out)
				}
			}
			if strings.Contains(out, "WARNING") && nonce == "-nonce" {
				t.Errorf("%s %s: %s", hash, nonce, out)
			}
		}
	}
	noError(t, w.Step(t.Context()))
	c, err := w.CRL(t.Context(), "issuing", 0)
	noError(t, err)
	list := filepath.Join(dir, "list.der")
	noError(t, os.WriteFile(list, c.DER, 0o600))
	if out := run("crl", "-inform", "DER", "-in", list, "-noout", "-CAfile", issuer, "-text"); !strings.Contains(out, "verify OK") || !strings.Contains(out, "Key Compromise") {
		t.Errorf("openssl crl: %s", out)
	}
}
