package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world is a factory at work: it acts on a register in memory as the product
// does, and writes the entries.
type world struct {
	*memory
	t    testing.TB
	r    *rand.Rand
	now  time.Time
	next int64 // serial
	open int64 // block of serials in use
	used map[int64]int64
	rank map[int64]int64

	deviceIDs, credentialIDs []int64
}

// octets lets a math/rand source fill salts.
type octets struct{ r *rand.Rand }

func (o octets) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(o.r.Uint32())
	}
	return len(p), nil
}

func newWorld(t testing.TB, seed uint64) *world {
	return &world{
		memory: newMemory(), t: t, r: rand.New(rand.NewPCG(seed, 0)), now: testTime, next: 1, used: map[int64]int64{}, rank: map[int64]int64{},
	}
}

func (w *world) record(entries ...Entry) {
	w.t.Helper()
	var leaves [][]byte
	var classes Class
	for _, e := range entries {
		leaf, beside, err := e.Encode(nil, octets{w.r})
		if err != nil {
			w.t.Fatal(err)
		}
		if beside != nil {
			w.private[w.size+int64(len(leaves))] = beside
		}
		leaves = append(leaves, leaf)
		classes |= ClassOf(e.Kind)
	}
	w.memory.append(classes, leaves...)
}

func (w *world) entry(k Kind, b Body) Entry {
	actors := []string{"system", "token:3", "local:eve", "operator:bob"}
	return Entry{Kind: k, At: w.now, Actor: actors[w.r.IntN(len(actors))], Body: b}
}

func (w *world) digest() (d [32]byte) {
	for i := range 4 {
		binary.BigEndian.PutUint64(d[8*i:], w.r.Uint64())
	}
	return d
}

// pick returns one of the rows, by the list of their ids.
func pick[R any](w *world, rows map[int64]R, ids []int64) (R, bool) {
	var none R
	if len(ids) == 0 {
		return none, false
	}
	return rows[ids[w.r.IntN(len(ids))]], true
}

func (w *world) leaseSerials() {
	if w.open != 0 {
		l := w.serials[w.open]
		l.Closed = true
		w.serials[w.open] = l
		body := &Closed{Node: l.Node, First: l.First, Count: int64(l.Count)}
		next := l.First
		for id := l.First; id <= l.First+int64(l.Count); id++ {
			_, taken := w.credentials[id]
			if !taken && id < l.First+int64(l.Count) {
				continue
			}
			if id > next {
				body.Abandoned = append(body.Abandoned, [2]int64{next, id - 1})
			}
			next = id + 1
		}
		w.record(w.entry(SerialsClosed, body))
	}
	l := LeaseRow{ID: w.next, First: w.next, Fence: 1 + w.r.Int64N(3), Node: "n1", Count: 5 + w.r.IntN(60), Seed: w.digest()}
	w.next += int64(l.Count)
	w.serials[l.ID], w.open = l, l.ID
	w.record(w.entry(SerialsLeased, &Leased{Node: l.Node, Fence: l.Fence, First: l.First, Count: int64(l.Count), Seed: sha256.Sum256(l.Seed[:])}))
}

func (w *world) addDevices() {
	var entries []Entry
	for range 1 + w.r.IntN(5) {
		d := DeviceRow{
			ID: w.r.Int64(), DeviceSerial: fmt.Sprintf("SN-%d", len(w.devices)), Product: 1 + w.r.Int64N(3), Site: w.r.Int64N(3), Owner: w.r.Int64N(2),
			Region: []string{"", "eu"}[w.r.IntN(2)], State: 1, Version: 1, RegisteredAt: w.now, Current: map[string]int64{},
		}
		if w.r.IntN(2) == 0 {
			d.Labels = map[string]string{"line": fmt.Sprint(w.r.IntN(9))}
		}
		if w.r.IntN(4) > 0 {
			d.Secret = w.digest()
		}
		w.devices[d.ID] = d
		w.deviceIDs = append(w.deviceIDs, d.ID)
		entries = append(entries, w.entry(DeviceRegistered, &Registered{
			Device: d.ID, DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version, State: d.State, Site: d.Site, Owner: d.Owner,
			Region: d.Region, Labels: LabelsDigest(d.Labels), Secret: d.Secret,
		}))
	}
	w.record(entries...)
}

