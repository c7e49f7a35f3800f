package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// Cipher says how the content of an envelope is encrypted.
type Cipher uint8

// The ciphers. CBC is what every reader knows; it keeps a secret but does not
// show that a message was changed on its way, which a transport must do.
const (
	CBC Cipher = iota // AES-256-CBC in EnvelopedData (RFC 5652, section 6; RFC 3565)
	GCM               // AES-256-GCM in AuthEnvelopedData (RFC 5083, RFC 5084)
)

// ContentType is the object identifier of what an envelope holds, as the
// content octets of its DER.
type ContentType string

// The content types that are put into envelopes.
const (
	Data       ContentType = oidData
	SignedData ContentType = oidSignedData
	KeyPackage ContentType = "\x60\x86\x48\x01\x65\x02\x01\x02\x4e\x05" // RFC 5958
)

const (
	oidEnvelopedData     = "\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"
	oidAuthEnvelopedData = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17"
	oidOAEP              = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07"
	oidMGF1              = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
	oidSHA256            = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	oidAES256CBC         = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a"
	oidAES256Wrap        = "\x60\x86\x48\x01\x65\x03\x04\x01\x2d"
	oidAES256GCM         = "\x60\x86\x48\x01\x65\x03\x04\x01\x2e"
	oidECPublicKey       = "\x2a\x86\x48\xce\x3d\x02\x01"
	oidStdDHSHA256KDF    = "\x2b\x81\x04\x01\x0b\x01" // dhSinglePass-stdDH-sha256kdf-scheme (RFC 5753)
)

// keyLength is the length of every symmetric key here: AES-256.
const keyLength = 32

// CheckRecipient says why nothing can be sealed for the holder of a certificate
// (fault.RecipientInvalid); nil if it can. Whether the certificate is to be
// trusted is the caller's to know.
func CheckRecipient(cert *x509.Certificate) error {
	may := func(u x509.KeyUsage) bool { return cert.KeyUsage == 0 || cert.KeyUsage&u != 0 }
	switch pub := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		switch bits := pub.N.BitLen(); {
		case bits < 2048 || bits > 8192:
			return fault.New(fault.RecipientInvalid, "RSA", bits, "bits")
		case !may(x509.KeyUsageKeyEncipherment):
			return fault.New(fault.RecipientInvalid, "its key usage does not have keyEncipherment")
		}
		return nil
	case *ecdsa.PublicKey:
		if _, err := agreementKey(pub); err != nil {
			return err
		}
		if !may(x509.KeyUsageKeyAgreement) {
			return fault.New(fault.RecipientInvalid, "its key usage does not have keyAgreement")
		}
		return nil
	}
	return fault.New(fault.RecipientInvalid, "the algorithm of its key")
}

func agreementKey(pub *ecdsa.PublicKey) (*ecdh.PublicKey, error) {
	key, err := pub.ECDH()
	if err != nil || key.Curve() != ecdh.P256() && key.Curve() != ecdh.P384() {
		return nil, fault.New(fault.RecipientInvalid, "the elliptic curve of its key")
	}
	return key, nil
}

// Seal encrypts content for the holder of a certificate: with RSAES-OAEP and
// SHA-256 for an RSA key, and with an ephemeral key for one on P-256 or P-384
// (RFC 5753). AuthEnvelopedData holds Data alone here: any other content would
// need authenticated attributes (RFC 5083, section 2.1).
func Seal(kind ContentType, content []byte, to *x509.Certificate, how Cipher, random io.Reader) ([]byte, error) {
	if err := CheckRecipient(to); err != nil {
		return nil, err
	}
	if how == GCM && kind != Data {
		return nil, fmt.Errorf("cms: AuthEnvelopedData of type %x", string(kind))
	}
	var key [keyLength]byte
	defer clear(key[:])
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return nil, err
	}
	recipient, version, err := recipientInfo(key[:], to, random)
	if err != nil {
		return nil, err
	}
	e := envelope{kind: kind, recipient: recipient, version: version}
	if how == GCM {
		return e.gcm(key[:], content)
	}
	return e.cbc(key[:], content, random)
}

// envelope is a message on its way.
type envelope struct {
	kind      ContentType
	recipient []byte // DER RecipientInfo
	version   int64  // of EnvelopedData with such a recipient
}

func (e *envelope) cbc(key, content []byte, random io.Reader) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	var iv [aes.BlockSize]byte
	if _, err := io.ReadFull(random, iv[:]); err != nil {
		return nil, err
	}
	// RFC 5652, section 6.3: pad with the number of octets of padding.
	n := aes.BlockSize - len(content)%aes.BlockSize
	sealed := make([]byte, 0, len(content)+n)
	sealed = append(append(sealed, content...), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(sealed, sealed)
	return wrapContent(oidEnvelopedData, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(e.version)
		e.addContent(b, sealed, func(b *cryptobyte.Builder) {
			addOID(b, oidAES256CBC)
			b.AddASN1OctetString(iv[:])
		})
	})
}

// Octets of a GCM nonce and tag (RFC 5084, section 3.2).
const (
	gcmNonce = 12
	gcmTag   = 16
)

