package fault

// 8xxx: the factory: sites, stations, manifests, chips, orders, units.
const (
	SiteUnknown        Code = 8001
	SiteExists         Code = 8002
	StationUnknown     Code = 8010
	StationExists      Code = 8011
	StationState       Code = 8012
	StationCode        Code = 8013
	StationNotAssigned Code = 8014
	StationCertificate Code = 8015
	OrderUnknown       Code = 8020
	OrderExists        Code = 8021
	OrderState         Code = 8022
	OrderFull          Code = 8023
	SparesUsed         Code = 8024
	OrderTerms         Code = 8025
	OrderFrozen        Code = 8026
	ManifestFormat     Code = 8030
	ManifestSignature  Code = 8031
	ManifestSigner     Code = 8032
	ManifestEntry      Code = 8033
	ManifestDuplicate  Code = 8034
	ManifestLimit      Code = 8035
	ManifestUnknown    Code = 8036
	SignerUnknown      Code = 8037
	SignerExists       Code = 8038
	ManifestBusy       Code = 8039
	ChipUnknown        Code = 8040
	ChipUsed           Code = 8041
	ChipNotProvable    Code = 8042
	ChipOtherProduct   Code = 8043
	ChipOtherOrder     Code = 8044
	ChipWithdrawn      Code = 8045
	ChipProof          Code = 8046
	ChipProofMissing   Code = 8047
	NonceInvalid       Code = 8050
	NonceUsed          Code = 8051
	NonceExpired       Code = 8052
	UnitSerialRange    Code = 8060
	UnitSerialTaken    Code = 8061
	UnitUnknown        Code = 8062
	UnitState          Code = 8063
	UnitReference      Code = 8064
	ReadBackWrong      Code = 8065
	KeyModel           Code = 8066
	WrappedKeyGone     Code = 8067
	RecipientInvalid   Code = 8068
	BundleInvalid      Code = 8070
	BundleSignature    Code = 8071
	AlarmUnknown       Code = 8080
	WebhookUnknown     Code = 8081
	WebhookInvalid     Code = 8082
	StationLink        Code = 8090
	StationQueue       Code = 8091
	FixtureFailed      Code = 8092
	FixtureProtocol    Code = 8093
	StationClock       Code = 8094
)

