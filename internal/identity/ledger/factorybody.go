package ledger

import "time"

// States of devices as package device numbers them, see those above.
const (
	stateRegistered  = 1
	stateProvisioned = 2
)

// IssuedUnit is the body of unit.issued: the certificate of the entry before it
// became the initial identity of a unit of a production order. The entry's At is
// the unit's time of issue.
type IssuedUnit struct {
	Credential   int64
	Order        int64
	Device       int64
	Station      int64
	Chip         int64 // used by the device from now on; 0: none
	Spare        bool  // another unit of the device was issued before
	Replaces     int64 // unit that ended with this one; its state is "replaced"
	Reference    string
	Evidence     string
	NonceBlock   int64 // 0: no nonce
	NonceIndex   int64
	ConfirmNonce [32]byte
}

func (b *IssuedUnit) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.int("order", &b.Order, always)
	c.id("device", &b.Device, always)
	c.int("station", &b.Station, unlessZero)
	c.id("chip", &b.Chip, unlessZero)
	c.bool("spare", &b.Spare)
	c.int("replaces", &b.Replaces, unlessZero)
	c.string("reference", &b.Reference, unlessZero)
	c.string("evidence", &b.Evidence, unlessZero)
	c.int("nonce_block", &b.NonceBlock, unlessZero)
	c.int("nonce_index", &b.NonceIndex, unlessZero)
	c.digest("confirm_nonce", &b.ConfirmNonce, always)
}

// AppendJSON implements Body.
func (b *IssuedUnit) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// ConfirmedUnit is the body of unit.confirmed: the unit returned its certificate
// and signed with its key, at the entry's At. It confirms the certificate, unless
// it was in use before, and makes a registered device provisioned, which raises
// the device's version.
type ConfirmedUnit struct {
	Credential int64
	Order      int64
	Device     int64
	Station    int64
	FirstPass  bool
	CycleTime  int64 // milliseconds, 0: not known
}

func (b *ConfirmedUnit) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.int("order", &b.Order, always)
	c.id("device", &b.Device, always)
	c.int("station", &b.Station, unlessZero)
	c.bool("first_pass", &b.FirstPass)
	c.int("cycle_ms", &b.CycleTime, unlessZero)
}

// AppendJSON implements Body.
func (b *ConfirmedUnit) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// EndedUnit is the body of unit.scrapped: a unit was scrapped or lapsed. The
// entries after it revoke the device's certificates. It sets the device's state
// and raises its version.
type EndedUnit struct {
	Credential  int64
	Order       int64
	Device      int64
	Station     int64 // that reported it, 0: none
	State       uint8 // of the unit, after
	DeviceState uint8 // after; 0: as it was
	Reason      [32]byte
}

func (b *EndedUnit) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.int("order", &b.Order, always)
	c.id("device", &b.Device, always)
	c.int("station", &b.Station, unlessZero)
	small(c, "state", &b.State, always)
	small(c, "device_state", &b.DeviceState, unlessZero)
	c.digest("reason_sha256", &b.Reason, unlessZero)
}

// AppendJSON implements Body.
func (b *EndedUnit) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// readBack is what confirming a unit does to its certificate and device.
func (r *register) readBack(at int64, when time.Time, b *ConfirmedUnit) error {
	c, err := r.known(at, b.Credential, b.Device)
	if c == nil {
		return err
	}
	if c.confirmedAt == 0 {
		c.confirmedAt = seconds(when)
	}
	if c.state == stateIssued {
		c.state = stateConfirmed
	}
	if d := r.devices.get(b.Device); d != nil && d.state != stateRegistered {
		return nil
	}
	if err := r.raise(at, b.Device); err != nil {
		return err
	}
	r.devices.get(b.Device).state = stateProvisioned
	return nil
}

// endUnit is what the end of a unit does to its device.
func (r *register) endUnit(at int64, b *EndedUnit) error {
	if err := r.raise(at, b.Device); err != nil {
		return err
	}
	if b.DeviceState != 0 {
		r.devices.get(b.Device).state = b.DeviceState
	}
	return nil
}