func (e *envelope) gcm(key, content []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	// The nonce comes from the system and goes before the ciphertext: the one form
	// that FIPS 140-3 approves.
	mode, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	sealed := mode.Seal(nil, nil, content, nil)
	nonce, sealed := sealed[:gcmNonce], sealed[gcmNonce:]
	tag := sealed[len(sealed)-gcmTag:]
	return wrapContent(oidAuthEnvelopedData, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		e.addContent(b, sealed[:len(sealed)-len(tag)], func(b *cryptobyte.Builder) {
			addOID(b, oidAES256GCM)
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1OctetString(nonce)
				b.AddASN1Int64(int64(len(tag)))
			})
		})
		b.AddASN1OctetString(tag)
	})
}

// wrapContent returns ContentInfo, the outer structure of a message.
func wrapContent(kind string, content func(*cryptobyte.Builder)) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, kind)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1(asn1.SEQUENCE, content) })
	})
	return b.Bytes()
}

// addContent adds the recipients and EncryptedContentInfo.
func (e *envelope) addContent(b *cryptobyte.Builder, sealed []byte, algorithm func(*cryptobyte.Builder)) {
	b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(e.recipient) })
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, string(e.kind))
		b.AddASN1(asn1.SEQUENCE, algorithm)
		b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(sealed) })
	})
}

func recipientInfo(key []byte, to *x509.Certificate, random io.Reader) (der []byte, version int64, err error) {
	switch pub := to.PublicKey.(type) {
	case *rsa.PublicKey:
		der, err = keyTransport(key, to, pub, random)
		return der, 0, err
	case *ecdsa.PublicKey:
		der, err = keyAgreement(key, to, pub, random)
		return der, 2, err
	}
	return nil, 0, fault.New(fault.RecipientInvalid)
}

// keyTransport is KeyTransRecipientInfo with RSAES-OAEP (RFC 3560).
func keyTransport(key []byte, to *x509.Certificate, pub *rsa.PublicKey, random io.Reader) ([]byte, error) {
	sealed, err := rsa.EncryptOAEP(sha256.New(), random, pub, key, nil)
	if err != nil {
		return nil, fault.Wrap(fault.RecipientInvalid, err)
	}
	hash := func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, oidSHA256)
			b.AddASN1NULL()
		})
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		addIssuerAndSerial(b, to)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, oidOAEP)
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(explicit(0), hash)
				b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						addOID(b, oidMGF1)
						hash(b)
					})
				})
			})
		})
		b.AddASN1OctetString(sealed)
	})
	return b.Bytes()
}

// keyAgreement is KeyAgreeRecipientInfo: ECDH with an ephemeral key of ours, the
// X9.63 key derivation and AES key wrap (RFC 5753, section 3.1).
func keyAgreement(key []byte, to *x509.Certificate, pub *ecdsa.PublicKey, random io.Reader) ([]byte, error) {
	theirs, err := agreementKey(pub)
	if err != nil {
		return nil, err
	}
	ours, err := theirs.Curve().GenerateKey(random)
	if err != nil {
		return nil, err
	}
	shared, err := ours.ECDH(theirs)
	if err != nil {
		return nil, fault.Wrap(fault.RecipientInvalid, err)
	}
	defer clear(shared)
	wrapping, err := wrappingKey(shared)
	if err != nil {
		return nil, err
	}
	defer clear(wrapping)
	sealed, err := wrapKey(wrapping, key)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { // implicit: in place of SEQUENCE
		b.AddASN1Int64(3)
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, oidECPublicKey) })
				b.AddASN1BitString(ours.PublicKey().Bytes())
			})
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addOID(b, oidStdDHSHA256KDF)
			addKeyWrap(b)
		})
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addIssuerAndSerial(b, to)
				b.AddASN1OctetString(sealed)
			})
		})
	})
	return b.Bytes()
}

// wrappingKey derives the key-encryption key: one round of the X9.63 function,
// since SHA-256 gives all of its octets, over ECC-CMS-SharedInfo (RFC 5753,
// section 7.2).
func wrappingKey(shared []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addKeyWrap(b)
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(binary.BigEndian.AppendUint32(nil, 8*keyLength))
		})
	})
	info, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write(shared)
	h.Write([]byte{0, 0, 0, 1})
	h.Write(info)
	return h.Sum(nil), nil
}

// wrapKey is AES key wrap (RFC 3394, section 2.2.1).
func wrapKey(wrapping, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(wrapping)
	if err != nil {
		return nil, err
	}
	n := len(key) / 8
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	buf := [16]byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(buf[8:], out[8*i:8*i+8])
			block.Encrypt(buf[:], buf[:])
			binary.BigEndian.PutUint64(buf[:8], binary.BigEndian.Uint64(buf[:8])^uint64(n*j+i))
			copy(out[8*i:], buf[8:])
		}
	}
	copy(out, buf[:8])
	return out, nil
}

func addKeyWrap(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addOID(b, oidAES256Wrap) })
}

func addIssuerAndSerial(b *cryptobyte.Builder, cert *x509.Certificate) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(cert.RawIssuer)
		b.AddASN1BigInt(cert.SerialNumber)
	})
}

func addOID(b *cryptobyte.Builder, content string) {
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(content)) })
}

// explicit is a constructed context tag.
func explicit(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }
