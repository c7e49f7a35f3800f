package ledger

// KeptEvidence is the body of evidence.accepted: what the hardware showed for the
// certificate of the certificate.issued entry before it, at the entry's At. Where
// it names an endorsement key, that TPM is the device's from here on, with these
// counters.
type KeptEvidence struct {
	Credential int64
	Device     int64
	Kind       string   // attest.Kind
	Claims     uint8    // attest.Claims
	Digest     [32]byte // SHA-256 of the evidence as kept

	// The TPM, as device.TPMState has it.
	EK           [32]byte // SHA-256 of the endorsement key's SubjectPublicKeyInfo; zero: no TPM
	Chip         int64    // manifest entry; 0: none
	AK           [32]byte // SHA-256 of the Name of the attestation key
	Plain        bool     // the counts and the firmware are not masked for this AK
	ResetCount   uint32
	RestartCount uint32
	Clock        uint64 // milliseconds
	Safe         bool
	Firmware     uint64 // TPMS_ATTEST's firmwareVersion
	Vendor       string
	Model        string
}

func (b *KeptEvidence) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.id("device", &b.Device, always)
	c.string("evidence", &b.Kind, always)
	small(c, "claims", &b.Claims, always)
	c.digest("evidence_sha256", &b.Digest, always)
	c.digest("ek_sha256", &b.EK, unlessZero)
	c.id("chip", &b.Chip, unlessZero)
	c.digest("ak_sha256", &b.AK, unlessZero)
	c.bool("plain", &b.Plain)
	small(c, "reset_count", &b.ResetCount, unlessZero)
	small(c, "restart_count", &b.RestartCount, unlessZero)
	c.word("clock", &b.Clock)
	c.bool("safe", &b.Safe)
	c.word("firmware", &b.Firmware)
	c.string("vendor", &b.Vendor, unlessZero)
	c.string("model", &b.Model, unlessZero)
}

// AppendJSON implements Body.
func (b *KeptEvidence) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// RefusedEvidence is the body of evidence.refused: the first step of proof that
// failed, for a requester who was known. Nothing was issued.
type RefusedEvidence struct {
	Code         string // such as "BM-9042"
	Device       int64  // 0: not registered yet
	DeviceSerial string
	Order        int64    // production order of a station's request; 0: none
	Station      int64    // 0: the device itself asked
	EK           [32]byte // as far as it was shown; zero: not
	Detail       string   // what the refusal says besides its code
}

func (b *RefusedEvidence) fields(c *coder) {
	c.string("code", &b.Code, always)
	c.id("device", &b.Device, unlessZero)
	c.string("device_serial", &b.DeviceSerial, unlessZero)
	c.int("order", &b.Order, unlessZero)
	c.int("station", &b.Station, unlessZero)
	c.digest("ek_sha256", &b.EK, unlessZero)
	c.string("detail", &b.Detail, unlessZero)
}

// AppendJSON implements Body.
func (b *RefusedEvidence) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// ResetTPM is the body of tpm.reset: an operator accepted that the counters of a
// device's TPM begin anew. Those that were seen last are forgotten.
type ResetTPM struct {
	Device int64
	Reason [32]byte // SHA-256 of the reason, which may name a person; zero: none
}

func (b *ResetTPM) fields(c *coder) {
	c.id("device", &b.Device, always)
	c.digest("reason_sha256", &b.Reason, unlessZero)
}

// AppendJSON implements Body.
func (b *ResetTPM) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }
