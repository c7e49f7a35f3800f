package fault

// 90xx: hardware proof: TPMs, credential activation, certified keys, quotes. The
// codes follow the order of proof: each is the first step that failed.
const (
	EvidenceMissing   Code = 9001
	EvidenceTooLittle Code = 9002
	AttestMalformed   Code = 9003
	EKCertificate     Code = 9010
	EKUntrusted       Code = 9011
	EKExpired         Code = 9012
	EKDenied          Code = 9013
	EKMismatch        Code = 9014
	EKTemplate        Code = 9015
	EKNotListed       Code = 9016
	AKAttributes      Code = 9020
	AKAlgorithm       Code = 9021
	TicketInvalid     Code = 9030
	TicketExpired     Code = 9031
	TicketUsed        Code = 9032
	TicketOther       Code = 9033
	ActivationWrong   Code = 9034
	CertifyMagic      Code = 9040
	CertifyType       Code = 9041
	CertifySignature  Code = 9042
	CertifyNonce      Code = 9043
	CertifyName       Code = 9044
	SubjectAttributes Code = 9045
	SubjectKey        Code = 9046
	QuoteMissing      Code = 9050
	QuoteInvalid      Code = 9051
	QuoteSelection    Code = 9052
	QuoteDigest       Code = 9053
	QuoteState        Code = 9054
	QuoteOld          Code = 9055
	EventLogInvalid   Code = 9056
	EventLogMismatch  Code = 9057
	TPMOfOther        Code = 9060
	AKCertificate     Code = 9061
	AttestNonce       Code = 9062
	TPMChanged        Code = 9063
	RootsInvalid      Code = 9070
	RootsSigner       Code = 9071
	RootsOlder        Code = 9072
	RootsUnknown      Code = 9073
	PolicyInvalid     Code = 9074
	PolicyUnknown     Code = 9075
	TPMUnknown        Code = 9076
	TPMUnreachable    Code = 9080
	TPMFailed         Code = 9081
	TPMHandle         Code = 9082
	AgentLink         Code = 9083
	AgentState        Code = 9084
)

// 91xx: the signer process, hardware security modules, ceremonies.
const (
	SignerUnreachable Code = 9101
	SignerKeyUnknown  Code = 9102
	SignerRefused     Code = 9103
	SignerLimit       Code = 9104
	SignerContent     Code = 9105
	SignerPeer        Code = 9106
	SignerJournal     Code = 9107
	SignerConfig      Code = 9108
	TokenMissing      Code = 9120
	TokenPIN          Code = 9121
	TokenModule       Code = 9122
	TokenKey          Code = 9123
	TokenSessions     Code = 9124
	TokenFailed       Code = 9125
	BuiltWithout      Code = 9126
	CeremonyState     Code = 9140
	ShareInvalid      Code = 9141
	SharesTooFew      Code = 9142
	TranscriptInvalid Code = 9143
)