var factoryEntries = []Entry{
	{SiteUnknown, NotFound, "there is no such site", "add the site first, or check its name"},
	{SiteExists, Conflict, "a site with this name exists", "choose another name"},
	{StationUnknown, NotFound, "there is no such station", "add the station first, or check its name"},
	{StationExists, Conflict, "a station with this name exists", "choose another name, or make a new code to replace its computer"},
	{StationState, Forbidden, "the station is suspended or retired", "a line lead can resume a suspended station"},
	{StationCode, Unauthenticated, "the station's one-time code is wrong, spent or too old", "let a line lead make a new code"},
	{StationNotAssigned, Forbidden, "the station is not assigned to this order", "let a line lead assign the station to the order"},
	{StationCertificate, Unauthenticated, "the caller is not a station", "present the station's current certificate; a line lead can make a new code"},
	{OrderUnknown, NotFound, "there is no such production order", "check the order's number"},
	{OrderExists, Conflict, "a production order with this number or external reference exists with other terms", "use another number, or the same terms to repeat a request"},
	{OrderState, Forbidden, "the production order is not open", "let the planner open the order, or use an open one"},
	{OrderFull, Exhausted, "the production order has its full quantity", "stop the line; the planner can amend the quantity with a second operator"},
	{SparesUsed, Exhausted, "the production order's spares are used up", "find out why units fail; the planner can amend the spares with a second operator"},
	{OrderTerms, Invalid, "the production order's terms are not acceptable", "correct what the detail names"},
	{OrderFrozen, Forbidden, "the production order is frozen since a backup was restored", "reconcile the order with the stations, then open it"},
	{ManifestFormat, Invalid, "the file is not a manifest of this format", "check the format and that the file is complete"},
	{ManifestSignature, Invalid, "a signature in the manifest does not verify", "get the file from the chip maker again; do not use these chips"},
	{ManifestSigner, Forbidden, "the manifest's signer is not pinned, or was not valid when the entry was signed", "let an operator pin the signer's certificate after checking its fingerprint with the chip maker"},
	{ManifestEntry, Invalid, "an entry of the manifest is not acceptable; nothing was imported", "see the findings; get a corrected file from the chip maker"},
	{ManifestDuplicate, Conflict, "a chip or key of the manifest is listed already; nothing was imported", "find out which of the two files is right; the same chip cannot be delivered twice"},
	{ManifestLimit, Invalid, "the manifest is larger or deeper than allowed", "split the file"},
	{ManifestUnknown, NotFound, "there is no such manifest", "list the manifests"},
	{SignerUnknown, NotFound, "there is no such pinned signer", "list the signers"},
	{SignerExists, Conflict, "this signer is pinned already", "list the signers"},
	{ManifestBusy, Unavailable, "the same manifest is being imported", "wait until the other import has ended"},
	{ChipUnknown, Forbidden, "the chip is in no manifest", "import the manifest of this reel, or take the chip off the line"},
	{ChipUsed, Conflict, "the chip belongs to another device", "take the unit off the line: one chip, one device"},
	{ChipNotProvable, Forbidden, "the chip is listed without a key and cannot prove itself", "use chips whose manifest lists public keys"},
	{ChipOtherProduct, Forbidden, "the chip is not for this product", "check the reel against the order, and the chip types that product and order name"},
	{ChipOtherOrder, Forbidden, "the chip is allotted to another order", "check the reel against the order"},
	{ChipWithdrawn, Forbidden, "the chip was withdrawn", "take the chip off the line"},
	{ChipProof, Forbidden, "the chip's proof does not verify for this request", "provision the unit again with a fresh nonce; if it fails again, take it off the line"},
	{ChipProofMissing, Forbidden, "the product demands the chip's proof and there is none", "let the station ask the chip to sign"},
	{NonceInvalid, Forbidden, "the nonce is not one of this order and station", "get a fresh nonce"},
	{NonceUsed, Conflict, "the nonce was used for another request", "get a fresh nonce"},
	{NonceExpired, Forbidden, "the nonce is too old", "get a fresh nonce"},
	{UnitSerialRange, Forbidden, "the device serial number is outside the order's range or pattern", "check the label printer against the order"},
	{UnitSerialTaken, Conflict, "the device serial number belongs to another unit", "look for a double label; use rework if this is the same unit with a new board"},
	{UnitUnknown, NotFound, "there is no such unit in this order", "check serial number and order"},
	{UnitState, Conflict, "the unit is in a state that does not allow this", "look at the unit"},
	{UnitReference, Conflict, "this unit reference was used for another unit", "use a new reference for a new unit"},
	{ReadBackWrong, Forbidden, "what the device returned is not the certificate or key that was issued", "provision the unit again; if it fails again, scrap it"},
	{KeyModel, Forbidden, "the product's keys are not made in that way", "use the station command for the product's key model"},
	{WrappedKeyGone, Conflict, "the wrapped key was erased", "scrap the unit and begin anew"},
	{RecipientInvalid, Invalid, "the recipient's certificate cannot receive a wrapped key", "use an RSA key with keyEncipherment or a P-256 or P-384 key with keyAgreement"},
	{BundleInvalid, Invalid, "the batch bundle is not acceptable", "collect the batch again"},
	{BundleSignature, Forbidden, "the batch bundle's signature does not verify", "copy the bundle again from the station; do not edit it"},
	{AlarmUnknown, NotFound, "there is no such alarm", "list the alarms"},
	{WebhookUnknown, NotFound, "there is no such webhook", "list the webhooks"},
	{WebhookInvalid, Invalid, "the webhook's settings are not acceptable", "correct what the detail names"},
	{StationLink, Unavailable, "the station cannot reach the server", "check network and proxy; confirmations wait in the queue"},
	{StationQueue, Exhausted, "the station's queue is full or broken", "bring the link back, or look at the disk"},
	{FixtureFailed, Forbidden, "the fixture or device reported a failure", "see the detail; retry the unit or scrap it"},
	{FixtureProtocol, Invalid, "the fixture or device answered what the protocol does not allow", "check firmware and cable"},
	{StationClock, Invalid, "the station's clock is wrong", "set the station computer's clock"},
}
