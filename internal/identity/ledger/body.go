package ledger

import (
	"crypto/sha256"
	"maps"
	"slices"
	"time"
)

// fields is a body that lists its fields for the coder.
type fields interface {
	Body
	fields(c *coder)
}

// newBody returns an empty body of the kinds whose form this package fixes, and
// nil for all others, whose body is any JSON object.
func newBody(k Kind) fields {
	switch k {
	case CertificateIssued:
		return new(Issued)
	case CertificateUsed:
		return new(Confirmed)
	case CertificateRevoked, CertificateHeld:
		return new(Revoked)
	case CertificateFreed:
		return new(Released)
	case CRLSigned:
		return new(SignedCRL)
	case DeviceRegistered:
		return new(Registered)
	case DeviceChanged, SecretRenewed:
		return new(Changed)
	case DeviceDiscarded:
		return new(Discarded)
	case SerialsLeased:
		return new(Leased)
	case SerialsClosed:
		return new(Closed)
	case UnitIssued:
		return new(IssuedUnit)
	case UnitConfirmed:
		return new(ConfirmedUnit)
	case UnitScrapped:
		return new(EndedUnit)
	case EvidenceKept:
		return new(KeptEvidence)
	case EvidenceRefused:
		return new(RefusedEvidence)
	case TPMReset:
		return new(ResetTPM)
	}
	return nil
}

// Issued is the body of certificate.issued: the certificate's row and what the
// issuance did to its device. The entry's At is the row's time of issue. The
// index in the authority is not here: it is the rank of this entry among the
// authority's certificate.issued entries, from 0.
type Issued struct {
	Credential     int64
	CertSerial     []byte
	Authority      int64
	AuthorityName  string
	Profile        int64 // id of the profile version
	ProfileName    string
	ProfileVersion int64
	Kind           string
	Purpose        string
	Device         int64 // 0: a certificate without device
	DeviceSerial   string
	DeviceVersion  int64 // after the issuance
	DeviceState    uint8 // after the issuance
	Slot           string
	SecretSpent    bool // the one-time secret was spent with this key
	Supersedes     int64
	Product        int64
	Site           int64
	Owner          int64
	KeyKind        uint8
	NotBefore      time.Time
	NotAfter       time.Time
	SPKI           [32]byte // SHA-256 of the SubjectPublicKeyInfo
	DER            [32]byte // SHA-256 of the certificate
	Idempotency    [32]byte
	Previous       int64
	Approval       int64
}

func (b *Issued) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.bytes("serial", &b.CertSerial, always)
	c.int("authority", &b.Authority, always)
	c.string("authority_name", &b.AuthorityName, unlessZero)
	c.int("profile", &b.Profile, always)
	c.string("profile_name", &b.ProfileName, unlessZero)
	c.int("profile_version", &b.ProfileVersion, unlessZero)
	c.string("kind", &b.Kind, always)
	c.string("purpose", &b.Purpose, unlessZero)
	c.id("device", &b.Device, unlessZero)
	c.string("device_serial", &b.DeviceSerial, unlessZero)
	c.int("device_version", &b.DeviceVersion, unlessZero)
	small(c, "device_state", &b.DeviceState, unlessZero)
	c.string("slot", &b.Slot, unlessZero)
	c.bool("secret_spent", &b.SecretSpent)
	c.int("supersedes", &b.Supersedes, unlessZero)
	c.int("product", &b.Product, unlessZero)
	c.int("site", &b.Site, unlessZero)
	c.int("owner", &b.Owner, unlessZero)
	small(c, "key_kind", &b.KeyKind, unlessZero)
	c.time("not_before", &b.NotBefore, always)
	c.time("not_after", &b.NotAfter, always)
	c.digest("spki_sha256", &b.SPKI, always)
	c.digest("certificate_sha256", &b.DER, always)
	c.digest("idempotency", &b.Idempotency, unlessZero)
	c.int("previous", &b.Previous, unlessZero)
	c.int("approval", &b.Approval, unlessZero)
}

// AppendJSON implements Body.
func (b *Issued) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Confirmed is the body of certificate.confirmed: the credential was used for
// the first time, at the entry's At.
type Confirmed struct {
	Credential int64
	Device     int64
}

func (b *Confirmed) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.id("device", &b.Device, unlessZero)
}

// AppendJSON implements Body.
func (b *Confirmed) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Revoked is the body of certificate.revoked and of certificate.held: the row
// of the revocation list. It raises the version of the credential's device.
type Revoked struct {
	Credential int64
	CertSerial []byte
	Authority  int64
	Device     int64 // 0: a certificate without device
	Shard      int
	Reason     int // CRL reason code
	RevokedAt  time.Time
	NotAfter   time.Time
	Approval   int64
}

func (b *Revoked) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.bytes("serial", &b.CertSerial, always)
	c.int("authority", &b.Authority, always)
	c.id("device", &b.Device, unlessZero)
	small(c, "shard", &b.Shard, unlessZero)
	small(c, "reason", &b.Reason, always)
	c.time("revoked_at", &b.RevokedAt, always)
	c.time("not_after", &b.NotAfter, always)
	c.int("approval", &b.Approval, unlessZero)
}

// AppendJSON implements Body.
func (b *Revoked) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Released is the body of certificate.released: a hold ended. The credential is
// superseded then if another is in its slot, else confirmed or issued as before.
// It raises the version of the credential's device.
type Released struct {
	Credential int64
	CertSerial []byte
	Authority  int64
	Device     int64
	Approval   int64
}

