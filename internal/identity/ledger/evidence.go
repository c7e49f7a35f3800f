package ledger

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"time"
)

// States of devices that have ended, as package device numbers them: their TPMs are
// free.
const (
	stateDecommissioned = 7
	stateScrapped       = 8
)

// EvidenceRow is attest.Evidence in plain values; ID is the credential.
type EvidenceRow struct {
	ID      int64
	Device  int64
	Kind    string
	Claims  uint8
	Content []byte
	Digest  [32]byte
	At      time.Time
}

// TPMRow is attest.TPMRecord in plain values. ID is the row's number, which no
// entry knows: rows are compared by EK.
type TPMRow struct {
	ID           int64
	EK           [32]byte
	Device       int64
	Chip         int64
	AK           [32]byte
	Plain        bool
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64
	Safe         bool
	Firmware     uint64
	Vendor       string
	Model        string
	SeenAt       time.Time
}

type evidenceState struct {
	leaf   int64
	digest uint64
	seen   bool
}

// tpmState is a TPM as its newest evidence shows it.
type tpmState struct {
	leaf, touched int64 // entry with the evidence, newest entry about it
	device        int64
	digest        uint64 // of what a reset leaves as it is
	counters      uint64
	seen          bool
}

func (r *register) evidenceDigest(e *EvidenceRow) uint64 {
	return r.sum(func(t *tuple) {
		t.num(e.Device)
		t.text(e.Kind)
		t.num(int64(e.Claims))
		t.raw(e.Digest[:])
		t.when(e.At)
	})
}

func (r *register) tpmDigest(x *TPMRow) uint64 {
	return r.sum(func(t *tuple) {
		t.num(x.Chip)
		t.num(int64(x.Firmware))
		t.text(x.Vendor)
		t.text(x.Model)
		t.when(x.SeenAt)
	})
}

func (r *register) countersDigest(x *TPMRow) uint64 {
	return r.sum(func(t *tuple) {
		t.raw(x.AK[:])
		for _, b := range [...]bool{x.Plain, x.Safe} {
			if b {
				t.num(1)
			} else {
				t.num(0)
			}
		}
		t.num(int64(x.ResetCount))
		t.num(int64(x.RestartCount))
		t.num(int64(x.Clock))
	})
}

// ours reports whether this pass looks at a TPM. It is not the pass of its device,
// which may change.
func (r *register) ours(ek *[32]byte) bool {
	return r.passes == 1 || maphash.Bytes(r.seed, ek[:])%r.passes == r.pass
}

func (b *KeptEvidence) rows(at time.Time) (EvidenceRow, TPMRow) {
	e := EvidenceRow{ID: b.Credential, Device: b.Device, Kind: b.Kind, Claims: b.Claims, Digest: b.Digest, At: at}
	return e, TPMRow{
		EK: b.EK, Device: b.Device, Chip: b.Chip, AK: b.AK, Plain: b.Plain, ResetCount: b.ResetCount, RestartCount: b.RestartCount,
		Clock: b.Clock, Safe: b.Safe, Firmware: b.Firmware, Vendor: b.Vendor, Model: b.Model, SeenAt: at,
	}
}

func (r *register) keepEvidence(at int64, when time.Time, b *KeptEvidence) error {
	e, x := b.rows(when)
	if r.mine(b.Device, b.Credential) {
		if c := r.credentials.get(b.Credential); c == nil || c.leaf >= at {
			return broken("it is evidence for certificate %d, which was never issued", b.Credential)
		}
		if old := r.evidence.get(b.Credential); old != nil {
			return broken("certificate %d had evidence before, by entry %d", b.Credential, old.leaf)
		}
		*r.evidence.add(b.Credential) = evidenceState{leaf: at, digest: r.evidenceDigest(&e)}
	}
	if b.EK == [32]byte{} || !r.ours(&b.EK) {
		return nil
	}
	t := r.tpms[b.EK]
	switch {
	case t == nil:
		t = new(tpmState)
		r.tpms[b.EK] = t
	case t.device != b.Device && r.lives(t.device):
		return broken("TPM %x is that of device %016x", b.EK[:8], t.device)
	}
	t.leaf, t.touched, t.device, t.digest, t.counters = at, at, b.Device, r.tpmDigest(&x), r.countersDigest(&x)
	return nil
}

