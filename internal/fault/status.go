package fault

// 4xxx: revocation and status.
const (
	AlreadyRevoked   Code = 4001
	ReasonInvalid    Code = 4002
	NotOnHold        Code = 4003
	CRLUnknown       Code = 4004
	CRLStale         Code = 4005
	OCSPMalformed    Code = 4010
	OCSPUnauthorized Code = 4011
	OCSPBusy         Code = 4012
)

var statusEntries = []Entry{
	{AlreadyRevoked, Conflict, "the certificate is already revoked", "nothing is left to do; revocation is final"},
	{ReasonInvalid, Invalid, "the reason for revocation is not acceptable", "use one of keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn, aACompromise, cACompromise, unspecified"},
	{NotOnHold, Conflict, "the certificate is not on hold", "only a certificate on hold can be released"},
	{CRLUnknown, NotFound, "there is no such CRL", "use the address in the certificate's CRL distribution point"},
	{CRLStale, Unavailable, "no current CRL can be served", "see the server's log; the signing key may be unavailable"},
	{OCSPMalformed, Invalid, "the OCSP request is not well formed", "send one DER OCSPRequest (RFC 6960)"},
	{OCSPUnauthorized, Forbidden, "this responder does not answer for that issuer", "ask the responder named in the certificate"},
	{OCSPBusy, Unavailable, "no OCSP answer can be given now", "repeat the request later"},
}
