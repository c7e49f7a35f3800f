// Package proof holds the two statements that a device signs on the line: the
// chip's proof, which ties a certificate request to the chip that a manifest
// lists, and the confirmation, which shows that the certificate has arrived
// beside its key. Both ends compute them; test vectors are in
// docs/protocols/station.md.
package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"

	"github.com/birthmark/birthmark/internal/fault"
)

// The statements' names, which keep a signature for one from serving as the
// other.
const (
	chipName    = "birthmark chip proof v1"
	confirmName = "birthmark confirm v1"
	// HeldName is what a pre-provisioned key signs in place of a request.
	heldName = "birthmark key held v1"
)

// Chip returns the digest (SHA-256) that the chip signs for a request: each
// field is preceded by its length as two octets, big-endian.
func Chip(nonce []byte, orderNumber, deviceSerial string, spki []byte) [32]byte {
	key := sha256.Sum256(spki)
	return digest(chipName, nonce, []byte(orderNumber), []byte(deviceSerial), key[:])
}

// Held returns the digest that a key of a manifest signs to become, or stay, the
// key of the initial identity: there is no certificate request.
func Held(nonce []byte, orderNumber, deviceSerial string, spki []byte) [32]byte {
	key := sha256.Sum256(spki)
	return digest(heldName, nonce, []byte(orderNumber), []byte(deviceSerial), key[:])
}

// Confirm returns the digest that the new key signs once the certificate is in
// the device.
func Confirm(nonce []byte, deviceSerial string, certificate []byte) [32]byte {
	cert := sha256.Sum256(certificate)
	return digest(confirmName, nonce, []byte(deviceSerial), cert[:])
}

func digest(name string, fields ...[]byte) [32]byte {
	h := sha256.New()
	frame := func(b []byte) {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], uint16(len(b))) // fields are far shorter than 64 KiB; Check says so
		h.Write(n[:])
		h.Write(b)
	}
	frame([]byte(name))
	for _, f := range fields {
		frame(f)
	}
	return [32]byte(h.Sum(nil))
}

// MaxField is the longest field of a statement in octets.
const MaxField = 1 << 12

// Verify checks a signature over a statement's digest: ECDSA as ASN.1 DER, RSA
// as PKCS #1 v1.5 with SHA-256, Ed25519 over the digest's octets. code is the
// refusal to return.
func Verify(spki []byte, digest [32]byte, signature []byte, code fault.Code) error {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return fault.Wrap(code, err)
	}
	if !valid(pub, digest, signature) {
		return fault.New(code)
	}
	return nil
}

func valid(pub any, digest [32]byte, signature []byte) bool {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, digest[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, digest[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}
