package signer

import (
	"crypto"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxAnswers is how many answers one OCSP response may have.
const maxAnswers = 256

// hashes by the content of their object identifiers, as CertID names them.
var hashes = map[string]crypto.Hash{
	"\x2b\x0e\x03\x02\x1a":                 crypto.SHA1,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x01": crypto.SHA256,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x02": crypto.SHA384,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x03": crypto.SHA512,
}

// parseOCSP reads a ResponseData of version 1 (RFC 6960, section 4.2.1).
func parseOCSP(in cryptobyte.String) (f facts, err error) {
	var id, all cryptobyte.String
	var tag asn1.Tag
	if !in.ReadAnyASN1(&id, &tag) {
		return f, malformed("the OCSP answer's head is malformed")
	}
	switch tag {
	case explicit(1):
		f.responderName = id
	case explicit(2):
		var hash cryptobyte.String
		if !id.ReadASN1(&hash, asn1.OCTET_STRING) || !id.Empty() {
			return f, malformed("the OCSP answer's responder is malformed")
		}
		f.responderKey = hash
	}
	if !readGeneralized(&in, &f.from) || !in.ReadASN1(&all, asn1.SEQUENCE) {
		return f, malformed("the OCSP answer's head is malformed")
	}
	for !all.Empty() {
		if len(f.ids) == maxAnswers || !f.readAnswer(&all) {
			return f, malformed("an OCSP answer is malformed, or there are too many")
		}
	}
	var extensions cryptobyte.String
	var present bool
	if len(f.ids) == 0 || !in.ReadOptionalASN1(&extensions, &present, explicit(1)) || !in.Empty() {
		return f, malformed("the OCSP answer is malformed")
	}
	f.kind = OCSP
	if !present {
		return f, nil
	}
	return f, extensionsOf(extensions, func(string, string) bool { return true })
}

// readAnswer reads a SingleResponse and keeps the span of all answers' times.
func (f *facts) readAnswer(all *cryptobyte.String) bool {
	var one, id, algorithm, oid, nameHash, keyHash, status cryptobyte.String
	var tag asn1.Tag
	if !all.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1(&id, asn1.SEQUENCE) ||
		!id.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
		!id.ReadASN1(&nameHash, asn1.OCTET_STRING) || !id.ReadASN1(&keyHash, asn1.OCTET_STRING) ||
		!id.SkipASN1(asn1.INTEGER) || !id.Empty() {
		return false
	}
	hash := hashes[string(oid)]
	if hash == 0 {
		return false
	}
	f.ids = append(f.ids, certID{hash: hash, nameHash: nameHash, keyHash: keyHash})
	if !one.ReadAnyASN1(&status, &tag) {
		return false
	}
	switch tag {
	case asn1.Tag(0).ContextSpecific(), asn1.Tag(2).ContextSpecific(), explicit(1):
	default:
		return false
	}
	var thisUpdate, nextUpdate time.Time
	var next, extensions cryptobyte.String
	var hasNext, hasExtensions bool
	if !readGeneralized(&one, &thisUpdate) || !one.ReadOptionalASN1(&next, &hasNext, explicit(0)) ||
		!one.ReadOptionalASN1(&extensions, &hasExtensions, explicit(1)) || !one.Empty() {
		return false
	}
	// Without nextUpdate an answer would hold for ever.
	if !hasNext || (!readGeneralized(&next, &nextUpdate) || !next.Empty() || nextUpdate.Before(thisUpdate)) {
		return false
	}
	// from is the earliest time of all, to the latest.
	if thisUpdate.Before(f.from) {
		f.from = thisUpdate
	}
	if nextUpdate.After(f.to) {
		f.to = nextUpdate
	}
	return true
}
