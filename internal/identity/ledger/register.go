package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"slices"
	"time"
)

// States and slots as package device numbers and names them; device imports
// ledger, so a test of package store compares them.
const (
	stateIssued     = 1
	stateConfirmed  = 2
	stateHeld       = 3
	stateSuperseded = 4
	stateRevoked    = 5
)

// register is what the entries say the register must hold. A credential takes
// about 100 octets and a device about 150, whatever their rows hold: of what
// never changes it keeps a keyed digest and the entry to read again when a row
// differs.
type register struct {
	seed         maphash.Seed
	pass, passes uint64
	size         int64 // entries folded

	credentials table[credentialState]
	devices     table[deviceState]
	slotNames   []string
	moreSlots   map[slotKey]int64 // slots of devices after the first
	revoked     map[int64]*revokedState
	releasedAt  map[int64]int64 // entry that ended the newest hold
	leases      []leaseState    // in order of first
	crls        map[crlKey]*crlState
	issued      map[int64]int64 // certificates of each authority
	keys        claims          // of public keys
	serials     claims          // of certificate serials
	units       table[unitState]
	orders      map[int64]*orderState // accounts, by the order's number in the database
	evidence    table[evidenceState]
	tpms        map[[32]byte]*tpmState // by EK
	records     map[recordKey]*recordState
	nouns       map[string]int64 // records of each noun
	restored    int64            // newest entry of a restored backup, 0: none
	scratch     tuple
}

type credentialState struct {
	leaf, touched int64 // entry that issued it, newest entry about it
	index         int64 // in its authority
	digest        uint64
	confirmedAt   int64 // unix seconds, 0: not yet
	state         uint8
	seen          bool
}

type deviceState struct {
	leaf, touched int64 // entry that registered it, newest entry about it
	changed       int64 // entry with the values of rest
	version       int64
	fixed         uint64 // device serial, product, time of registration
	rest          uint64 // region, labels, secret
	site, owner   int64
	order, chip   int64
	builtInto     int64
	spent         uint64 // when and with which key the secret was spent
	credential    int64  // of the first slot
	slot          int16
	slots         int16
	state         uint8
	seen, gone    bool
}

type slotKey struct {
	device int64
	slot   int16
}

type leaseState struct {
	Leased
	leaf, touched int64
	issued        int64
	closed, seen  bool
}

type revokedState struct {
	Revoked
	leaf int64
}

type crlKey struct {
	authority int64
	shard     int
}

type crlState struct {
	leaf   int64
	number int64
	der    [32]byte
}

// claim is that the certificate of an entry has a key or a serial: a digest of
// the value, and the entry's index above 24 bits of a digest of the device. Both
// are keyed anew in each run.
type claim struct{ value, place uint64 }

const deviceBits = 24

func (c claim) leaf() int64 { return int64(c.place >> deviceBits) }

func (c claim) sameDevice(o claim) bool { return (c.place^o.place)<<(64-deviceBits) == 0 }

// claims are in buckets, so that they grow and are sorted a little at a time.
type claims [256][]claim

func (c *claims) add(n claim) {
	b := &c[n.value>>56]
	*b = append(*b, n)
}

func newRegister(seed maphash.Seed, pass, passes uint64) *register {
	return &register{
		seed: seed, pass: pass, passes: passes, moreSlots: map[slotKey]int64{}, revoked: map[int64]*revokedState{}, releasedAt: map[int64]int64{},
		crls: map[crlKey]*crlState{}, issued: map[int64]int64{}, orders: map[int64]*orderState{}, records: map[recordKey]*recordState{},
		nouns: map[string]int64{}, tpms: map[[32]byte]*tpmState{},
	}
}

// mine reports whether this pass looks at the credential or device: with more
// objects than memory the entries are read several times, and each pass takes
// its part. A device and its credentials are in one part.
func (r *register) mine(device, credential int64) bool {
	if r.passes == 1 {
		return true
	}
	if device == 0 {
		device = credential
	}
	return maphash.Comparable(r.seed, device)%r.passes == r.pass
}

// table is rows by number without a pointer or an allocation for each.
type table[T any] struct {
	places map[int64]int32
	chunks [][]T
}

const chunkRows = 4096

