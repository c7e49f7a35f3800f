package fault

// 1xxx: what arrives on the wire, before anyone's identity matters.
const (
	RequestMalformed   Code = 1001
	RequestTooLarge    Code = 1002
	RequestTooSlow     Code = 1003
	ContentTypeWrong   Code = 1004
	EncodingMalformed  Code = 1005
	RequestVersion     Code = 1006
	RequestAttributes  Code = 1007
	SubjectRefused     Code = 1008
	ExtensionRefused   Code = 1009
	ProofOfPossession  Code = 1010
	SignatureAlgorithm Code = 1011
	KeyAlgorithm       Code = 1020
	KeyWeak            Code = 1021
	KeyMalformed       Code = 1022
	KeyNotAllowed      Code = 1023
	CertsOnlyMalformed Code = 1030
)

var requestEntries = []Entry{
	{RequestMalformed, Invalid, "the certificate request is not well-formed PKCS #10", "send one DER PKCS #10 structure without trailing bytes (RFC 2986)"},
	{RequestTooLarge, Invalid, "the request is larger than this address accepts", "send only the certificate request; the limit is in the API description"},
	{RequestTooSlow, Unavailable, "the request did not arrive in time", "send the whole body within the time limit"},
	{ContentTypeWrong, Invalid, "the content type does not fit this address", "use the content type of the protocol, for EST application/pkcs10"},
	{EncodingMalformed, Invalid, "the body is not valid base64 or PEM", "encode the DER request as base64 (RFC 8951) or as one PEM block without headers"},
	{RequestVersion, Invalid, "the certificate request has an unsupported version", "make the request with version 0 (RFC 2986, section 4.1)"},
	{RequestAttributes, Invalid, "the attributes of the certificate request are not acceptable", "send each attribute at most once, and at most 16 of them"},
	{SubjectRefused, Invalid, "the subject of the certificate request is not acceptable", "use UTF8String or PrintableString values without control characters, wildcards or separators; the certificate's subject comes from the register anyway"},
	{ExtensionRefused, Invalid, "an extension in the certificate request is not acceptable", "leave extensions out of the request: the certificate takes them from the profile"},
	{ProofOfPossession, Invalid, "the signature of the certificate request does not verify with its own key", "sign the request with the private key that belongs to its public key"},
	{SignatureAlgorithm, Invalid, "the certificate request is signed with an unsupported algorithm", "sign with ECDSA and SHA-256 or stronger, Ed25519, or RSA with SHA-256 or stronger"},
	{KeyAlgorithm, Invalid, "the public key's algorithm is not supported", "use P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits"},
	{KeyWeak, Invalid, "the public key is known to be weak", "make a new key with a current library; replace the key generator of this device type"},
	{KeyMalformed, Invalid, "the public key is not well formed", "encode the key as in RFC 5480 (named curve, uncompressed point on the curve) or RFC 8017"},
	{KeyNotAllowed, Forbidden, "the profile does not allow this type or size of key", "use a key type that the profile lists"},
	{CertsOnlyMalformed, Invalid, "the message is not a well-formed certs-only CMS message", "send one DER SignedData with 1 to 16 certificates, no content and no signers (RFC 5652, section 5)"},
}