// discard gives a device up that has no certificate, and now and then registers
// its serial again.
func (w *world) discard() {
	d, ok := pick(w, w.devices, w.deviceIDs)
	if !ok || len(d.Current) > 0 || w.r.IntN(5) > 0 {
		return
	}
	delete(w.devices, d.ID)
	w.deviceIDs = slices.DeleteFunc(w.deviceIDs, func(id int64) bool { return id == d.ID })
	w.record(w.entry(DeviceDiscarded, &Discarded{Device: d.ID}))
	if w.r.IntN(2) == 0 {
		d.Version, d.State, d.Secret, d.SecretSpent, d.SecretSPKI, d.RegisteredAt = 1, 1, w.digest(), time.Time{}, [32]byte{}, w.now
		w.devices[d.ID] = d
		w.deviceIDs = append(w.deviceIDs, d.ID)
		w.record(w.entry(DeviceRegistered, &Registered{
			Device: d.ID, DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version, State: d.State, Site: d.Site, Owner: d.Owner,
			Region: d.Region, Labels: LabelsDigest(d.Labels), Secret: d.Secret,
		}))
	}
}

func (w *world) issue() {
	if l := w.serials[w.open]; w.open == 0 || w.used[w.open] >= int64(l.Count) {
		w.leaseSerials()
	}
	id := w.open + w.used[w.open]
	w.used[w.open] += 1 + w.r.Int64N(2) // now and then a serial is left out
	if id >= w.open+int64(w.serials[w.open].Count) {
		return
	}
	c := CredentialRow{
		ID: id, CertSerial: append([]byte{0x4b}, binary.BigEndian.AppendUint64(nil, w.r.Uint64())...), Authority: 1 + w.r.Int64N(2), Profile: 1 + w.r.Int64N(3),
		Kind: "listener", State: stateIssued, KeyKind: 5, NotBefore: w.now.Add(-5 * time.Minute), NotAfter: w.now.AddDate(1, 0, 0),
		SPKI: w.digest(), Idempotency: w.digest(), IssuedAt: w.now, DER: binary.BigEndian.AppendUint64(nil, w.r.Uint64()),
	}
	c.AuthorityIndex = w.rank[c.Authority]
	w.rank[c.Authority]++
	body := &Issued{}
	if d, ok := pick(w, w.devices, w.deviceIDs); ok && w.r.IntN(8) > 0 {
		w.enroll(&c, body, d)
	}
	body.Credential, body.CertSerial, body.Authority, body.AuthorityName = c.ID, c.CertSerial, c.Authority, "issuing"
	body.Profile, body.Kind, body.Purpose, body.Device, body.Product, body.Site, body.Owner = c.Profile, c.Kind, c.Purpose, c.Device, c.Product, c.Site, c.Owner
	body.KeyKind, body.NotBefore, body.NotAfter, body.SPKI, body.DER = c.KeyKind, c.NotBefore, c.NotAfter, c.SPKI, sha256.Sum256(c.DER)
	body.Idempotency, body.Previous = c.Idempotency, c.Previous
	w.credentials[c.ID] = c
	w.credentialIDs = append(w.credentialIDs, c.ID)
	w.record(w.entry(CertificateIssued, body))
}

func (w *world) enroll(c *CredentialRow, body *Issued, d DeviceRow) {
	slot := []string{"idevid", "ldevid/cloud", "ldevid/service-port"}[w.r.IntN(3)]
	c.Kind, c.Purpose, c.KeyKind = "idevid", "", 1
	if slot != "idevid" {
		c.Kind, c.Purpose = "ldevid", slot[len("ldevid/"):]
	}
	c.Device, c.Product, c.Site, c.Owner, c.Previous = d.ID, d.Product, d.Site, d.Owner, d.Current[slot]
	if old, ok := w.credentials[c.Previous]; ok && w.r.IntN(2) == 0 {
		body.Supersedes = old.ID
		if old.State == stateIssued || old.State == stateConfirmed {
			old.State = stateSuperseded
			w.credentials[old.ID] = old
		}
		if w.r.IntN(2) == 0 {
			c.SPKI = old.SPKI
		}
	}
	if d.Secret != [32]byte{} && d.SecretSpent.IsZero() {
		body.SecretSpent, d.SecretSpent, d.SecretSPKI = true, w.now, c.SPKI
	}
	d.Version++
	d.State = 2 + uint8(w.r.IntN(3))
	d.Current = maps.Clone(d.Current)
	d.Current[slot] = c.ID
	w.devices[d.ID] = d
	body.DeviceSerial, body.DeviceVersion, body.DeviceState, body.Slot = d.DeviceSerial, d.Version, d.State, slot
}