func (t *table[T]) get(id int64) *T {
	i, ok := t.places[id]
	if !ok {
		return nil
	}
	return &t.chunks[i/chunkRows][i%chunkRows]
}

func (t *table[T]) add(id int64) *T {
	if t.places == nil {
		t.places = map[int64]int32{}
	}
	i := len(t.places)
	if i%chunkRows == 0 {
		t.chunks = append(t.chunks, make([]T, chunkRows))
	}
	t.places[id] = int32(i)
	return &t.chunks[i/chunkRows][i%chunkRows]
}

// tuple collects values for a digest, so that different values are different
// bytes.
type tuple []byte

func (t *tuple) num(v int64)      { *t = binary.BigEndian.AppendUint64(*t, uint64(v)) }
func (t *tuple) raw(v []byte)     { t.num(int64(len(v))); *t = append(*t, v...) }
func (t *tuple) text(v string)    { t.num(int64(len(v))); *t = append(*t, v...) }
func (t *tuple) when(v time.Time) { t.num(seconds(v)) }

// seconds is a time as rows are compared, 0 for none.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (r *register) sum(fill func(t *tuple)) uint64 {
	r.scratch = r.scratch[:0]
	fill(&r.scratch)
	return maphash.Bytes(r.seed, r.scratch)
}

// credentialDigest covers what never changes in a credential's row. Site and
// owner follow the device, where there is one.
func (r *register) credentialDigest(c *CredentialRow, der *[32]byte) uint64 {
	return r.sum(func(t *tuple) {
		t.raw(c.CertSerial)
		for _, v := range [...]int64{c.ID, c.Authority, c.AuthorityIndex, c.Profile, c.Device, c.Product, int64(c.KeyKind), c.Previous} {
			t.num(v)
		}
		if c.Device == 0 {
			t.num(c.Site)
			t.num(c.Owner)
		}
		t.text(c.Kind)
		t.text(c.Purpose)
		t.when(c.NotBefore)
		t.when(c.NotAfter)
		t.when(c.IssuedAt)
		t.raw(c.SPKI[:])
		t.raw(c.Idempotency[:])
		t.raw(der[:])
	})
}

func (r *register) fixedDigest(d *DeviceRow) uint64 {
	return r.sum(func(t *tuple) {
		t.text(d.DeviceSerial)
		t.num(d.Product)
		t.when(d.RegisteredAt)
	})
}

func (r *register) restDigest(region string, labels, secret *[32]byte) uint64 {
	return r.sum(func(t *tuple) {
		t.text(region)
		t.raw(labels[:])
		t.raw(secret[:])
	})
}

func (r *register) spentDigest(at time.Time, spki *[32]byte) uint64 {
	return r.sum(func(t *tuple) {
		t.when(at)
		t.raw(spki[:])
	})
}

// row returns the row that a certificate.issued entry makes.
func (b *Issued) row(at time.Time, index int64) CredentialRow {
	return CredentialRow{
		ID: b.Credential, CertSerial: b.CertSerial, Authority: b.Authority, AuthorityIndex: index, Profile: b.Profile,
		Kind: b.Kind, Purpose: b.Purpose, Device: b.Device, Product: b.Product, Site: b.Site, Owner: b.Owner, State: stateIssued,
		KeyKind: b.KeyKind, NotBefore: b.NotBefore, NotAfter: b.NotAfter, SPKI: b.SPKI, Idempotency: b.Idempotency,
		Previous: b.Previous, IssuedAt: at,
	}
}

// broken is an entry that contradicts those before it.
func broken(format string, args ...any) error { return fmt.Errorf(format, args...) }