var attestEntries = []Entry{
	{EvidenceMissing, Forbidden, "the profile or product demands evidence of the hardware, and none was shown", "enroll through the TPM or chip; see device show for what is demanded"},
	{EvidenceTooLittle, Forbidden, "what was proven is less than the profile or product demands", "see the detail for what is missing; an operator can list the chip, trust its maker or set a policy"},
	{AttestMalformed, Invalid, "a structure of the TPM is not well formed", "send what the TPM returned, unchanged"},
	{EKCertificate, Invalid, "the endorsement key's certificate is not one", "send the certificate that the TPM's maker stored in it"},
	{EKUntrusted, Forbidden, "the endorsement key's certificate does not lead to a trusted TPM maker", "let an operator import a bundle of roots that has this maker"},
	{EKExpired, Forbidden, "the endorsement key's certificate has expired", "let an operator decide whether expired certificates of this maker are accepted"},
	{EKDenied, Forbidden, "this TPM model or firmware is on the deny list", "update the TPM's firmware, or use another part"},
	{EKMismatch, Forbidden, "the endorsement key is not the one of its certificate", "do not use this device; tell security"},
	{EKTemplate, Forbidden, "the endorsement key was not made from a standard template", "make the endorsement key from the TCG's template"},
	{EKNotListed, Forbidden, "the endorsement key has no certificate and is in no imported list", "import the maker's list of endorsement keys"},
	{AKAttributes, Forbidden, "the attestation key may do what an attestation key must not, or may not do what it must", "make a restricted signing key that never leaves the TPM"},
	{AKAlgorithm, Forbidden, "the attestation key's algorithm is not accepted", "use RSA-2048 or P-256 and above, with SHA-256 or better"},
	{TicketInvalid, Invalid, "the challenge is not one of ours", "ask for a challenge first"},
	{TicketExpired, Forbidden, "the challenge was answered too late", "ask for a new challenge"},
	{TicketUsed, Conflict, "the challenge was answered before", "ask for a new challenge"},
	{TicketOther, Forbidden, "the challenge was given to another requester, order, device or key", "ask for a challenge of your own"},
	{ActivationWrong, Forbidden, "the credential was not opened: attestation key and endorsement key are not in one TPM", "ask for a new challenge; if it happens again, do not use this device"},
	{CertifyMagic, Forbidden, "the attestation was not made by a TPM", "do not use this device; tell security"},
	{CertifyType, Forbidden, "the attestation is of another kind than asked for", "send the result of TPM2_Certify, or of TPM2_Quote for a quote"},
	{CertifySignature, Forbidden, "the attestation's signature is not the attestation key's", "do not use this device; tell security"},
	{CertifyNonce, Forbidden, "the attestation is not bound to this challenge and key", "certify the key anew with the challenge's nonce"},
	{CertifyName, Forbidden, "the attestation is about another key", "certify the key that the request is for"},
	{SubjectAttributes, Forbidden, "the key is not bound to its TPM as it must be", "make the key in the TPM: fixed, never duplicated, for signing, unrestricted"},
	{SubjectKey, Forbidden, "the certified key is not the one of the certificate request", "sign the request with the certified key"},
	{QuoteMissing, Forbidden, "a quote of the firmware's state is demanded", "send a quote of the registers that the challenge names"},
	{QuoteInvalid, Forbidden, "the quote is not one of this attestation key for this challenge", "quote again with the challenge's nonce"},
	{QuoteSelection, Forbidden, "the quote is not over the registers that the policy names", "quote exactly the bank and registers that the challenge names"},
	{QuoteDigest, Forbidden, "the register values are not those that were quoted", "read the registers again and quote anew"},
	{QuoteState, Forbidden, "the device runs firmware that is not released", "install a released build; an operator can add reference values"},
	{QuoteOld, Forbidden, "the TPM's reset counter or clock went back", "restart the device; after a TPM was cleared, an operator can accept its new counter"},
	{EventLogInvalid, Invalid, "the event log is not well formed", "send the log that the firmware kept"},
	{EventLogMismatch, Forbidden, "the event log does not lead to the quoted registers", "send the log of this boot, complete"},
	{TPMOfOther, Conflict, "this TPM belongs to another device", "one TPM is one device; an operator can end the other device"},
	{AKCertificate, Forbidden, "the attestation key's certificate is not ours, not this device's, expired or revoked", "activate the attestation key again"},
	{AttestNonce, Forbidden, "the attestation's nonce is not ours, used or too old", "ask for a new nonce"},
	{TPMChanged, Conflict, "the device has another TPM on record", "after a board was replaced, let an operator accept the device's new TPM"},
	{RootsInvalid, Invalid, "the bundle of TPM makers' roots is not acceptable", "correct what the detail names"},
	{RootsSigner, Forbidden, "the bundle is not signed by its pinned signer", "let an operator check the signer's fingerprint and pin it"},
	{RootsOlder, Conflict, "a newer version of the bundle was imported before", "import the newest version"},
	{RootsUnknown, NotFound, "there is no such bundle of TPM makers' roots", "list the bundles and check the name"},
	{PolicyInvalid, Invalid, "the TPM policy is not acceptable", "correct what the detail names"},
	{PolicyUnknown, NotFound, "the product has no TPM policy", "set one, or check the product's name"},
	{TPMUnknown, NotFound, "the device has shown no TPM yet", "enroll the device through its TPM first"},
	{TPMUnreachable, Unavailable, "the TPM cannot be reached", "check the device file or socket and the rights to it"},
	{TPMFailed, Unavailable, "the TPM refused a command", "see the detail; birthmark-agent doctor says more"},
	{TPMHandle, Conflict, "the TPM's handle holds another key", "name another handle, or remove the key there after making sure that nothing uses it"},
	{AgentLink, Unavailable, "the device cannot reach the server", "check network, proxy and clock; birthmark-agent doctor says more"},
	{AgentState, Conflict, "what the agent needs or keeps is not in order", "see the detail; nothing was changed"},
	{SignerUnreachable, Unavailable, "the signer process cannot be reached", "start birthmark-signer, or check its socket and the rights to it"},
	{SignerKeyUnknown, NotFound, "the signer has no such key", "check the key's name in the signer's configuration"},
	{SignerRefused, Forbidden, "the signer does not sign this with this key", "see the signer's log: the key is bound to an authority and kinds of content"},
	{SignerLimit, Exhausted, "the signer's limit for this key is reached", "wait, or let the signer's operator raise the limit"},
	{SignerContent, Invalid, "what was to be signed is not a certificate, CRL or OCSP answer", "only birthmark signs through the signer"},
	{SignerPeer, Forbidden, "this user may not use the signer", "let the signer's operator allow the user"},
	{SignerJournal, Unavailable, "the signer cannot write its journal, so it signs nothing", "check the signer's disk, then restart it"},
	{SignerConfig, Invalid, "the signer's configuration is not acceptable", "correct the line that the detail names"},
	{TokenMissing, Unavailable, "the token is not in its slot", "insert the token, or check its label"},
	{TokenPIN, Forbidden, "the token's PIN is wrong or locked", "correct the PIN file; a locked PIN needs the security officer"},
	{TokenModule, Invalid, "the PKCS #11 module cannot be loaded", "check the module's path and that it fits this machine"},
	{TokenKey, NotFound, "the token has no such key, or several", "make it (birthmark-signer key create), or list the token's keys and check label and id"},
	{TokenSessions, Unavailable, "the token has no free session", "lower the number of sessions, or end other programs that use the token"},
	{TokenFailed, Unavailable, "the token refused a command", "see the detail; birthmark-signer doctor says more"},
	{BuiltWithout, Invalid, "this program was built without PKCS #11", "use the build with the tag pkcs11, which needs a C library"},
	{CeremonyState, Conflict, "the ceremony is not at this step", "see the transcript for what was done"},
	{ShareInvalid, Invalid, "a share is damaged, not of this ceremony, or given twice", "use the share as it was handed out"},
	{SharesTooFew, Invalid, "there are too few shares", "bring as many custodians as the ceremony set"},
	{TranscriptInvalid, Invalid, "the transcript's signature or chain does not hold", "do not rely on it; find out who changed it"},
}