func (w *world) change() {
	d, ok := pick(w, w.devices, w.deviceIDs)
	if !ok {
		return
	}
	d.Version++
	kind := DeviceChanged
	switch w.r.IntN(4) {
	case 0:
		kind, d.Secret, d.SecretSpent, d.SecretSPKI = SecretRenewed, w.digest(), time.Time{}, [32]byte{}
	case 1:
		d.Labels = map[string]string{"line": fmt.Sprint(w.r.IntN(100)), "shift": "late"}
	case 2:
		d.State = 5
	case 3:
		d.Site, d.Owner = w.r.Int64N(5), w.r.Int64N(5)
		for id, c := range w.credentials {
			if c.Device == d.ID {
				c.Site, c.Owner = d.Site, d.Owner
				w.credentials[id] = c
			}
		}
	}
	w.devices[d.ID] = d
	w.record(w.entry(kind, &Changed{
		Device: d.ID, Version: d.Version, State: d.State, Site: d.Site, Owner: d.Owner, Region: d.Region, Labels: LabelsDigest(d.Labels),
		Secret: d.Secret, SecretSpent: d.SecretSpent, SecretSPKI: d.SecretSPKI,
	}))
}

func (w *world) confirm() {
	c, ok := pick(w, w.credentials, w.credentialIDs)
	if !ok || !c.ConfirmedAt.IsZero() {
		return
	}
	c.ConfirmedAt = w.now
	if c.State == stateIssued {
		c.State = stateConfirmed
	}
	w.credentials[c.ID] = c
	w.record(w.entry(CertificateUsed, &Confirmed{Credential: c.ID, Device: c.Device}))
}

func (w *world) revoke() {
	c, ok := pick(w, w.credentials, w.credentialIDs)
	if !ok || c.State == stateRevoked {
		return
	}
	kind, reason := CertificateRevoked, 1
	if c.State != stateHeld && w.r.IntN(2) == 0 {
		kind, reason = CertificateHeld, reasonHold
	}
	row := RevocationRow{
		Authority: c.Authority, Shard: int(c.ID % 2), Credential: c.ID, CertSerial: c.CertSerial, RevokedAt: w.now, Reason: reason, NotAfter: c.NotAfter,
	}
	w.unlist(c.ID)
	w.revocations = append(w.revocations, row)
	c.State, c.Reason, c.RevokedAt = stateRevoked, reason, w.now
	if kind == CertificateHeld {
		c.State = stateHeld
	}
	w.credentials[c.ID] = c
	w.raise(c.Device)
	w.record(w.entry(kind, &Revoked{
		Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, Device: c.Device, Shard: row.Shard, Reason: reason, RevokedAt: w.now, NotAfter: c.NotAfter,
	}))
}

func (w *world) unlist(id int64) {
	w.revocations = slices.DeleteFunc(w.revocations, func(r RevocationRow) bool { return r.Credential == id })
}

func (w *world) raise(device int64) {
	if d, ok := w.devices[device]; ok {
		d.Version++
		w.devices[device] = d
	}
}

func (w *world) release() {
	c, ok := pick(w, w.credentials, w.credentialIDs)
	if !ok || c.State != stateHeld {
		return
	}
	c.State, c.Reason, c.RevokedAt = stateIssued, 0, time.Time{}
	if !c.ConfirmedAt.IsZero() {
		c.State = stateConfirmed
	}
	if current := slices.Collect(maps.Values(w.devices[c.Device].Current)); c.Device != 0 && !slices.Contains(current, c.ID) {
		c.State = stateSuperseded
	}
	w.credentials[c.ID] = c
	w.unlist(c.ID)
	w.raise(c.Device)
	w.record(w.entry(CertificateFreed, &Released{Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, Device: c.Device}))
}

func (w *world) signCRL() {
	authority, shard := 1+w.r.Int64N(2), w.r.IntN(2)
	i := slices.IndexFunc(w.crls, func(r CRLRow) bool { return r.Authority == authority && r.Shard == shard })
	if i < 0 {
		i = len(w.crls)
		w.crls = append(w.crls, CRLRow{Authority: authority, Shard: shard})
	}
	w.crls[i].Number += 1 + w.r.Int64N(3)
	w.crls[i].SHA256 = w.digest()
	w.record(w.entry(CRLSigned, &SignedCRL{
		Authority: authority, Shard: shard, Number: w.crls[i].Number, ThisUpdate: w.now, NextUpdate: w.now.Add(time.Hour), DER: w.crls[i].SHA256,
	}))
}

// work does n acts.
func (w *world) work(n int) {
	w.t.Helper()
	acts := []func(){
		w.addDevices, w.issue, w.issue, w.issue, w.issue, w.change, w.discard, w.confirm, w.confirm, w.revoke, w.release, w.release, w.release, w.signCRL,
		w.makeToken, w.prove, w.prove, w.resetTPM,
	}
	for range n {
		w.now = w.now.Add(time.Duration(w.r.IntN(5000)) * time.Millisecond)
		acts[w.r.IntN(len(acts))]()
	}
}