// fold applies the entry with the next index. What it refuses could not have
// been written by the product.
func (r *register) fold(p *Parsed) error {
	at := r.size
	r.size++
	switch b := p.Body.(type) {
	case *Leased:
		return r.lease(at, b)
	case *Closed:
		return r.close(at, b)
	case *Issued:
		return r.issue(at, p.At, b)
	case *Confirmed:
		return r.confirm(at, p.At, b)
	case *Revoked:
		return r.revoke(at, p.Kind, b)
	case *Released:
		return r.release(at, b)
	case *SignedCRL:
		return r.crl(at, b)
	case *Registered:
		return r.enlist(at, p.At, b)
	case *Changed:
		return r.change(at, b)
	case *Discarded:
		return r.discard(at, b)
	case *IssuedUnit:
		return r.issueUnit(at, p.At, b)
	case *ConfirmedUnit:
		return r.confirmUnit(at, p.At, b)
	case *EndedUnit:
		return r.scrapUnit(at, b)
	case *KeptEvidence:
		return r.keepEvidence(at, p.At, b)
	case *ResetTPM:
		return r.resetTPM(at, b)
	case Raw:
		if p.Kind == UnitsBuiltIn {
			return r.buildIn(at, b)
		}
		return r.record(at, p.Kind, b)
	}
	return nil
}

func leaseOrder(l leaseState, first int64) int { return cmp.Compare(l.First, first) }

func (r *register) leaseOf(id int64) *leaseState {
	i, found := slices.BinarySearchFunc(r.leases, id, leaseOrder)
	if !found {
		i--
	}
	if i < 0 || id-r.leases[i].First >= r.leases[i].Count {
		return nil
	}
	return &r.leases[i]
}

// maxBlock is more serials than a block has.
const maxBlock = 1 << 24

func (r *register) lease(at int64, b *Leased) error {
	if b.First < 1 || b.Count < 1 || b.Count > maxBlock || b.First > math.MaxInt64-maxBlock {
		return broken("a block of %d serials from %d", b.Count, b.First)
	}
	i, found := slices.BinarySearchFunc(r.leases, b.First, leaseOrder)
	if found || i > 0 && r.leases[i-1].First+r.leases[i-1].Count > b.First || i < len(r.leases) && b.First+b.Count > r.leases[i].First {
		return broken("the block of serials from %d overlaps another", b.First)
	}
	r.leases = slices.Insert(r.leases, i, leaseState{Leased: *b, leaf: at, touched: at})
	return nil
}

func (r *register) close(at int64, b *Closed) error {
	l := r.leaseOf(b.First)
	if l == nil || l.First != b.First || l.Count != b.Count {
		return broken("it closes a block of serials from %d that was never leased", b.First)
	}
	if l.closed {
		return broken("it closes the block of serials from %d a second time", b.First)
	}
	l.closed, l.touched = true, at
	abandoned, next := int64(0), b.First
	for _, a := range b.Abandoned {
		if a[0] < next || a[1] < a[0] || a[1] >= b.First+b.Count {
			return broken("its ranges are not in order")
		}
		abandoned += a[1] - a[0] + 1
		next = a[1] + 1
		for id := a[0]; id <= a[1]; id++ {
			if c := r.credentials.get(id); c != nil {
				return broken("it abandons certificate %d, which entry %d issued", id, c.leaf)
			}
		}
	}
	if abandoned+l.issued != b.Count {
		return broken("of %d serials from %d, %d were used and %d are said to be abandoned", b.Count, b.First, l.issued, abandoned)
	}
	return nil
}

func (r *register) issue(at int64, when time.Time, b *Issued) error {
	l := r.leaseOf(b.Credential)
	switch {
	case l == nil:
		return broken("certificate %d is outside every block of serials", b.Credential)
	case l.closed:
		return broken("certificate %d is of a block of serials that entry %d closed", b.Credential, l.touched)
	}
	l.issued++
	index := r.issued[b.Authority]
	r.issued[b.Authority]++
	r.claim(&r.keys, b.SPKI[:], at, b.Device)
	r.claim(&r.serials, b.CertSerial, at, b.Device)
	if !r.mine(b.Device, b.Credential) {
		return nil
	}
	if c := r.credentials.get(b.Credential); c != nil {
		return broken("certificate %d was issued before, by entry %d", b.Credential, c.leaf)
	}
	row := b.row(when, index)
	*r.credentials.add(b.Credential) = credentialState{
		leaf: at, touched: at, index: index, digest: r.credentialDigest(&row, &b.DER), state: stateIssued,
	}
	if b.Supersedes != 0 {
		if err := r.supersede(at, b); err != nil {
			return err
		}
	}
	if b.Device == 0 {
		return nil
	}
	return r.enroll(at, when, b)
}

