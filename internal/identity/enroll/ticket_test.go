package enroll

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// oneKey is a store that has a key for tickets and nothing else.
type oneKey struct {
	AttestStore
	key   [32]byte
	reads int
	err   error
}

func (s *oneKey) TicketKey(context.Context) ([32]byte, error) {
	s.reads++
	return s.key, s.err
}

func drawTicket(t *rapid.T) *ticket {
	text := rapid.StringMatching(`[ -~]{0,64}`)
	octets := func(name string, n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name) }
	x := &ticket{
		by: asked{
			station: rapid.Int64Min(0).Draw(t, "station"), order: rapid.Int64Min(0).Draw(t, "order"),
			device: device.ID(rapid.Int64Min(1).Draw(t, "device")), deviceSerial: text.Draw(t, "serial"),
			requester: [32]byte(octets("requester", 32)), label: text.Draw(t, "label"),
		},
		secret: [32]byte(octets("secret", 32)), nonce: [32]byte(octets("nonce", 32)), grounds: [32]byte(octets("trust", 32)),
		tpm: tpm.TPM{EKSPKI: octets("ek", 91), EKForm: "L-2", Vendor: text.Draw(t, "vendor"), EKPublic: octets("public", 90), AKPublic: octets("ak", 88)},
	}
	x.ref = device.Ticket{ID: [16]byte(octets("id", 16)), ExpiresAt: time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "expires"))}
	return x
}

// A ticket comes back as it was sealed; one octet changed, left out or added makes
// it nobody's.
func TestSealedTicketOpensAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &tickets{store: &oneKey{key: [32]byte{7}}}
		x := drawTicket(t)
		sealed, err := s.seal(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.open(context.Background(), sealed)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := x.marshal()
		b, _ := got.marshal()
		if !bytes.Equal(a, b) || got.by != x.by || !got.ref.ExpiresAt.Equal(x.ref.ExpiresAt) || got.secret != x.secret || got.nonce != x.nonce {
			t.Fatalf("got %+v, sealed %+v", got, x)
		}
		if err := got.check(x.by, x.ref.ExpiresAt); err != nil {
			t.Errorf("at its last moment: %v", err)
		}
		if err := got.check(x.by, x.ref.ExpiresAt.Add(time.Microsecond)); !fault.Has(err, fault.TicketExpired) {
			t.Errorf("a moment later: %v", err)
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "i")
		changed := bytes.Clone(sealed)
		changed[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "with"))
		for name, octets := range map[string][]byte{
			"changed": changed, "shorter": sealed[:i], "longer": append(bytes.Clone(sealed), 0), "empty": nil,
		} {
			if _, err := s.open(context.Background(), octets); !fault.Has(err, fault.TicketInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		other := &tickets{store: &oneKey{key: [32]byte{8}}}
		if _, err := other.open(context.Background(), sealed); !fault.Has(err, fault.TicketInvalid) {
			t.Errorf("another installation: %v", err)
		}
	})
}

// What was asked by one is not another's, whatever differs.
func TestTicketIsForWhoAskedAlone(t *testing.T) {
	by := asked{station: 1, order: 2, device: 3, deviceSerial: "SN-1", requester: [32]byte{4}, label: "a"}
	now := time.Now()
	x, secret, err := newTicket(by, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.check(by, now); err != nil || !x.opened(secret[:]) || x.opened(nil) || x.opened(x.secret[:]) {
		t.Errorf("own ticket: %v", err)
	}
	for name, edit := range map[string]func(*asked){
		"station": func(a *asked) { a.station++ }, "order": func(a *asked) { a.order++ }, "device": func(a *asked) { a.device++ },
		"serial": func(a *asked) { a.deviceSerial = "SN-2" }, "requester": func(a *asked) { a.requester[31]++ }, "label": func(a *asked) { a.label = "" },
	} {
		other := by
		edit(&other)
		if err := x.check(other, now); !fault.Has(err, fault.TicketOther) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// The key is read once; while it cannot be read, nothing is sealed.
func TestTicketKeyIsReadOnce(t *testing.T) {
	store := &oneKey{err: errors.New("no disk")}
	s := &tickets{store: store}
	if _, err := s.seal(t.Context(), new(ticket)); err == nil {
		t.Error("sealed without a key")
	}
	store.err = nil
	for range 3 {
		if _, err := s.seal(t.Context(), new(ticket)); err != nil {
			t.Fatal(err)
		}
	}
	if store.reads != 2 {
		t.Errorf("%d reads", store.reads)
	}
}

func FuzzTicket(f *testing.F) {
	x, _, err := newTicket(asked{deviceSerial: "SN-1", label: "a"}, time.Unix(1, 0), bytes.NewReader(make([]byte, 1024)))
	if err != nil {
		f.Fatal(err)
	}
	octets, err := x.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(octets)
	f.Fuzz(func(t *testing.T, octets []byte) {
		var x ticket
		if !x.unmarshal(octets) {
			return
		}
		again, err := x.marshal()
		if err != nil || !bytes.Equal(again, octets) {
			t.Errorf("%x was read and written as %x: %v", octets, again, err)
		}
	})
}
