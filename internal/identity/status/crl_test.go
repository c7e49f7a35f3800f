package status_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/chain"
)

func TestRevokedCertificateIsListed(t *testing.T) {
	w := newWorld(t)
	a, b := w.issue(t), w.issue(t)
	noError(t, w.Step(t.Context()))
	if l := w.list(t, "issuing"); len(l.RevokedCertificateEntries) != 0 {
		t.Fatal("the first list is not empty")
	}
	w.clock.add(time.Minute)
	w.revoke(t, a, "keyCompromise")
	w.follow(t)
	noError(t, w.Step(t.Context()))
	l := w.list(t, "issuing")
	if listed(l, a) != 1 || listed(l, b) != -1 {
		t.Fatalf("reasons %d and %d", listed(l, a), listed(l, b))
	}
}

func TestUnspecifiedReasonIsLeftOut(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	w.revoke(t, c, "")
	noError(t, w.Step(t.Context()))
	l := w.list(t, "issuing")
	if len(l.RevokedCertificateEntries) != 1 || len(l.RevokedCertificateEntries[0].Extensions) != 0 {
		t.Fatal("the entry has extensions")
	}
}

func TestHoldReleaseRevoke(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.issue(t)
	act := status.Act{CertSerial: c.CertSerial, Reason: "superseded"}
	state := func(want chain.State, reason int) {
		t.Helper()
		w.clock.add(10 * time.Second)
		w.follow(t)
		noError(t, w.Step(ctx))
		cert := parse(t, c.DER)
		got, err := w.Status(ctx, cert, nil)
		noError(t, err)
		if got.State != want {
			t.Fatalf("status is %v, want %v", got.State, want)
		}
		if r := listed(w.list(t, "issuing"), c); r != reason {
			t.Fatalf("listed with reason %d, want %d", r, reason)
		}
	}
	state(chain.Good, -1)
	_, err := w.Release(ctx, officer, act)
	wantFault(t, err, fault.NotOnHold)
	held, err := w.Hold(ctx, officer, act)
	noError(t, err)
	if held.State != device.Held || held.Reason != 6 {
		t.Fatalf("on record as %v for %d", held.State, held.Reason)
	}
	state(chain.OnHold, 6)
	_, err = w.Hold(ctx, officer, act)
	wantFault(t, err, fault.AlreadyRevoked)
	free, err := w.Release(ctx, officer, act)
	noError(t, err)
	if free.State != device.Issued {
		t.Fatalf("released to %v", free.State)
	}
	state(chain.Good, -1)
	_, err = w.Hold(ctx, officer, act)
	noError(t, err)
	state(chain.OnHold, 6)
	_, err = w.Revoke(ctx, officer, act)
	noError(t, err)
	state(chain.Revoked, 4)
	_, err = w.Release(ctx, officer, act)
	wantFault(t, err, fault.NotOnHold)
	_, err = w.Revoke(ctx, officer, act)
	wantFault(t, err, fault.AlreadyRevoked)
}

func TestRevokeRefuses(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.issue(t)
	issuer := w.certificate(t, "issuing")
	for _, refused := range []struct {
		name string
		by   access.Caller
		act  status.Act
		code fault.Code
	}{
		{"a reason that is none", officer, status.Act{CertSerial: c.CertSerial, Reason: "because"}, fault.ReasonInvalid},
		{"removeFromCRL", officer, status.Act{CertSerial: c.CertSerial, Reason: "removeFromCRL"}, fault.ReasonInvalid},
		{"a hold", officer, status.Act{CertSerial: c.CertSerial, Reason: status.Hold}, fault.ReasonInvalid},
		{"an unknown serial", officer, status.Act{CertSerial: []byte{1, 2, 3}}, fault.CredentialUnknown},
		{"no serial", officer, status.Act{}, fault.CredentialUnknown},
		{"an authority", officer, status.Act{CertSerial: issuer.SerialNumber.Bytes()}, fault.AuthorityState},
		{"out of scope", access.Caller{Name: "token:1", Scope: access.Limited([]int64{w.product + 1}, nil, nil)}, status.Act{CertSerial: c.CertSerial}, fault.CredentialUnknown},
		{"no scope", access.Caller{Name: "token:1"}, status.Act{CertSerial: c.CertSerial}, fault.CredentialUnknown},
	} {
		t.Run(refused.name, func(t *testing.T) {
			_, err := w.Revoke(ctx, refused.by, refused.act)
			wantFault(t, err, refused.code)
		})
	}
}