func (r *register) claim(c *claims, value []byte, leaf, device int64) {
	if v := maphash.Bytes(r.seed, value); v%r.passes == r.pass {
		c.add(claim{v, uint64(leaf)<<deviceBits | maphash.Comparable(r.seed, device)>>(64-deviceBits)})
	}
}

func (r *register) supersede(at int64, b *Issued) error {
	old := r.credentials.get(b.Supersedes)
	if old == nil {
		return broken("it supersedes certificate %d, which was never issued to this device", b.Supersedes)
	}
	old.touched = at
	if old.state == stateIssued || old.state == stateConfirmed {
		old.state = stateSuperseded
	}
	return nil
}

func (r *register) enroll(at int64, when time.Time, b *Issued) error {
	d := r.devices.get(b.Device)
	if d == nil {
		return broken("certificate %d is of device %016x, which was never registered", b.Credential, b.Device)
	}
	if b.DeviceVersion <= d.version {
		return broken("device %016x goes from version %d to %d", b.Device, d.version, b.DeviceVersion)
	}
	d.touched, d.version, d.state = at, b.DeviceVersion, b.DeviceState
	r.setSlot(d, b.Device, b.Slot, b.Credential)
	if b.SecretSpent {
		d.spent = r.spentDigest(when, &b.SPKI)
	}
	return nil
}

func (r *register) setSlot(d *deviceState, device int64, name string, credential int64) {
	slot := int16(slices.Index(r.slotNames, name))
	if slot < 0 {
		slot = int16(len(r.slotNames))
		r.slotNames = append(r.slotNames, name)
	}
	if d.slots == 0 {
		d.slot, d.slots = slot, 1
	}
	if d.slot == slot {
		d.credential = credential
		return
	}
	if _, ok := r.moreSlots[slotKey{device, slot}]; !ok {
		d.slots++
	}
	r.moreSlots[slotKey{device, slot}] = credential
}

// current returns the credential in a device's slot, 0 if there is none.
func (r *register) current(d *deviceState, device int64, name string) int64 {
	slot := int16(slices.Index(r.slotNames, name))
	switch {
	case slot < 0 || d.slots == 0:
		return 0
	case d.slot == slot:
		return d.credential
	}
	return r.moreSlots[slotKey{device, slot}]
}

// known returns a credential that an act is about; nil when another pass looks
// at it.
func (r *register) known(at, id, device int64) (*credentialState, error) {
	if !r.mine(device, id) {
		return nil, nil
	}
	c := r.credentials.get(id)
	if c == nil {
		return nil, broken("it is about certificate %d, which was never issued", id)
	}
	c.touched = at
	return c, nil
}

func (r *register) confirm(at int64, when time.Time, b *Confirmed) error {
	c, err := r.known(at, b.Credential, b.Device)
	if c == nil {
		return err
	}
	if c.confirmedAt != 0 {
		return broken("certificate %d was confirmed before", b.Credential)
	}
	c.confirmedAt = seconds(when)
	if c.state == stateIssued {
		c.state = stateConfirmed
	}
	return nil
}

func (r *register) revoke(at int64, kind Kind, b *Revoked) error {
	before := r.revoked[b.Credential]
	held := before != nil && before.Reason == reasonHold
	if before != nil && (!held || kind == CertificateHeld) {
		return broken("certificate %d is revoked or held already", b.Credential)
	}
	if (kind == CertificateHeld) != (b.Reason == reasonHold) {
		return broken("the reason is %d", b.Reason)
	}
	r.revoked[b.Credential] = &revokedState{*b, at}
	c, err := r.known(at, b.Credential, b.Device)
	if c == nil {
		return err
	}
	c.state = stateRevoked
	if b.Reason == reasonHold {
		c.state = stateHeld
	}
	return r.raise(at, b.Device)
}

// reasonHold is certificateHold (RFC 5280, section 5.3.1).
const reasonHold = 6

