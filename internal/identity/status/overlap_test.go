package status_test

import (
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/issuing"
)

func TestReplacedCertificateEndsWithItsOverlap(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	old, successor := w.issue(t), w.issue(t)
	noError(t, w.store.Confirm(ctx, device.Confirmation{
		ID: successor.ID, At: w.clock.now(),
		Ends: []device.Overlap{{Credential: old.ID, EndsAt: w.clock.now().Add(14 * 24 * time.Hour)}},
	}, ledger.Entry{
		Kind: ledger.CertificateUsed, At: w.clock.now(), Actor: "system",
		Body: &ledger.Confirmed{Credential: int64(successor.ID), Device: int64(successor.Device)},
	}))
	state := func() device.CredentialState {
		c, err := w.store.Credential(ctx, access.Everything(), old.ID)
		noError(t, err)
		return c.State
	}
	w.clock.add(13 * 24 * time.Hour)
	noError(t, w.Step(ctx))
	if state() == device.Revoked {
		t.Fatal("it ended before its time")
	}
	w.clock.add(2 * 24 * time.Hour)
	noError(t, w.Step(ctx))
	if state() != device.Revoked {
		t.Fatal("it did not end")
	}
	w.follow(t)
	noError(t, w.Step(ctx))
	if reason := listed(w.list(t, "issuing"), old); reason != issuing.ReasonSuperseded {
		t.Errorf("the list says reason %d", reason)
	}
}