func TestRevokedOnceAmongMany(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	var mu sync.Mutex
	done := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := w.Revoke(t.Context(), officer, status.Act{CertSerial: c.CertSerial, Reason: "superseded"})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if !fault.Has(err, fault.AlreadyRevoked) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if done != 1 {
		t.Fatalf("revoked %d times", done)
	}
}

// A list is signed again when something changed, at half its life, and not
// otherwise; changes that follow one another share a list.
func TestCRLSchedule(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s := w.Service
	var keeper status.Keeper
	number := func() int64 {
		t.Helper()
		noError(t, s.StepWith(ctx, &keeper))
		return w.list(t, "issuing").Number.Int64()
	}
	first := number()
	if again := number(); again != first {
		t.Fatal("signed without need")
	}
	w.clock.add(11*time.Hour + 59*time.Minute)
	if again := number(); again != first {
		t.Fatal("signed before half its life was over")
	}
	w.clock.add(2 * time.Minute)
	second := number()
	if second <= first {
		t.Fatal("not signed at half its life")
	}
	a, b := w.issue(t), w.issue(t)
	w.clock.add(time.Minute)
	w.revoke(t, a, "superseded")
	w.follow(t)
	third := number()
	w.clock.add(2 * time.Second)
	w.revoke(t, b, "superseded")
	w.follow(t)
	if again := number(); again != third {
		t.Fatal("signed twice within the pause")
	}
	w.clock.add(4 * time.Second)
	if fourth := number(); fourth <= third || listed(w.list(t, "issuing"), b) < 0 {
		t.Fatal("the second revocation was not published after the pause")
	}
	w.clock.add(25 * time.Hour)
	_, err := s.CRL(ctx, "issuing", 0)
	wantFault(t, err, fault.CRLStale)
	for _, unknown := range []struct {
		name  string
		shard int
	}{{"issuing", 1}, {"issuing", -1}, {"nobody", 0}, {"root", 0}} {
		_, err := s.CRL(ctx, unknown.name, unknown.shard)
		wantFault(t, err, fault.CRLUnknown)
	}
}

// A revocation that nobody published before the process died is published by
// the next one.
func TestRevocationSurvivesRestartUnpublished(t *testing.T) {
	for _, undone := range []string{"revoke", "release", "both"} {
		t.Run(undone, func(t *testing.T) {
			w := newWorld(t)
			ctx := t.Context()
			c := w.issue(t)
			want := 1
			other := w.issue(t)
			if undone == "both" { // as many entries as before
				_, err := w.Hold(ctx, officer, status.Act{CertSerial: other.CertSerial})
				noError(t, err)
			}
			if undone == "release" {
				_, err := w.Hold(ctx, officer, status.Act{CertSerial: c.CertSerial})
				noError(t, err)
				want = -1
			}
			noError(t, w.Step(ctx))
			w.clock.add(time.Minute)
			if undone == "both" {
				_, err := w.Release(ctx, officer, status.Act{CertSerial: other.CertSerial})
				noError(t, err)
			}
			if undone == "release" {
				_, err := w.Release(ctx, officer, status.Act{CertSerial: c.CertSerial})
				noError(t, err)
			} else {
				w.revoke(t, c, "keyCompromise")
			}
			w.restart(t)
			noError(t, w.Step(ctx))
			if got := listed(w.list(t, "issuing"), c); got != want {
				t.Fatalf("listed with reason %d, want %d", got, want)
			}
		})
	}
}

func TestThisUpdateAndNumberNeverGoBack(t *testing.T) {
	w := newWorld(t)
	noError(t, w.Step(t.Context()))
	before := w.list(t, "issuing")
	c := w.issue(t)
	w.clock.add(-3 * time.Hour)
	w.revoke(t, c, "superseded")
	w.follow(t)
	noError(t, w.Step(t.Context()))
	after := w.list(t, "issuing")
	if after.ThisUpdate.Before(before.ThisUpdate) || after.Number.Cmp(before.Number) <= 0 {
		t.Fatalf("from %v number %v to %v number %v", before.ThisUpdate, before.Number, after.ThisUpdate, after.Number)
	}
	if listed(after, c) < 0 {
		t.Fatal("a revocation under a clock that went back is missing")
	}
}