func (r *register) release(at int64, b *Released) error {
	if held := r.revoked[b.Credential]; held == nil || held.Reason != reasonHold {
		return broken("certificate %d is not on hold", b.Credential)
	}
	delete(r.revoked, b.Credential)
	r.releasedAt[b.Credential] = at
	c, err := r.known(at, b.Credential, b.Device)
	if c == nil {
		return err
	}
	switch {
	case b.Device != 0 && !r.isCurrent(b.Device, b.Credential):
		c.state = stateSuperseded
	case c.confirmedAt != 0:
		c.state = stateConfirmed
	default:
		c.state = stateIssued
	}
	return r.raise(at, b.Device)
}

// isCurrent reports whether a credential is in one of its device's slots.
func (r *register) isCurrent(device, credential int64) bool {
	d := r.devices.get(device)
	if d == nil {
		return false
	}
	if d.slots > 0 && d.credential == credential {
		return true
	}
	for slot := range r.slotNames {
		if r.moreSlots[slotKey{device, int16(slot)}] == credential {
			return true
		}
	}
	return false
}

// raise is what revoking and releasing do to a device.
func (r *register) raise(at, device int64) error {
	if device == 0 {
		return nil
	}
	d := r.devices.get(device)
	if d == nil {
		return broken("it is about device %016x, which was never registered", device)
	}
	d.touched = at
	d.version++
	return nil
}

func (r *register) crl(at int64, b *SignedCRL) error {
	k := crlKey{b.Authority, b.Shard}
	if old := r.crls[k]; old != nil && b.Number <= old.number {
		return broken("CRL number %d follows %d", b.Number, old.number)
	}
	r.crls[k] = &crlState{leaf: at, number: b.Number, der: b.DER}
	return nil
}

func (r *register) enlist(at int64, when time.Time, b *Registered) error {
	if !r.mine(b.Device, 0) {
		return nil
	}
	d := r.devices.get(b.Device)
	if d == nil {
		d = r.devices.add(b.Device)
	} else if !d.gone {
		return broken("device %016x was registered before, by entry %d", b.Device, d.leaf)
	}
	row := b.row(when)
	*d = deviceState{
		leaf: at, touched: at, changed: at, version: b.Version, state: b.State, site: b.Site, owner: b.Owner,
		fixed: r.fixedDigest(&row), rest: r.restDigest(b.Region, &b.Labels, &b.Secret), spent: r.spentDigest(time.Time{}, new([32]byte)),
	}
	return nil
}

// discard takes back a registration that never became visible.
func (r *register) discard(at int64, b *Discarded) error {
	if !r.mine(b.Device, 0) {
		return nil
	}
	d := r.devices.get(b.Device)
	if d == nil || d.gone {
		return broken("device %016x is not registered", b.Device)
	}
	if d.slots > 0 {
		return broken("device %016x has certificates", b.Device)
	}
	d.gone, d.touched = true, at
	return nil
}

func (b *Registered) row(at time.Time) DeviceRow {
	return DeviceRow{
		ID: b.Device, DeviceSerial: b.DeviceSerial, Product: b.Product, Site: b.Site, Owner: b.Owner, Region: b.Region,
		State: b.State, Version: b.Version, Secret: b.Secret, RegisteredAt: at,
	}
}

func (r *register) change(at int64, b *Changed) error {
	if !r.mine(b.Device, 0) {
		return nil
	}
	d := r.devices.get(b.Device)
	if d == nil {
		return broken("device %016x was never registered", b.Device)
	}
	if b.Version <= d.version {
		return broken("device %016x goes from version %d to %d", b.Device, d.version, b.Version)
	}
	d.touched, d.changed, d.version, d.state, d.site, d.owner = at, at, b.Version, b.State, b.Site, b.Owner
	d.rest = r.restDigest(b.Region, &b.Labels, &b.Secret)
	d.spent = r.spentDigest(b.SecretSpent, &b.SecretSPKI)
	return nil
}

// shared yields the claims to a value that was claimed before, each after the
// one before it.
func (c *claims) shared() iter.Seq2[claim, claim] {
	return func(yield func(earlier, later claim) bool) {
		for _, bucket := range c {
			slices.SortFunc(bucket, func(a, b claim) int { return cmp.Or(cmp.Compare(a.value, b.value), cmp.Compare(a.place, b.place)) })
			for i := 1; i < len(bucket); i++ {
				if bucket[i-1].value == bucket[i].value && !yield(bucket[i-1], bucket[i]) {
					return
				}
			}
		}
	}
}
