package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
)

var discard = slog.New(slog.DiscardHandler)

func verifyWith(t testing.TB, m *memory, o VerifyOptions) (Report, error) {
	t.Helper()
	o.Verifiers = []note.Verifier{newTestSigner(t, testOrigin)}
	o.Now = func() time.Time { return testTime }
	return Verify(t.Context(), m, o)
}

func TestVerifyHoldsForWhatTheProductDoes(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(t, seed)
		for range 5 {
			w.work(200)
			if seed%2 == 0 {
				w.hash()
			}
			for _, inMemory := range []int64{0, 400, 50} {
				r, err := verifyWith(t, w.memory, VerifyOptions{InMemory: inMemory})
				if err != nil {
					t.Fatalf("seed %d, %d in memory: %v", seed, inMemory, err)
				}
				want := Report{
					Entries: w.size, Certificates: int64(len(w.credentials)), Devices: int64(len(w.devices)), Revocations: int64(len(w.revocations)),
					Leases: int64(len(w.serials)), CRLs: int64(len(w.crls)), Records: int64(len(w.records)),
					Evidence: int64(len(w.evidence)), TPMs: int64(len(w.tpms)), Root: r.Root, Checkpoint: r.Checkpoint,
				}
				if fmt.Sprint(r) != fmt.Sprint(want) {
					t.Fatalf("seed %d: %+v, want %+v", seed, r, want)
				}
			}
		}
	}
}

func TestVerifyOfAnEmptyLedger(t *testing.T) {
	if r, err := verifyWith(t, newMemory(), VerifyOptions{}); err != nil || r.Entries != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// edits are ways to change the database behind the product's back. Each reports
// whether it found something to change.
var edits = map[string]func(m *memory, r *rand.Rand) bool{
	"credential deleted": func(m *memory, r *rand.Rand) bool { return drop(m.credentials, r) },
	"credential inserted": func(m *memory, r *rand.Rand) bool {
		return insert(m.credentials, r, func(c *CredentialRow, id int64) { c.ID = id })
	},
	"credentials swapped": func(m *memory, r *rand.Rand) bool {
		return swap(m.credentials, r, func(c *CredentialRow, id int64) { c.ID = id })
	},
	"credential edited": func(m *memory, r *rand.Rand) bool {
		return edit(m.credentials, r, []func(c *CredentialRow){
			func(c *CredentialRow) { c.CertSerial[r.IntN(len(c.CertSerial))] ^= 1 },
			func(c *CredentialRow) { c.Authority++ },
			func(c *CredentialRow) { c.AuthorityIndex++ },
			func(c *CredentialRow) { c.Profile++ },
			func(c *CredentialRow) { c.Kind += "x" },
			func(c *CredentialRow) { c.Purpose += "x" },
			func(c *CredentialRow) { c.Device ^= 1 },
			func(c *CredentialRow) { c.Product++ },
			func(c *CredentialRow) { c.Site++ },
			func(c *CredentialRow) { c.Owner++ },
			func(c *CredentialRow) { c.State = c.State%5 + 1 },
			func(c *CredentialRow) { c.Reason++ },
			func(c *CredentialRow) { c.RevokedAt = c.RevokedAt.Add(time.Hour) },
			func(c *CredentialRow) { c.KeyKind++ },
			func(c *CredentialRow) { c.NotBefore = c.NotBefore.Add(time.Second) },
			func(c *CredentialRow) { c.NotAfter = c.NotAfter.Add(time.Second) },
			func(c *CredentialRow) { c.SPKI[r.IntN(32)] ^= 4 },
			func(c *CredentialRow) { c.Idempotency[r.IntN(32)] ^= 4 },
			func(c *CredentialRow) { c.Previous++ },
			func(c *CredentialRow) { c.IssuedAt = c.IssuedAt.Add(-time.Second) },
			func(c *CredentialRow) { c.ConfirmedAt = c.ConfirmedAt.Add(time.Second) },
			func(c *CredentialRow) { c.DER[r.IntN(len(c.DER))] ^= 1 },
			func(c *CredentialRow) { c.State, c.Reason, c.RevokedAt = 8, 0, time.Time{} },
		})
	},
	"device deleted": func(m *memory, r *rand.Rand) bool { return drop(m.devices, r) },
	"device inserted": func(m *memory, r *rand.Rand) bool {
		return insert(m.devices, r, func(d *DeviceRow, id int64) { d.ID = id })
	},
	"devices swapped": func(m *memory, r *rand.Rand) bool {
		return swap(m.devices, r, func(d *DeviceRow, id int64) { d.ID = id })
	},
	"device edited": func(m *memory, r *rand.Rand) bool {
		return edit(m.devices, r, []func(d *DeviceRow){
			func(d *DeviceRow) { d.DeviceSerial += "x" },
			func(d *DeviceRow) { d.Product++ },
			func(d *DeviceRow) { d.Site++ },
			func(d *DeviceRow) { d.Owner++ },
			func(d *DeviceRow) { d.Region += "x" },
			func(d *DeviceRow) { d.Labels = map[string]string{"new": "label"} },
			func(d *DeviceRow) { d.State = d.State%8 + 1 },
			func(d *DeviceRow) { d.Version++ },
			func(d *DeviceRow) { d.Version-- },
			func(d *DeviceRow) { d.Secret[r.IntN(32)] ^= 4 },
			func(d *DeviceRow) { d.SecretSpent = d.SecretSpent.Add(time.Second) },
			func(d *DeviceRow) { d.SecretSPKI[r.IntN(32)] ^= 4 },
			func(d *DeviceRow) { d.RegisteredAt = d.RegisteredAt.Add(time.Second) },
			func(d *DeviceRow) { d.Current["idevid"]++ },
			func(d *DeviceRow) { d.Current["ldevid/other"] = 1 },
			func(d *DeviceRow) { d.Current = map[string]int64{"ldevid/none": 7} },
		})
	},
	"slot emptied": func(m *memory, r *rand.Rand) bool {
		for range 100 {
			d := m.devices[someKey(m.devices, r)]
			for _, slot := range slices.Sorted(maps.Keys(d.Current)) {
				delete(d.Current, slot)
				return true
			}
		}
		return false
	},
	"secret unspent": func(m *memory, r *rand.Rand) bool {
		for _, id := range slices.Sorted(maps.Keys(m.devices)) {
			if d := m.devices[id]; !d.SecretSpent.IsZero() {
				d.SecretSpent, d.SecretSPKI = time.Time{}, [32]byte{}
				m.devices[id] = d
				return true
			}
		}
		return false
	},
	"revocation undone": func(m *memory, r *rand.Rand) bool {
		if len(m.revocations) == 0 {
			return false
		}
		i := r.IntN(len(m.revocations))
		c := m.credentials[m.revocations[i].Credential]
		c.State, c.Reason, c.RevokedAt = stateIssued, 0, time.Time{}
		m.credentials[c.ID] = c
		m.revocations = slices.Delete(m.revocations, i, i+1)
		return true
	},
	"revocation deleted": func(m *memory, r *rand.Rand) bool {
		if len(m.revocations) == 0 {
			return false
		}
		i := r.IntN(len(m.revocations))
		m.revocations = slices.Delete(m.revocations, i, i+1)
		return true
	},
	"revocation inserted": func(m *memory, r *rand.Rand) bool {
		if len(m.revocations) == 0 {
			return false
		}
		row := m.revocations[r.IntN(len(m.revocations))]
		row.Credential += 100000
		m.revocations = append(m.revocations, row)
		return true
	},
	"revocation edited": func(m *memory, r *rand.Rand) bool {
		if len(m.revocations) == 0 {
			return false
		}
		row := &m.revocations[r.IntN(len(m.revocations))]
		row.CertSerial = bytes.Clone(row.CertSerial)
		[]func(){
			func() { row.Authority++ },
			func() { row.Shard++ },
			func() { row.CertSerial[0] ^= 1 },
			func() { row.RevokedAt = row.RevokedAt.Add(time.Second) },
			func() { row.Reason++ },
			func() { row.NotAfter = row.NotAfter.Add(-time.Hour) },
		}[r.IntN(6)]()
		return true
	},
	"block deleted": func(m *memory, r *rand.Rand) bool { return drop(m.serials, r) },
	"block inserted": func(m *memory, r *rand.Rand) bool {
		return insert(m.serials, r, func(l *LeaseRow, id int64) { l.ID, l.First = id, id })
	},
	"block edited": func(m *memory, r *rand.Rand) bool {
		return edit(m.serials, r, []func(l *LeaseRow){
			func(l *LeaseRow) { l.Count++ },
			func(l *LeaseRow) { l.Fence++ },
			func(l *LeaseRow) { l.Node += "x" },
			func(l *LeaseRow) { l.Seed[3] ^= 1 },
			func(l *LeaseRow) { l.Closed = !l.Closed },
			func(l *LeaseRow) { l.First++ },
		})
	},
	"CRL deleted": func(m *memory, r *rand.Rand) bool {
		if len(m.crls) == 0 {
			return false
		}
		i := r.IntN(len(m.crls))
		m.crls = slices.Delete(m.crls, i, i+1)
		return true
	},
	"CRL inserted": func(m *memory, r *rand.Rand) bool {
		m.crls = append(m.crls, CRLRow{Authority: 77, Number: 1})
		return true
	},
	"CRL edited": func(m *memory, r *rand.Rand) bool {
		if len(m.crls) == 0 {
			return false
		}
		c := &m.crls[r.IntN(len(m.crls))]
		[]func(){func() { c.Number-- }, func() { c.Number++ }, func() { c.SHA256[5] ^= 1 }}[r.IntN(3)]()
		return true
	},
	"evidence deleted": func(m *memory, r *rand.Rand) bool { return drop(m.evidence, r) },
	"evidence inserted": func(m *memory, r *rand.Rand) bool {
		return insert(m.evidence, r, func(e *EvidenceRow, id int64) { e.ID = id })
	},
	"evidence swapped": func(m *memory, r *rand.Rand) bool {
		return swap(m.evidence, r, func(e *EvidenceRow, id int64) { e.ID = id })
	},
	"evidence edited": func(m *memory, r *rand.Rand) bool {
		return edit(m.evidence, r, []func(e *EvidenceRow){
			func(e *EvidenceRow) { e.Device ^= 1 },
			func(e *EvidenceRow) { e.Kind += "x" },
			func(e *EvidenceRow) { e.Claims ^= 8 },
			func(e *EvidenceRow) { e.Content[r.IntN(len(e.Content))] ^= 1 },
			func(e *EvidenceRow) { e.Digest[r.IntN(32)] ^= 1 },
			func(e *EvidenceRow) { e.Content = []byte("new"); e.Digest = sha256.Sum256(e.Content) },
			func(e *EvidenceRow) { e.At = e.At.Add(time.Second) },
		})
	},
	"TPM deleted": func(m *memory, r *rand.Rand) bool { return drop(m.tpms, r) },
	"TPM inserted": func(m *memory, r *rand.Rand) bool {
		return insert(m.tpms, r, func(x *TPMRow, id int64) { x.ID, x.EK[0] = id, x.EK[0]^1 })
	},
	"TPM edited": func(m *memory, r *rand.Rand) bool {
		return edit(m.tpms, r, []func(x *TPMRow){
			func(x *TPMRow) { x.EK[r.IntN(32)] ^= 1 },
			func(x *TPMRow) { x.Device ^= 2 },
			func(x *TPMRow) { x.Chip++ },
			func(x *TPMRow) { x.AK[r.IntN(32)] ^= 1 },
			func(x *TPMRow) { x.Plain = !x.Plain },
			func(x *TPMRow) { x.ResetCount++ },
			func(x *TPMRow) { x.RestartCount++ },
			func(x *TPMRow) { x.Clock++ },
			func(x *TPMRow) { x.Safe = !x.Safe },
			func(x *TPMRow) { x.Firmware ^= 1 << 63 },
			func(x *TPMRow) { x.Vendor += "x" },
			func(x *TPMRow) { x.Model += "x" },
			func(x *TPMRow) { x.SeenAt = x.SeenAt.Add(time.Second) },
		})
	},
	"leaf edited": func(m *memory, r *rand.Rand) bool {
		l := leafAt(m, r)
		(*l)[r.IntN(len(*l))] ^= byte(1 + r.IntN(255))
		return true
	},
	"leaf deleted": func(m *memory, r *rand.Rand) bool {
		b := &m.batches[r.IntN(len(m.batches))]
		i := r.IntN(len(b.Leaves))
		b.Leaves = slices.Delete(b.Leaves, i, i+1)
		return true
	},
	"leaf deleted and the rest moved up": func(m *memory, r *rand.Rand) bool {
		k := r.IntN(len(m.batches))
		b := &m.batches[k]
		b.Leaves = slices.Delete(b.Leaves, 0, 1)
		renumber(m)
		return true
	},
	"leaf inserted": func(m *memory, r *rand.Rand) bool {
		b := &m.batches[r.IntN(len(m.batches))]
		i := r.IntN(len(b.Leaves) + 1)
		b.Leaves = slices.Insert(b.Leaves, i, bytes.Clone(*leafAt(m, r)))
		renumber(m)
		return true
	},
	"leaves swapped": func(m *memory, r *rand.Rand) bool {
		a, b := leafAt(m, r), leafAt(m, r)
		if bytes.Equal(*a, *b) {
			return false
		}
		*a, *b = *b, *a
		return true
	},
	"batch deleted": func(m *memory, r *rand.Rand) bool {
		i := r.IntN(len(m.batches))
		m.batches = slices.Delete(m.batches, i, i+1)
		return true
	},
	"batch deleted and the rest moved up": func(m *memory, r *rand.Rand) bool {
		i := r.IntN(len(m.batches))
		m.batches = slices.Delete(m.batches, i, i+1)
		renumber(m)
		return true
	},
	"batch hidden from its followers": func(m *memory, r *rand.Rand) bool {
		m.batches[r.IntN(len(m.batches))].Classes = 0
		return true
	},
	"batch marked with another class": func(m *memory, r *rand.Rand) bool {
		b := &m.batches[r.IntN(len(m.batches))]
		b.Classes ^= 1 << r.IntN(6)
		return b.Classes != 0
	},
	"size lowered": func(m *memory, r *rand.Rand) bool {
		m.size -= 1 + r.Int64N(m.size)
		return true
	},
	"size raised": func(m *memory, r *rand.Rand) bool {
		m.size += 1 + r.Int64N(5)
		return true
	},
	"tail cut off": func(m *memory, r *rand.Rand) bool {
		m.batches = m.batches[:r.IntN(len(m.batches))]
		renumber(m)
		return true
	},
	"tail cut off with tiles and checkpoint": func(m *memory, r *rand.Rand) bool {
		m.batches = m.batches[:1+r.IntN(len(m.batches)-1)]
		renumber(m)
		retile(m)
		return true
	},
	"entry rewritten with all tiles": func(m *memory, r *rand.Rand) bool {
		for range 100 {
			l := leafAt(m, r)
			if changed := bytes.Replace(*l, []byte(`"actor":"system"`), []byte(`"actor":"token:1"`), 1); !bytes.Equal(changed, *l) {
				*l = changed
				retile(m)
				return true
			}
		}
		return false
	},
	"tile edited": func(m *memory, r *rand.Rand) bool {
		row := m.tiles[tileAt(m, r)]
		row[r.IntN(len(row))] ^= byte(1 + r.IntN(255))
		return true
	},
	"tile deleted": func(m *memory, r *rand.Rand) bool {
		delete(m.tiles, tileAt(m, r))
		return true
	},
	"tile cut": func(m *memory, r *rand.Rand) bool {
		k := tileAt(m, r)
		m.tiles[k] = m.tiles[k][:r.IntN(len(m.tiles[k])/32)*32]
		return true
	},
	"tile widened": func(m *memory, r *rand.Rand) bool {
		k := tileAt(m, r)
		if len(m.tiles[k]) == tileWidth*hashSize {
			return false
		}
		m.tiles[k] = append(m.tiles[k], make([]byte, 32)...)
		return true
	},
	"tiles swapped": func(m *memory, r *rand.Rand) bool {
		a, b := tileAt(m, r), tileAt(m, r)
		m.tiles[a], m.tiles[b] = m.tiles[b], m.tiles[a]
		return a != b
	},
	"checkpoint edited": func(m *memory, r *rand.Rand) bool {
		c := &m.checkpoints[len(m.checkpoints)-1]
		switch r.IntN(3) {
		case 0:
			c.Root[r.IntN(32)] ^= 1
		case 1:
			c.Size--
		case 2:
			c.Note[r.IntN(len(c.Note))] ^= 1
		}
		return true
	},
	"newest checkpoint deleted": func(m *memory, r *rand.Rand) bool {
		m.checkpoints = m.checkpoints[:len(m.checkpoints)-1]
		return true
	},
	"all checkpoints deleted": func(m *memory, r *rand.Rand) bool {
		m.checkpoints = nil
		return true
	},
	"name beside an entry edited": func(m *memory, r *rand.Rand) bool {
		ids := slices.Sorted(maps.Keys(m.private))
		p := m.private[ids[r.IntN(len(ids))]]
		p.Value += "x"
		return true
	},
}

func drop[R any](rows map[int64]R, r *rand.Rand) bool {
	if len(rows) == 0 {
		return false
	}
	delete(rows, someKey(rows, r))
	return true
}

func someKey[R any](rows map[int64]R, r *rand.Rand) int64 {
	ids := slices.Sorted(maps.Keys(rows))
	return ids[r.IntN(len(ids))]
}

func insert[R any](rows map[int64]R, r *rand.Rand, number func(*R, int64)) bool {
	row := rows[someKey(rows, r)]
	id := 1 + r.Int64N(1<<40)
	if _, taken := rows[id]; taken {
		return false
	}
	number(&row, id)
	rows[id] = row
	return true
}

func swap[R any](rows map[int64]R, r *rand.Rand, number func(*R, int64)) bool {
	i, j := someKey(rows, r), someKey(rows, r)
	a, b := rows[i], rows[j]
	number(&a, j)
	number(&b, i)
	rows[j], rows[i] = a, b
	return i != j
}

func edit[R any](rows map[int64]R, r *rand.Rand, ways []func(*R)) bool {
	id := someKey(rows, r)
	row := rows[id]
	before := fmt.Sprintf("%+v", row)
	ways[r.IntN(len(ways))](&row)
	rows[id] = row
	return fmt.Sprintf("%+v", row) != before
}

func leafAt(m *memory, r *rand.Rand) *[]byte {
	b := &m.batches[r.IntN(len(m.batches))]
	return &b.Leaves[r.IntN(len(b.Leaves))]
}

func tileAt(m *memory, r *rand.Rand) [2]int64 {
	ks := slices.SortedFunc(maps.Keys(m.tiles), func(a, b [2]int64) int { return slices.Compare(a[:], b[:]) })
	return ks[r.IntN(len(ks))]
}

func renumber(m *memory) {
	m.size = 0
	m.batches = slices.DeleteFunc(m.batches, func(b Batch) bool { return len(b.Leaves) == 0 })
	for i := range m.batches {
		m.batches[i].First = m.size
		m.size += int64(len(m.batches[i].Leaves))
	}
}

// retile makes the tiles of the leaves as they are now.
func retile(m *memory) {
	clear(m.tiles)
	var e edge
	keep := func(t Tile) error {
		m.tiles[[2]int64{int64(t.Level), t.N}] = t.Hashes
		return nil
	}
	for _, h := range m.leafHashes() {
		_ = e.add(h, keep)
	}
	for _, t := range e.tiles() {
		_ = keep(t)
	}
}

func TestVerifyFindsEveryEdit(t *testing.T) {
	const rounds = 26 // of more than 40 kinds of edit
	w := newWorld(t, 99)
	w.work(400)
	w.hash()
	w.work(300)
	w.hash()
	if _, err := verifyWith(t, w.memory, VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range edits {
		t.Run(name, func(t *testing.T) {
			done := 0
			for round := range uint64(rounds) {
				m := w.copy()
				if !change(m, rand.New(rand.NewPCG(round, 1))) {
					continue
				}
				done++
				o := VerifyOptions{InMemory: []int64{0, 300}[round%2]}
				_, err := verifyWith(t, m, o)
				if !fault.Has(err, fault.LedgerBroken) && !fault.Has(err, fault.LedgerRolledBack) {
					t.Errorf("round %d: %v", round, err)
				}
			}
			if done < rounds/5 {
				t.Errorf("only %d edits were possible", done)
			}
		})
	}
}

func TestVerifyNamesTheFirstBadPlace(t *testing.T) {
	w := newWorld(t, 7)
	w.work(500)
	w.hash()
	credential := someKey(w.credentials, w.r)
	device := someKey(w.devices, w.r)
	for _, c := range []struct {
		name string
		do   func(m *memory)
		want []string
	}{
		{"leaf", func(m *memory) { m.batches[40].Leaves[0][30] ^= 1 }, []string{fmt.Sprintf("entry %d ", w.batches[40].First)}},
		{"two leaves", func(m *memory) { m.batches[90].Leaves[0][30] ^= 1; m.batches[30].Leaves[0][30] ^= 1 }, []string{fmt.Sprintf("entry %d ", w.batches[30].First)}},
		{"owner", func(m *memory) { c := m.credentials[credential]; c.Owner = 555; m.credentials[credential] = c }, []string{fmt.Sprintf("certificate %d:", credential), "owner is 555", "see entry"}},
		{"certificate", func(m *memory) {
			c := m.credentials[credential]
			c.DER = []byte("forged")
			m.credentials[credential] = c
		}, []string{fmt.Sprintf("certificate %d:", credential), "SHA-256 of the certificate is"}},
		{"serial", func(m *memory) { d := m.devices[device]; d.DeviceSerial = "OTHER"; m.devices[device] = d }, []string{fmt.Sprintf("device %016x:", device), "device serial is OTHER, the entry says SN-"}},
		{"secret", func(m *memory) { d := m.devices[device]; d.Secret[1] ^= 1; m.devices[device] = d }, []string{fmt.Sprintf("device %016x:", device), "secret"}},
		{"row missing", func(m *memory) { delete(m.devices, device) }, []string{fmt.Sprintf("device %016x: the row is missing; see entry", device)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := w.copy()
			c.do(m)
			_, err := verifyWith(t, m, VerifyOptions{})
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Code != fault.LedgerBroken {
				t.Fatalf("got %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(f.Detail+" ", part) {
					t.Errorf("%q does not say %q", f.Detail, part)
				}
			}
		})
	}
}

func TestVerifyWithACheckpointFromOutside(t *testing.T) {
	w := newWorld(t, 8)
	w.work(300)
	w.hash()
	old := w.copy() // an older copy of the database, whole in itself
	middle := w.checkpoints[len(w.checkpoints)-1].Note
	w.work(200)
	w.hash()
	newest := w.checkpoints[len(w.checkpoints)-1].Note

	r, err := verifyWith(t, w.memory, VerifyOptions{Outside: [][]byte{newest, middle}})
	if err != nil || len(r.Outside) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := verifyWith(t, old, VerifyOptions{Outside: [][]byte{middle}}); err != nil {
		t.Fatalf("the old copy holds for its own checkpoint: %v", err)
	}
	if _, err := verifyWith(t, old, VerifyOptions{Outside: [][]byte{newest}}); !fault.Has(err, fault.LedgerRolledBack) {
		t.Errorf("the tail is cut off: %v", err)
	}
	// Another history, signed with the same key, as long as this one.
	fork := newWorld(t, 9)
	for fork.size < w.size {
		fork.work(10)
	}
	fork.hash()
	if _, err := verifyWith(t, fork.memory, VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, signed := range [][]byte{newest, middle} {
		if _, err := verifyWith(t, fork.memory, VerifyOptions{Outside: [][]byte{signed}}); !fault.Has(err, fault.LedgerRolledBack) {
			t.Errorf("another history: %v", err)
		}
	}
	foreign, err := signCheckpoint(newTestSigner(t, "elsewhere"), 1, Hash{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifyWith(t, w.memory, VerifyOptions{Outside: [][]byte{foreign.Note}}); !fault.Has(err, fault.CheckpointBad) {
		t.Errorf("a checkpoint of another ledger: %v", err)
	}
}

func TestVerifyWhileTheServerWorks(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(t, 20+seed)
		w.work(1500)
		w.hash()
		// Before each read the world goes on; reads of the world itself do not
		// count.
		acting := false
		w.fail = func(op string) error {
			if acting || op == "private" || op == "lease" || op == "save" || op == "save-after" {
				return nil
			}
			acting = true
			w.mu.Unlock()
			w.work(3)
			if w.r.IntN(3) == 0 {
				w.hash()
			}
			w.mu.Lock()
			acting = false
			return nil
		}
		r, err := verifyWith(t, w.memory, VerifyOptions{InMemory: []int64{0, 700}[seed%2]})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if r.Certificates == 0 || r.Devices == 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestVerifyPassesReadErrorsOn(t *testing.T) {
	w := newWorld(t, 10)
	w.work(200)
	w.hash()
	for _, op := range []string{"size", "batches", "tile", "checkpoint", "private", "credentials", "devices", "revocations", "leases", "crls", "evidence", "tpms"} {
		w.fail = failOnce(op, 0)
		if _, err := verifyWith(t, w.memory, VerifyOptions{}); !errors.Is(err, errInjected) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestVerifyRefusesAnEntryThatContradictsTheOthers(t *testing.T) {
	base := newWorld(t, 12)
	base.work(300)
	base.issue()
	last := base.credentials[base.credentialIDs[len(base.credentialIDs)-1]]
	device := base.devices[base.deviceIDs[0]]
	free := base.next + 1000
	leased := &Leased{Node: "n1", Fence: 1, First: free, Count: 10, Seed: sha256.Sum256([]byte("s"))}
	issued := func(edit func(b *Issued)) *Issued {
		b := &Issued{
			Credential: free, CertSerial: []byte{1, 2, 3}, Authority: 1, Profile: 1, Kind: "ldevid", Purpose: "x", Device: device.ID,
			DeviceVersion: device.Version + 1, DeviceState: 4, Slot: "ldevid/x", SPKI: [32]byte{1}, DER: [32]byte{2},
		}
		edit(b)
		return b
	}
	for _, c := range []struct {
		name string
		want string
		add  []Entry
	}{
		{"outside every block", "outside every block", []Entry{{Kind: CertificateIssued, Body: issued(func(b *Issued) { b.Credential = free + 50 })}}},
		{"issued twice", "was issued before", []Entry{{Kind: CertificateIssued, Body: issued(func(*Issued) {})}, {Kind: CertificateIssued, Body: issued(func(b *Issued) { b.DeviceVersion++ })}}},
		{"after the block was closed", "closed", []Entry{
			{Kind: SerialsClosed, Body: &Closed{Node: "n1", First: free, Count: 10, Abandoned: [][2]int64{{free, free + 9}}}},
			{Kind: CertificateIssued, Body: issued(func(*Issued) {})},
		}},
		{"serial given twice", "certificate serial is that of entry", []Entry{{Kind: CertificateIssued, Body: issued(func(b *Issued) { b.CertSerial = last.CertSerial })}}},
		{"key of another device", "of another device", []Entry{{Kind: CertificateIssued, Body: issued(func(b *Issued) {
			b.SPKI = last.SPKI
			b.Device = base.otherDevice(last.Device)
			b.DeviceVersion = 1 << 20
		})}}},
		{"device unknown", "never registered", []Entry{{Kind: CertificateIssued, Body: issued(func(b *Issued) { b.Device = 4711 })}}},
		{"device goes back", "from version", []Entry{{Kind: CertificateIssued, Body: issued(func(b *Issued) { b.DeviceVersion = device.Version })}}},
		{"block overlaps", "overlaps", []Entry{{Kind: SerialsLeased, Body: &Leased{Node: "n1", First: free + 5, Count: 10, Seed: [32]byte{1}}}}},
		{"block closed twice", "a second time", []Entry{
			{Kind: SerialsClosed, Body: &Closed{Node: "n1", First: free, Count: 10, Abandoned: [][2]int64{{free, free + 9}}}},
			{Kind: SerialsClosed, Body: &Closed{Node: "n1", First: free, Count: 10, Abandoned: [][2]int64{{free, free + 9}}}},
		}},
		{"an abandoned serial was used", "abandons certificate", []Entry{
			{Kind: CertificateIssued, Body: issued(func(*Issued) {})},
			{Kind: SerialsClosed, Body: &Closed{Node: "n1", First: free, Count: 10, Abandoned: [][2]int64{{free, free + 9}}}},
		}},
		{"serials unaccounted for", "were used", []Entry{{Kind: SerialsClosed, Body: &Closed{Node: "n1", First: free, Count: 10}}}},
		{"revoked twice", "already", []Entry{
			{Kind: CertificateIssued, Body: issued(func(*Issued) {})},
			{Kind: CertificateRevoked, Body: &Revoked{Credential: free, CertSerial: []byte{1}, Authority: 1, Device: device.ID, Reason: 1}},
			{Kind: CertificateRevoked, Body: &Revoked{Credential: free, CertSerial: []byte{1}, Authority: 1, Device: device.ID, Reason: 1}},
		}},
		{"released but not held", "not on hold", []Entry{{Kind: CertificateFreed, Body: &Released{Credential: last.ID, CertSerial: []byte{1}, Authority: 1, Device: last.Device}}}},
		{"revoked but never issued", "never issued", []Entry{{Kind: CertificateRevoked, Body: &Revoked{Credential: free + 3, CertSerial: []byte{1}, Authority: 1, Reason: 1}}}},
		{"registered twice", "registered before", []Entry{{Kind: DeviceRegistered, Body: &Registered{Device: device.ID, DeviceSerial: "x", State: 1, Version: 1}}}},
		{"CRL number goes back", "follows", []Entry{
			{Kind: CRLSigned, Body: &SignedCRL{Authority: 9, Number: 5, DER: [32]byte{1}}}, {Kind: CRLSigned, Body: &SignedCRL{Authority: 9, Number: 5, DER: [32]byte{1}}},
		}},
		{"evidence for nothing", "never issued", []Entry{{Kind: EvidenceKept, Body: &KeptEvidence{Credential: free + 3, Device: device.ID, Kind: "tpm"}}}},
		{"evidence twice", "had evidence before", []Entry{
			{Kind: CertificateIssued, Body: issued(func(*Issued) {})},
			{Kind: EvidenceKept, Body: &KeptEvidence{Credential: free, Device: device.ID, Kind: "tpm"}},
			{Kind: EvidenceKept, Body: &KeptEvidence{Credential: free, Device: device.ID, Kind: "tpm"}},
		}},
		{"TPM of another device", "is that of device", []Entry{
			{Kind: CertificateIssued, Body: issued(func(*Issued) {})},
			{Kind: EvidenceKept, Body: &KeptEvidence{Credential: free, Device: device.ID, Kind: "tpm", EK: [32]byte{7}}},
			{Kind: CertificateIssued, Body: issued(func(b *Issued) {
				b.Credential, b.CertSerial, b.SPKI, b.Device, b.DeviceVersion = free+1, []byte{9}, [32]byte{9}, base.otherDevice(device.ID), 1<<20
			})},
			{Kind: EvidenceKept, Body: &KeptEvidence{Credential: free + 1, Device: base.otherDevice(device.ID), Kind: "tpm", EK: [32]byte{7}}},
		}},
		{"reset of no TPM", "has no TPM", []Entry{{Kind: TPMReset, Body: &ResetTPM{Device: 4711}}}},
		{"not canonical", "canonical", []Entry{{Kind: CertificateUsed, Body: Raw(`{"device":"x"}`)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := base.copy()
			w := &world{memory: m, t: t, r: rand.New(rand.NewPCG(1, 1)), now: testTime}
			w.record(Entry{Kind: SerialsLeased, At: testTime, Actor: "system", Body: leased})
			for _, e := range c.add {
				e.At, e.Actor = testTime, "system"
				w.record(e)
			}
			w.hash()
			_, err := verifyWith(t, m, VerifyOptions{})
			f, ok := errors.AsType[*fault.Error](err)
			if want := fmt.Sprintf("entry %d (%s)", m.size-1, c.add[len(c.add)-1].Kind); !ok || f.Code != fault.LedgerBroken || !strings.Contains(f.Detail, c.want) || !strings.HasPrefix(f.Detail, want) {
				t.Errorf("got %v, want %q and %q", err, want, c.want)
			}
		})
	}
}
