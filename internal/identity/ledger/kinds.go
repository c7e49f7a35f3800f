package ledger

// The kinds of acts, each with the class its followers listen to.
const (
	AuthorityCreated   Kind = "authority.created"
	AuthorityImported  Kind = "authority.imported"
	AuthorityRetired   Kind = "authority.retired"
	AuthorityRevoked   Kind = "authority.revoked"
	ProfileImported    Kind = "profile.imported"
	ProductAdded       Kind = "product.added"
	ProductChanged     Kind = "product.changed"
	LabelSet           Kind = "label.set"
	DeviceRegistered   Kind = "device.registered"
	DeviceChanged      Kind = "device.changed"
	SecretRenewed      Kind = "device.secret-renewed"
	DeviceDiscarded    Kind = "device.discarded" // a staged registration was given up
	SerialsLeased      Kind = "serials.leased"
	SerialsClosed      Kind = "serials.closed"
	CertificateIssued  Kind = "certificate.issued"
	CertificateUsed    Kind = "certificate.confirmed"
	CertificateRevoked Kind = "certificate.revoked"
	CertificateHeld    Kind = "certificate.held"
	CertificateFreed   Kind = "certificate.released"
	CRLSigned          Kind = "crl.signed"
	TokenCreated       Kind = "token.created"
	TokenRevoked       Kind = "token.revoked"
	OperatorChanged    Kind = "operator.changed"
	ApprovalRequested  Kind = "approval.requested"
	ApprovalDecided    Kind = "approval.decided"
	ApprovalExecuted   Kind = "approval.executed"
	NodeStarted        Kind = "node.started"
	ClockAccepted      Kind = "clock.accepted"
	BackupMade         Kind = "backup.made"
	BackupRestored     Kind = "backup.restored"
	Installed          Kind = "installation.created"
	SiteAdded          Kind = "site.added"
	StationAdded       Kind = "station.added"
	StationChanged     Kind = "station.changed"
	OrderCreated       Kind = "order.created"
	OrderChanged       Kind = "order.changed" // amended, opened, closed, canceled: the whole terms after the act
	SignerPinned       Kind = "signer.pinned"
	SignerWithdrawn    Kind = "signer.withdrawn"
	ManifestStaged     Kind = "manifest.staged"
	ManifestImported   Kind = "manifest.imported"
	ManifestDiscarded  Kind = "manifest.discarded"
	ChipChanged        Kind = "chip.changed"
	NoncesDrawn        Kind = "nonces.drawn"
	UnitIssued         Kind = "unit.issued"
	UnitConfirmed      Kind = "unit.confirmed"
	UnitScrapped       Kind = "unit.scrapped" // also replaced and lapsed
	UnitFailed         Kind = "unit.failed"
	UnitsShipped       Kind = "units.shipped"
	UnitsBuiltIn       Kind = "units.built-in"
	AlarmRaised        Kind = "alarm.raised"
	AlarmChanged       Kind = "alarm.changed"
	WebhookChanged     Kind = "webhook.changed"
	KeysErased         Kind = "wrapped-keys.erased"
	EvidenceKept       Kind = "evidence.accepted" // follows the certificate.issued that rests on it
	EvidenceRefused    Kind = "evidence.refused"
	RootsImported      Kind = "tpm-roots.imported"
	TPMPolicySet       Kind = "tpm-policy.set"
	TPMReset           Kind = "tpm.reset"
)

// ClassOf returns the class of a kind; an unknown kind has all classes, so that
// a follower that is older than the writer drops too much rather than too
// little.
func ClassOf(k Kind) Class {
	switch k {
	case CertificateIssued, CertificateUsed, SerialsLeased, SerialsClosed:
		return ClassIssuance
	case CertificateRevoked, CertificateHeld, CertificateFreed, CRLSigned:
		return ClassStatus
	case AuthorityCreated, AuthorityImported, AuthorityRetired, ProfileImported, ProductAdded, ProductChanged, LabelSet:
		return ClassControl
	case AuthorityRevoked:
		return ClassControl | ClassStatus
	case DeviceRegistered, DeviceChanged, SecretRenewed, DeviceDiscarded:
		return ClassDevice
	case TokenCreated, TokenRevoked, OperatorChanged, ApprovalRequested, ApprovalDecided, ApprovalExecuted:
		return ClassAccess
	case RootsImported, TPMPolicySet:
		return ClassControl
	case EvidenceKept:
		return ClassIssuance
	case EvidenceRefused, TPMReset:
		return ClassDevice
	case SiteAdded, StationAdded, StationChanged, OrderCreated, OrderChanged:
		return ClassControl
	case UnitIssued:
		return ClassIssuance
	case UnitConfirmed:
		return ClassIssuance | ClassFactory
	case UnitScrapped:
		return ClassStatus | ClassFactory
	case SignerPinned, SignerWithdrawn, ManifestStaged, ManifestImported, ManifestDiscarded, ChipChanged, NoncesDrawn,
		UnitFailed, UnitsShipped, UnitsBuiltIn, AlarmRaised, AlarmChanged, WebhookChanged, KeysErased:
		return ClassFactory
	case NodeStarted, ClockAccepted, BackupMade, BackupRestored, Installed:
		return ClassSystem
	}
	return ^Class(0)
}
