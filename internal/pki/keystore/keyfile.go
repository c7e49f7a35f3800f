package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

const (
	blockEncrypted = "ENCRYPTED PRIVATE KEY"
	blockPublic    = "PUBLIC KEY"
)

// encode returns the content of a key file: the encrypted private key, then the
// public key that it must turn out to belong to.
func (s *Store) encode(key crypto.Signer, passphrase Secret) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, fault.New(fault.PassphraseWrong, "an empty passphrase protects nothing")
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	defer clear(private)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	encrypted, err := encrypt(private, passphrase, s.iterations, s.rand)
	if err != nil {
		return nil, err
	}
	content := pem.EncodeToMemory(&pem.Block{Type: blockEncrypted, Bytes: encrypted})
	return append(content, pem.EncodeToMemory(&pem.Block{Type: blockPublic, Bytes: public})...), nil
}

// decode returns the private key in a key file. A file of openssl, without the
// public key behind, is taken if the key inside proves itself intact.
func decode(content []byte, passphrase Secret) (crypto.Signer, error) {
	encrypted, rest, ok := cutBlock(content, blockEncrypted)
	if !ok {
		return nil, fault.New(fault.PassphraseWrong, "the file is no encrypted PKCS #8 key")
	}
	public, rest, hasPublic := cutBlock(rest, blockPublic)
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fault.New(fault.PassphraseWrong, "the file has more in it than a key")
	}
	private, err := decrypt(encrypted, passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	signer, err := parsePKCS8(private)
	if err != nil {
		return nil, err
	}
	want, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fault.Wrap(fault.PassphraseWrong, err)
	}
	if hasPublic && !bytes.Equal(public, want) {
		return nil, fault.New(fault.PassphraseWrong, "private and public key do not belong together")
	}
	switch embedded(private, signer) {
	case different:
		return nil, fault.New(fault.PassphraseWrong, "private and public key do not belong together")
	case missing:
		if !hasPublic {
			return nil, fault.New(fault.PassphraseWrong, "the file lacks the public key; import the key anew")
		}
	}
	return signer, nil
}

// cutBlock takes one PEM block of this type, without headers, off the front.
func cutBlock(text []byte, kind string) (der, rest []byte, ok bool) {
	text = bytes.TrimLeft(text, " \t\r\n")
	if !bytes.HasPrefix(text, []byte("-----BEGIN "+kind+"-----")) {
		return nil, text, false
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(block.Headers) > 0 {
		return nil, text, false
	}
	return block.Bytes, rest, true
}

// parsePKCS8 reads a private key of a type that the product signs with.
func parsePKCS8(der []byte) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.Wrap(fault.PassphraseWrong, err, "no private key inside")
	}
	return accept(parsed)
}

// accept refuses private keys of other types and inconsistent ones.
func accept(parsed any) (crypto.Signer, error) {
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.KeyAlgorithm)
	}
	if _, err := profile.KeyTypeOf(signer.Public()); err != nil {
		return nil, err
	}
	if k, ok := signer.(*rsa.PrivateKey); ok {
		if err := k.Validate(); err != nil {
			return nil, fault.Wrap(fault.PassphraseWrong, err, "the private key is damaged")
		}
	}
	return signer, nil
}

// redundancy says what a decrypted key carries besides the secret, by which a
// change would show.
type redundancy uint8

const (
	missing redundancy = iota
	different
	agreeing
)

// embedded compares a PKCS #8 key with what it says about its own public key.
// RSA has the modulus, which parsing checked; EC keys may have the point; an
// Ed25519 seed has nothing, any 32 octets are one.
func embedded(der []byte, signer crypto.Signer) redundancy {
	switch k := signer.(type) {
	case *rsa.PrivateKey:
		return agreeing
	case *ecdsa.PrivateKey:
		inside := embeddedPoint(der)
		if inside == nil {
			return missing
		}
		if point, err := k.PublicKey.Bytes(); err != nil || !bytes.Equal(inside, point) {
			return different
		}
		return agreeing
	}
	return missing
}

// embeddedPoint returns the publicKey field of an ECPrivateKey (RFC 5915), or
// nil.
func embeddedPoint(der cryptobyte.String) []byte {
	var outer, algorithm, octets, ec, scalar, parameters, wrapped cryptobyte.String
	var version int64
	var point []byte
	tag := func(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }
	if !der.ReadASN1(&outer, asn1.SEQUENCE) || !outer.ReadASN1Integer(&version) ||
		!outer.ReadASN1(&algorithm, asn1.SEQUENCE) || !outer.ReadASN1(&octets, asn1.OCTET_STRING) ||
		!octets.ReadASN1(&ec, asn1.SEQUENCE) || !ec.ReadASN1Integer(&version) ||
		!ec.ReadASN1(&scalar, asn1.OCTET_STRING) || !ec.ReadOptionalASN1(&parameters, nil, tag(0)) ||
		!ec.ReadASN1(&wrapped, tag(1)) || !wrapped.ReadASN1BitStringAsBytes(&point) {
		return nil
	}
	return point
}

// ParsePrivateKey reads one private key of another tool for [Store.Import]: a
// PEM block of PKCS #8, encrypted or not, or of the older forms EC PRIVATE KEY
// and RSA PRIVATE KEY, not encrypted. Blocks of another kind around it, such as
// EC PARAMETERS or certificates, are skipped. Whether the key is the right one
// shows when it is held against its certificate.
func ParsePrivateKey(text []byte, passphrase Secret) (crypto.Signer, error) {
	if len(text) > maxFile {
		return nil, fault.New(fault.PassphraseWrong, "the file is too large to be a key")
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, fault.New(fault.PassphraseWrong, "no private key in PEM form")
		}
		var parsed any
		var err error
		switch block.Type {
		case blockEncrypted:
			private, err := decrypt(block.Bytes, passphrase)
			if err != nil {
				return nil, err
			}
			defer clear(private)
			return parsePKCS8(private)
		case "PRIVATE KEY":
			return parsePKCS8(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if block.Headers["DEK-Info"] != "" {
			return nil, fault.New(fault.PassphraseWrong, "convert the key with openssl pkcs8 -topk8: its old encryption is not supported")
		}
		if err != nil {
			return nil, fault.Wrap(fault.PassphraseWrong, err, "no private key inside")
		}
		return accept(parsed)
	}
}