func (b *Released) fields(c *coder) {
	c.int("credential", &b.Credential, always)
	c.bytes("serial", &b.CertSerial, always)
	c.int("authority", &b.Authority, always)
	c.id("device", &b.Device, unlessZero)
	c.int("approval", &b.Approval, unlessZero)
}

// AppendJSON implements Body.
func (b *Released) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// SignedCRL is the body of crl.signed.
type SignedCRL struct {
	Authority  int64
	Shard      int
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    int
	DER        [32]byte // SHA-256 of the list
}

func (b *SignedCRL) fields(c *coder) {
	c.int("authority", &b.Authority, always)
	small(c, "shard", &b.Shard, unlessZero)
	c.int("number", &b.Number, always)
	c.time("this_update", &b.ThisUpdate, always)
	c.time("next_update", &b.NextUpdate, always)
	small(c, "entries", &b.Entries, always)
	c.digest("crl_sha256", &b.DER, always)
}

// AppendJSON implements Body.
func (b *SignedCRL) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Registered is the body of device.registered. The entry's At is the row's time
// of registration.
type Registered struct {
	Device       int64
	DeviceSerial string
	Product      int64
	Version      int64
	State        uint8
	Site         int64
	Owner        int64
	Region       string
	Labels       [32]byte // LabelsDigest
	Secret       [32]byte // the register's hash of the one-time secret; zero: none
}

func (b *Registered) fields(c *coder) {
	c.id("device", &b.Device, always)
	c.string("device_serial", &b.DeviceSerial, always)
	c.int("product", &b.Product, unlessZero)
	c.int("version", &b.Version, unlessZero)
	small(c, "state", &b.State, always)
	c.int("site", &b.Site, unlessZero)
	c.int("owner", &b.Owner, unlessZero)
	c.string("region", &b.Region, unlessZero)
	c.digest("labels_sha256", &b.Labels, unlessZero)
	c.digest("secret_sha256", &b.Secret, unlessZero)
}

// AppendJSON implements Body.
func (b *Registered) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Changed is the body of device.changed and of device.secret-renewed: all that
// a change may set, as it is afterwards.
type Changed struct {
	Device      int64
	Version     int64
	State       uint8
	Site        int64
	Owner       int64
	Region      string
	Labels      [32]byte
	Secret      [32]byte  // as in Registered
	SecretSpent time.Time // zero: not spent
	SecretSPKI  [32]byte  // key that spent it
}

func (b *Changed) fields(c *coder) {
	c.id("device", &b.Device, always)
	c.int("version", &b.Version, always)
	small(c, "state", &b.State, always)
	c.int("site", &b.Site, unlessZero)
	c.int("owner", &b.Owner, unlessZero)
	c.string("region", &b.Region, unlessZero)
	c.digest("labels_sha256", &b.Labels, unlessZero)
	c.digest("secret_sha256", &b.Secret, unlessZero)
	c.time("secret_spent", &b.SecretSpent, unlessZero)
	c.digest("secret_spki", &b.SecretSPKI, unlessZero)
}

// AppendJSON implements Body.
func (b *Changed) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Discarded is the body of device.discarded: the device of a staged
// registration that was given up. It never was visible, and its serial is free.
type Discarded struct {
	Device int64
}

func (b *Discarded) fields(c *coder) { c.id("device", &b.Device, always) }

// AppendJSON implements Body.
func (b *Discarded) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Leased is the body of serials.leased: the block of credential ids that starts
// with First, which is also the lease's number. The digest of the seed commits
// to every certificate serial of the block before one is signed.
type Leased struct {
	Node  string
	Fence int64
	First int64
	Count int64
	Seed  [32]byte // SHA-256 of the seed
}

func (b *Leased) fields(c *coder) {
	c.string("node", &b.Node, always)
	c.int("fence", &b.Fence, always)
	c.int("first", &b.First, always)
	c.int("count", &b.Count, always)
	c.digest("seed_sha256", &b.Seed, always)
}

// AppendJSON implements Body.
func (b *Leased) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Closed is the body of serials.closed: from here on no certificate takes a
// number of this block. Abandoned lists, first to last, the numbers that none
// took.
type Closed struct {
	Node      string
	First     int64
	Count     int64
	Abandoned [][2]int64
}

func (b *Closed) fields(c *coder) {
	c.string("node", &b.Node, always)
	c.int("first", &b.First, always)
	c.int("count", &b.Count, always)
	c.ranges("abandoned", &b.Abandoned)
}

// AppendJSON implements Body.
func (b *Closed) AppendJSON(dst []byte) []byte { return appendObject(dst, b) }

// Raw is the body of a decoded entry whose form this package does not fix.
type Raw []byte

// AppendJSON implements Body.
func (r Raw) AppendJSON(dst []byte) []byte { return append(dst, r...) }

// LabelsDigest is what leaves say of a device's labels, which may name people
// and must stay erasable: a digest of keys and values in order, zero for none.
func LabelsDigest(labels map[string]string) (digest [32]byte) {
	if len(labels) == 0 {
		return digest
	}
	var text []byte
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		text = appendString(text, k)
		text = appendString(text, labels[k])
	}
	return sha256.Sum256(text)
}

func appendObject(dst []byte, b fields) []byte {
	c := coder{buf: append(dst, '{')}
	b.fields(&c)
	return append(c.buf, '}')
}