// An expired certificate is on one list made after its end, and on none later.
func TestExpiredEntryStaysForOneMoreList(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	w.revoke(t, c, "superseded")
	noError(t, w.Step(t.Context()))
	w.clock.add(c.NotAfter.Sub(w.clock.now()) + time.Minute)
	noError(t, w.Step(t.Context()))
	if listed(w.list(t, "issuing"), c) < 0 {
		t.Fatal("the entry was removed before it appeared on a list after the certificate's end")
	}
	w.clock.add(13 * time.Hour)
	noError(t, w.Step(t.Context()))
	if listed(w.list(t, "issuing"), c) >= 0 {
		t.Fatal("the entry stays for ever")
	}
}

// What no list will have again leaves the list's rows, too; the certificate
// stays revoked.
func TestExpiredRevocationIsPruned(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.issue(t)
	w.revoke(t, c, "superseded")
	noError(t, w.Step(ctx))
	rows := func() int {
		list, err := w.store.Revocations(ctx, c.Authority, 0, 0, 10)
		noError(t, err)
		return len(list)
	}
	w.clock.add(c.NotAfter.Sub(w.clock.now()) + time.Minute)
	for range 4 { // two days
		noError(t, w.Step(ctx))
		if rows() != 1 {
			t.Fatalf("the row went %s after the certificate's end", w.clock.now().Sub(c.NotAfter))
		}
		w.clock.add(12 * time.Hour)
	}
	noError(t, w.Step(ctx))
	noError(t, w.Step(ctx))
	if n := rows(); n != 0 {
		t.Fatalf("%d rows are left", n)
	}
	got, err := w.store.Credential(ctx, access.Everything(), c.ID)
	noError(t, err)
	if got.State != device.Revoked {
		t.Errorf("the certificate is %v", got.State)
	}
	w.restart(t) // a list made of the record alone is as empty
	w.clock.add(13 * time.Hour)
	noError(t, w.Step(ctx))
	if n := len(w.list(t, "issuing").RevokedCertificateEntries); n != 0 {
		t.Errorf("%d entries", n)
	}
}

func TestOnlyTheLeaseHolderSigns(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	noError(t, w.Step(ctx))
	before := w.list(t, "issuing").Number
	c := w.issue(t)
	w.clock.add(10 * time.Second)
	w.revoke(t, c, "superseded")
	other := w.service(t, "n2")
	w.tell(t, w.Service, other)
	noError(t, other.Step(ctx))
	if w.list(t, "issuing").Number.Cmp(before) != 0 {
		t.Fatal("a node without the lease has signed")
	}
	if _, err := other.CRL(ctx, "issuing", 0); err != nil {
		t.Fatal(err)
	}
	w.clock.add(time.Minute) // the first node is gone, its lease runs out
	noError(t, other.Step(ctx))
	w.tell(t, w.Service, other)
	if listed(w.list(t, "issuing"), c) < 0 {
		t.Fatal("the other node did not take over, or the first serves its old list")
	}
}

func TestAuthorityIsRevokedEndToEnd(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.issue(t)
	issuer := w.certificate(t, "issuing")
	w.root(t, func(r *authority.RootSession) {
		noError(t, w.SignRootCRL(ctx, "system", r))
		if l := w.list(t, "root"); len(l.RevokedCertificateEntries) != 0 || l.NextUpdate.Sub(l.ThisUpdate) != 365*24*time.Hour {
			t.Fatal("the root's first list is not empty and valid for a year")
		}
		err := w.RevokeAuthority(ctx, officer, r, "root", "keyCompromise")
		wantFault(t, err, fault.AuthorityState)
		wantFault(t, w.RevokeAuthority(ctx, officer, r, "issuing", status.Hold), fault.ReasonInvalid)
		noError(t, w.RevokeAuthority(ctx, officer, r, "issuing", "cACompromise"))
		noError(t, w.RevokeAuthority(ctx, officer, r, "issuing", "cACompromise")) // again is nothing
	})
	l := w.list(t, "root")
	if len(l.RevokedCertificateEntries) != 1 || l.RevokedCertificateEntries[0].SerialNumber.Cmp(issuer.SerialNumber) != 0 {
		t.Fatal("the root's list does not have the authority")
	}
	snap, err := w.authorities.Snapshot(ctx)
	noError(t, err)
	_, err = snap.Road("ldevid-cloud")
	wantFault(t, err, fault.AuthorityState)
	if n := len(snap.Trusted()); n != 1 {
		t.Fatalf("%d authorities are trusted", n)
	}
	got, err := w.Status(ctx, issuer, nil)
	noError(t, err)
	if got.State != chain.Revoked {
		t.Fatalf("the authority is %v", got.State)
	}
	_, err = w.Answer(ctx, ocspRequest(t, issuer, parse(t, c.DER)))
	wantFault(t, err, fault.OCSPUnauthorized)
}

func TestStatusKnowsOnlyWhatWasIssuedHere(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	c := other.issue(t)
	got, err := w.Status(t.Context(), parse(t, c.DER), nil)
	noError(t, err)
	if got.State != chain.Unknown {
		t.Fatalf("a stranger's certificate is %v", got.State)
	}
	own := w.issue(t)
	// Another's certificate under a serial of ours.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	template := &x509.Certificate{SerialNumber: parse(t, own.DER).SerialNumber, NotBefore: own.NotBefore, NotAfter: own.NotAfter}
	forged, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	noError(t, err)
	got, err = w.Status(t.Context(), parse(t, forged), nil)
	noError(t, err)
	if got.State != chain.Unknown {
		t.Fatalf("a forged certificate is %v", got.State)
	}
	noError(t, w.store.Close())
	if _, err := w.Status(t.Context(), parse(t, own.DER), nil); err == nil {
		t.Fatal("an answer without the record")
	}
}

// A certificate names the shard on which it is looked for, and is on that one
// alone.
func TestShards(t *testing.T) {
	const shards = 4
	w := newWorldAt(t, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), shards)
	ctx := t.Context()
	var certs []device.Credential
	for range 12 {
		certs = append(certs, w.issue(t))
	}
	for _, c := range certs {
		w.revoke(t, c, "superseded")
	}
	w.follow(t)
	noError(t, w.Step(ctx))
	lists := make(map[string]*x509.RevocationList)
	for shard := range shards {
		c, err := w.CRL(ctx, "issuing", shard)
		noError(t, err)
		l, err := x509.ParseRevocationList(c.DER)
		noError(t, err)
		lists[fmt.Sprintf("http://pki.example.com/crl/issuing/%d.crl", shard)] = l
		idp := false
		for _, x := range l.Extensions {
			idp = idp || x.Id.String() == "2.5.29.28" && x.Critical
		}
		if !idp {
			t.Errorf("shard %d has no critical issuingDistributionPoint", shard)
		}
	}
	for _, c := range certs {
		points := parse(t, c.DER).CRLDistributionPoints
		if len(points) != 1 {
			t.Fatalf("%v", points)
		}
		for url, l := range lists {
			if (listed(l, c) == 4) != (url == points[0]) {
				t.Errorf("a certificate that names %s: reason %d on %s", points[0], listed(l, c), url)
			}
		}
	}
	// A hold that ends leaves its shard.
	held := w.issue(t)
	_, err := w.Hold(ctx, officer, status.Act{CertSerial: held.CertSerial})
	noError(t, err)
	w.clock.add(time.Minute)
	w.follow(t)
	noError(t, w.Step(ctx))
	_, err = w.Release(ctx, officer, status.Act{CertSerial: held.CertSerial})
	noError(t, err)
	w.clock.add(time.Minute)
	w.follow(t)
	noError(t, w.Step(ctx))
	for shard := range shards {
		c, err := w.CRL(ctx, "issuing", shard)
		noError(t, err)
		l, err := x509.ParseRevocationList(c.DER)
		noError(t, err)
		if listed(l, held) != -1 {
			t.Error("a released certificate is still listed")
		}
	}
}
