package fault

// 2xxx: devices and their credentials.
const (
	DeviceUnknown        Code = 2001
	DeviceExists         Code = 2002
	DeviceState          Code = 2003
	TransitionRefused    Code = 2004
	DeviceSerialInvalid  Code = 2005
	ProductUnknown       Code = 2006
	ProductExists        Code = 2007
	LabelInvalid         Code = 2008
	RequesterUnknown     Code = 2010
	SecretWrong          Code = 2011
	SecretSpent          Code = 2012
	RequesterCertificate Code = 2013
	KeyInUse             Code = 2014
	KeyOfIDevID          Code = 2015
	SubjectChanged       Code = 2016
	CredentialSuperseded Code = 2017
	CredentialExpired    Code = 2018
	CredentialRevoked    Code = 2019
	ProfileNotAllowed    Code = 2020
	PurposeUnknown       Code = 2021 // reserved: requests name profiles and labels, not purposes
	ApprovalWaiting      Code = 2022
	ApprovalRefused      Code = 2023
	RequestReplayed      Code = 2024
	CredentialUnknown    Code = 2025
	IssuanceBusy         Code = 2026
	LabelUnknown         Code = 2027
)

var enrollEntries = []Entry{
	{DeviceUnknown, NotFound, "there is no such device", "register the device first, or check the serial number on its label"},
	{DeviceExists, Conflict, "a device with this serial number is already registered", "look at the existing device; a serial number names one unit only"},
	{DeviceState, Forbidden, "the device is in a state in which it gets no certificate", "ask the operator to look at the device's state"},
	{TransitionRefused, Conflict, "the device cannot go from its state to that one", "see docs/architecture.md for the transitions"},
	{DeviceSerialInvalid, Invalid, "the device serial number is not acceptable", "use 1 to 64 of the characters A-Z a-z 0-9 . _ : - and start with a letter or digit"},
	{ProductUnknown, NotFound, "there is no such product", "add the product first, or check its name"},
	{ProductExists, Conflict, "a product with this name exists", "choose another name"},
	{LabelInvalid, Invalid, "a label is not acceptable", "use key=value with at most 63 characters each, at most 32 labels"},
	{RequesterUnknown, Unauthenticated, "the requester is not authenticated", "use the device's one-time secret, or a certificate that the profile trusts"},
	{SecretWrong, Unauthenticated, "the requester is not authenticated", "check serial number and one-time secret; an operator can make a new secret"},
	{SecretSpent, Unauthenticated, "the requester is not authenticated", "the one-time secret was used; re-enroll with the current certificate, or ask for a new secret"},
	{RequesterCertificate, Unauthenticated, "the certificate that was presented is not accepted here", "present an unexpired, unrevoked certificate of an authority that the profile trusts"},
	{KeyInUse, Conflict, "this public key belongs to another device or credential", "make a new key in the device; a key belongs to one device for ever"},
	{KeyOfIDevID, Conflict, "an operational credential may not use the key of the initial identity", "make a separate key for the LDevID (IEEE 802.1AR)"},
	{SubjectChanged, Forbidden, "re-enrollment must keep subject and subject alternative names", "send the subject and names of the current certificate (RFC 7030, section 4.2.2)"},
	{CredentialSuperseded, Unauthenticated, "the certificate that was presented has been replaced", "use the newest certificate of this device"},
	{CredentialExpired, Unauthenticated, "the certificate that was presented has expired", "enroll anew with the initial identity or a new one-time secret"},
	{CredentialRevoked, Unauthenticated, "the certificate that was presented is revoked or on hold", "ask the operator; a revoked certificate cannot renew itself"},
	{ProfileNotAllowed, Forbidden, "this requester may not enroll under that profile", "use the label of a profile that the device's product lists"},
	{PurposeUnknown, NotFound, "the product has no such purpose", "use a purpose that the product lists"},
	{ApprovalWaiting, Unavailable, "the request waits for an operator's approval", "repeat the same request after the time in Retry-After"},
	{ApprovalRefused, Forbidden, "an operator refused the request", "ask the operator for the reason"},
	{RequestReplayed, Conflict, "this key or request was used before with other content", "make a new key and a new request"},
	{CredentialUnknown, NotFound, "there is no such certificate", "check the serial number"},
	{IssuanceBusy, Unavailable, "the record changed while the request was decided, several times in a row", "repeat the request"},
	{LabelUnknown, NotFound, "there is no such label", "use a label that the server lists, or none"},
}