// lives reports whether a device that this pass looks at has not ended.
func (r *register) lives(device int64) bool {
	d := r.devices.get(device)
	return d != nil && d.state != stateDecommissioned && d.state != stateScrapped
}

// resetTPM forgets the counters of a device's TPMs. It is rare, so that nothing
// leads from a device to them.
func (r *register) resetTPM(at int64, b *ResetTPM) error {
	found := false
	for _, t := range r.tpms {
		if t.device == b.Device {
			t.touched, t.counters, found = at, r.countersDigest(&TPMRow{}), true
		}
	}
	if !found && r.passes == 1 {
		return broken("device %016x has no TPM", b.Device)
	}
	return nil
}

func (v *verification) evidence(ctx context.Context, begin int64) error {
	fetch := func(after *EvidenceRow, limit int) ([]EvidenceRow, error) {
		return v.src.EvidenceRows(ctx, idOf(after, func(r *EvidenceRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, v.evidenceRow); err != nil {
		return err
	}
	id, leaf, found := missingOf(&v.register.evidence, begin, func(e *evidenceState) (int64, bool) { return e.leaf, e.seen })
	if found {
		return missingRow(fmt.Sprintf("evidence of certificate %d", id), leaf)
	}
	return nil
}

func (v *verification) evidenceRow(row *EvidenceRow, _ int64) (bool, error) {
	r := v.register
	if !r.mine(row.Device, row.ID) {
		return true, nil
	}
	what := fmt.Sprintf("evidence of certificate %d", row.ID)
	e := r.evidence.get(row.ID)
	if e == nil {
		return false, surplusRow(what)
	}
	if !e.seen {
		e.seen = true
		v.report.Evidence++
	}
	if sha256.Sum256(row.Content) != row.Digest {
		return false, badRow(what, e.leaf, "its content is not what was digested")
	}
	if r.evidenceDigest(row) != e.digest {
		return false, badRow(what, e.leaf, "device, kind, claims, content or time is not what the entry says")
	}
	return true, nil
}

func (v *verification) tpms(ctx context.Context, begin int64) error {
	fetch := func(after *TPMRow, limit int) ([]TPMRow, error) {
		return v.src.TPMRows(ctx, idOf(after, func(r *TPMRow) int64 { return r.ID }), limit)
	}
	if err := each(ctx, v, fetch, v.tpm); err != nil {
		return err
	}
	var first *tpmState
	var ek [32]byte
	for k, t := range v.register.tpms {
		if !t.seen && t.leaf < begin && (first == nil || t.leaf < first.leaf) {
			first, ek = t, k
		}
	}
	if first != nil {
		return missingRow(fmt.Sprintf("TPM %x", ek[:8]), first.leaf)
	}
	return nil
}

func (v *verification) tpm(row *TPMRow, before int64) (bool, error) {
	r := v.register
	if !r.ours(&row.EK) {
		return true, nil
	}
	what := fmt.Sprintf("TPM %x", row.EK[:8])
	t := r.tpms[row.EK]
	if t == nil {
		return false, surplusRow(what)
	}
	if !t.seen {
		t.seen = true
		v.report.TPMs++
	}
	if t.touched >= before {
		return false, nil
	}
	if r.countersDigest(row) != t.counters {
		return false, badRow(what, t.touched, "AK, counts or clock are not what the entry says")
	}
	if r.tpmDigest(row) != t.digest {
		return false, badRow(what, t.leaf, "chip, firmware, vendor, model or time is not what the entry says")
	}
	return true, differ(what, t.leaf, []field{{"device", fmt.Sprintf("%016x", row.Device), fmt.Sprintf("%016x", t.device)}})
}
