package fault

// 3xxx: authorities, profiles, keys.
const (
	AuthorityUnknown   Code = 3001
	AuthorityExists    Code = 3002
	AuthorityState     Code = 3003
	AuthorityMismatch  Code = 3004
	AuthorityInvalid   Code = 3005
	ProfileUnknown     Code = 3010
	ProfileInvalid     Code = 3011
	ProfileLint        Code = 3012
	ProfileValue       Code = 3013
	KeyUnknown         Code = 3020
	KeyExists          Code = 3021
	PassphraseWrong    Code = 3022
	KeyUnavailable     Code = 3023
	KeyURI             Code = 3024
	SignatureFault     Code = 3025
	ValidityOutside    Code = 3026
	SerialsExhausted   Code = 3027
	CertificateInvalid Code = 3030
	ChainUntrusted     Code = 3031
	ChainExpired       Code = 3032
	ChainNotYetValid   Code = 3033
	ChainRevoked       Code = 3034
	ChainNotCA         Code = 3035
	ChainPathLength    Code = 3036
	ChainName          Code = 3037
	ChainUsage         Code = 3038
	ChainSignature     Code = 3039
	ChainLimit         Code = 3040
	ChainStatus        Code = 3041
	ChainCritical      Code = 3042
	ChainHost          Code = 3043
	ChainPolicy        Code = 3044
	ChainWeak          Code = 3045
	CRLInvalid         Code = 3046
)

var authorityEntries = []Entry{
	{AuthorityUnknown, NotFound, "there is no such authority", "list the authorities and check the name"},
	{AuthorityExists, Conflict, "an authority with this name exists", "choose another name"},
	{AuthorityState, Conflict, "the authority's state does not allow this", "only an active authority issues; see its state"},
	{AuthorityMismatch, Invalid, "certificate and key of the authority do not belong together", "import the certificate that was issued for this key"},
	{AuthorityInvalid, Invalid, "the authority's settings are not acceptable", "correct what the detail names"},
	{ProfileUnknown, NotFound, "there is no such profile", "list the profiles and check the name"},
	{ProfileInvalid, Invalid, "the profile is not acceptable", "correct the line that the detail names"},
	{ProfileLint, Invalid, "the profile would make certificates that break a rule", "correct what the findings name"},
	{ProfileValue, Invalid, "a value that the profile puts into the certificate is missing or not acceptable", "correct the record of the device, product or authority that the detail names"},
	{KeyUnknown, NotFound, "there is no such key", "check the key URI"},
	{KeyExists, Conflict, "a key with this name exists", "choose another name; keys are never overwritten"},
	{PassphraseWrong, Forbidden, "the passphrase is wrong or the key file was changed", "try again with the right passphrase; restore the file from a backup if it was damaged"},
	{KeyUnavailable, Unavailable, "the signing key cannot be used now", "see the server's log and the key store's state"},
	{KeyURI, Invalid, "the key URI is not acceptable", "use file:NAME; other schemes need their part of the product"},
	{SignatureFault, Unavailable, "a signature failed its check and was not released", "check the machine's memory and processor; the event is in the log"},
	{ValidityOutside, Conflict, "the certificate would outlive its issuer", "use an authority with a longer validity, or a shorter profile"},
	{SerialsExhausted, Unavailable, "no certificate serial numbers could be reserved", "see the server's log; the database may be unreachable"},
	{CertificateInvalid, Invalid, "the certificate is not well formed", "pass one DER or PEM certificate"},
	{ChainUntrusted, Unauthenticated, "no path leads from the certificate to a trust anchor", "pass the missing intermediate certificates, or check the anchors"},
	{ChainExpired, Unauthenticated, "a certificate of the path has expired", "renew it, or check the clock"},
	{ChainNotYetValid, Unauthenticated, "a certificate of the path is not valid yet", "check the clock"},
	{ChainRevoked, Unauthenticated, "a certificate of the path is revoked", "use another certificate"},
	{ChainNotCA, Unauthenticated, "a certificate of the path may not issue certificates", "check basicConstraints and keyUsage of the intermediates"},
	{ChainPathLength, Unauthenticated, "the path is longer than an authority allows", "check pathLenConstraint of the authorities"},
	{ChainName, Unauthenticated, "a name is outside an authority's name constraints", "use a name that the authority may certify"},
	{ChainUsage, Unauthenticated, "the certificate may not be used for this purpose", "check extendedKeyUsage along the path"},
	{ChainSignature, Unauthenticated, "a signature of the path does not verify", "use the certificates as they were issued"},
	{ChainLimit, Unauthenticated, "checking the path would cost more than allowed", "send fewer and smaller intermediate certificates"},
	{ChainStatus, Unauthenticated, "the revocation status of a certificate is unknown", "provide a current CRL of each issuer"},
	{ChainCritical, Unauthenticated, "a certificate has a critical extension that is not understood", "use a certificate without it"},
	{ChainHost, Unauthenticated, "the certificate is for another name", "check the name"},
	{ChainPolicy, Unauthenticated, "the certificate policies along the path do not agree", "use a certificate with a policy that its authorities require"},
	{ChainWeak, Unauthenticated, "a key or signature algorithm of the path is too weak or unusual", "use SHA-256 or stronger with P-256, P-384, P-521, Ed25519 or RSA of 2048 to 8192 bits"},
	{CRLInvalid, Invalid, "the CRL is not well formed", "pass DER or PEM CRLs of version 2"},
}