// makeToken is an act of the control plane.
func (w *world) makeToken() {
	d := w.digest()
	name := hex.EncodeToString(d[:])
	w.records = append(w.records, RecordRow{Noun: "token", Key: name, Fields: map[string]any{"name": "ci", "all": w.r.IntN(2) == 0}})
	w.record(w.entry(TokenCreated, JSON(map[string]any{"sha256": name, "name": "ci", "all": w.records[len(w.records)-1].Fields["all"]})))
}

// prove gives the newest certificate evidence, mostly by a TPM.
func (w *world) prove() {
	if len(w.credentialIDs) == 0 {
		return
	}
	c := w.credentials[w.credentialIDs[len(w.credentialIDs)-1]]
	if _, twice := w.evidence[c.ID]; twice || c.Device == 0 {
		return
	}
	e := EvidenceRow{ID: c.ID, Device: c.Device, Kind: "chip", Claims: 6, Content: binary.BigEndian.AppendUint64(nil, w.r.Uint64()), At: w.now}
	e.Digest = sha256.Sum256(e.Content)
	body := &KeptEvidence{Credential: e.ID, Device: e.Device, Kind: e.Kind, Claims: e.Claims, Digest: e.Digest}
	if w.r.IntN(5) > 0 {
		e.Kind = "tpm"
		x := TPMRow{
			ID: c.Device ^ 1, EK: sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(c.Device))), Device: c.Device, Chip: w.r.Int64N(3),
			AK: w.digest(), Plain: w.r.IntN(2) == 0, ResetCount: w.r.Uint32(), RestartCount: w.r.Uint32(), Clock: w.r.Uint64(),
			Safe: w.r.IntN(2) == 0, Firmware: w.r.Uint64(), Vendor: "IFX", Model: "SLB 9672", SeenAt: w.now,
		}
		w.tpms[x.ID] = x
		body.Kind, body.EK, body.Chip, body.AK, body.Plain, body.ResetCount = e.Kind, x.EK, x.Chip, x.AK, x.Plain, x.ResetCount
		body.RestartCount, body.Clock, body.Safe, body.Firmware, body.Vendor, body.Model = x.RestartCount, x.Clock, x.Safe, x.Firmware, x.Vendor, x.Model
	}
	w.evidence[e.ID] = e
	w.record(w.entry(EvidenceKept, body))
}

// resetTPM accepts that a TPM was cleared.
func (w *world) resetTPM() {
	x, ok := pick(w, w.tpms, slices.Sorted(maps.Keys(w.tpms)))
	if !ok {
		return
	}
	x.AK, x.Plain, x.ResetCount, x.RestartCount, x.Clock, x.Safe = [32]byte{}, false, 0, 0, 0, false
	w.tpms[x.ID] = x
	w.record(w.entry(TPMReset, &ResetTPM{Device: x.Device}))
}

// hash brings the tree up to date.
func (w *world) hash() {
	w.t.Helper()
	s, err := NewSequencer(SequencerConfig{
		Store: w, Signer: newTestSigner(w.t, testOrigin), Node: "a", Now: func() time.Time { return w.now }, Logger: discard,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.Step(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// copy returns an independent copy of the database.
func (m *memory) copy() *memory {
	c := newMemory()
	c.size, c.fence = m.size, m.fence
	for _, b := range m.batches {
		leaves := make([][]byte, len(b.Leaves))
		for i, l := range b.Leaves {
			leaves[i] = bytes.Clone(l)
		}
		b.Leaves = leaves
		c.batches = append(c.batches, b)
	}
	for k, v := range m.tiles {
		c.tiles[k] = bytes.Clone(v)
	}
	for _, p := range m.checkpoints {
		p.Note = bytes.Clone(p.Note)
		c.checkpoints = append(c.checkpoints, p)
	}
	for k, v := range m.private {
		p := *v
		c.private[k] = &p
	}
	for k, v := range m.devices {
		v.Current, v.Labels = maps.Clone(v.Current), maps.Clone(v.Labels)
		c.devices[k] = v
	}
	for k, v := range m.credentials {
		v.CertSerial, v.DER = bytes.Clone(v.CertSerial), bytes.Clone(v.DER)
		c.credentials[k] = v
	}
	for k, v := range m.evidence {
		v.Content = bytes.Clone(v.Content)
		c.evidence[k] = v
	}
	c.tpms = maps.Clone(m.tpms)
	c.leases, c.serials = maps.Clone(m.leases), maps.Clone(m.serials)
	c.revocations, c.crls, c.records = slices.Clone(m.revocations), slices.Clone(m.crls), slices.Clone(m.records)
	return c
}

// otherDevice returns a device that is not this one.
func (w *world) otherDevice(id int64) int64 {
	i := slices.IndexFunc(w.deviceIDs, func(other int64) bool { return other != id })
	return w.deviceIDs[i]
}
