package keystore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"

	"github.com/birthmark/birthmark/internal/fault"
)

// Object identifiers of PBES2 (RFC 8018, appendix A), as content octets.
const (
	oidPBES2      = "\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d"
	oidPBKDF2     = "\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c"
	oidScrypt     = "\x2b\x06\x01\x04\x01\xda\x47\x04\x0b" // RFC 7914
	oidHMACSHA1   = "\x2a\x86\x48\x86\xf7\x0d\x02\x07"
	oidHMACSHA256 = "\x2a\x86\x48\x86\xf7\x0d\x02\x09"
	oidHMACSHA384 = "\x2a\x86\x48\x86\xf7\x0d\x02\x0a"
	oidHMACSHA512 = "\x2a\x86\x48\x86\xf7\x0d\x02\x0b"
	oidAES128CBC  = "\x60\x86\x48\x01\x65\x03\x04\x01\x02"
	oidAES192CBC  = "\x60\x86\x48\x01\x65\x03\x04\x01\x16"
	oidAES256CBC  = "\x60\x86\x48\x01\x65\x03\x04\x01\x2a"
)

// What a file may ask of us before it is known to be ours.
const (
	maxIterations   = 4_000_000
	maxScryptMemory = 128 << 20
	maxScryptP      = 16
	maxSalt         = 128
)

// encrypt returns an EncryptedPrivateKeyInfo (RFC 5958) with PBKDF2,
// HMAC-SHA-256 and AES-256-CBC, which openssl has read since 1.0.
func encrypt(private []byte, passphrase Secret, iterations int, random io.Reader) ([]byte, error) {
	var salt, iv [16]byte
	for _, b := range [][]byte{salt[:], iv[:]} {
		if _, err := io.ReadFull(random, b); err != nil {
			return nil, fmt.Errorf("encrypt private key: %w", err)
		}
	}
	key, err := pbkdf2.Key(sha256.New, string(passphrase), salt[:], iterations, 32)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	padding := aes.BlockSize - len(private)%aes.BlockSize
	text := make([]byte, 0, len(private)+padding)
	text = append(append(text, private...), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(text, text)
	return marshalEncrypted(salt[:], iv[:], iterations, text)
}

func marshalEncrypted(salt, iv []byte, iterations int, text []byte) ([]byte, error) {
	var b cryptobyte.Builder
	sequence := func(b *cryptobyte.Builder, f cryptobyte.BuilderContinuation) { b.AddASN1(asn1.SEQUENCE, f) }
	oid := func(b *cryptobyte.Builder, o string) {
		b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(o)) })
	}
	sequence(&b, func(b *cryptobyte.Builder) {
		sequence(b, func(b *cryptobyte.Builder) {
			oid(b, oidPBES2)
			sequence(b, func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) {
					oid(b, oidPBKDF2)
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1OctetString(salt)
						b.AddASN1Int64(int64(iterations))
						sequence(b, func(b *cryptobyte.Builder) {
							oid(b, oidHMACSHA256)
							b.AddASN1NULL()
						})
					})
				})
				sequence(b, func(b *cryptobyte.Builder) {
					oid(b, oidAES256CBC)
					b.AddASN1OctetString(iv)
				})
			})
		})
		b.AddASN1OctetString(text)
	})
	return b.Bytes()
}

// encrypted is a parsed EncryptedPrivateKeyInfo.
type encrypted struct {
	kdf, kdfParams cryptobyte.String
	keySize        int
	iv, text       []byte
}

// decrypt opens an EncryptedPrivateKeyInfo with PBES2. All it can tell of a
// wrong passphrase is that the padding is wrong, and that not always: the caller
// judges what comes out.
func decrypt(der []byte, passphrase Secret) ([]byte, error) {
	e, ok := parseEncrypted(der)
	if !ok {
		return nil, fault.New(fault.PassphraseWrong, "the encryption is not PBES2 with AES-CBC, or damaged")
	}
	key, err := e.derive(passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.Wrap(fault.PassphraseWrong, err)
	}
	text := bytes.Clone(e.text)
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(text, text)
	padding := int(text[len(text)-1])
	if padding == 0 || padding > aes.BlockSize ||
		!bytes.Equal(text[len(text)-padding:], bytes.Repeat([]byte{byte(padding)}, padding)) {
		clear(text)
		return nil, fault.New(fault.PassphraseWrong)
	}
	return text[:len(text)-padding], nil
}

func parseEncrypted(der cryptobyte.String) (e encrypted, ok bool) {
	var outer, algorithm, oid, params, kdf, scheme, iv, text cryptobyte.String
	if !der.ReadASN1(&outer, asn1.SEQUENCE) || !der.Empty() ||
		!outer.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!outer.ReadASN1(&text, asn1.OCTET_STRING) || !outer.Empty() ||
		!algorithm.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || string(oid) != oidPBES2 ||
		!algorithm.ReadASN1(&params, asn1.SEQUENCE) || !algorithm.Empty() ||
		!params.ReadASN1(&kdf, asn1.SEQUENCE) ||
		!params.ReadASN1(&scheme, asn1.SEQUENCE) || !params.Empty() ||
		!kdf.ReadASN1(&e.kdf, asn1.OBJECT_IDENTIFIER) ||
		!kdf.ReadASN1(&e.kdfParams, asn1.SEQUENCE) || !kdf.Empty() ||
		!scheme.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
		!scheme.ReadASN1(&iv, asn1.OCTET_STRING) || !scheme.Empty() {
		return e, false
	}
	switch string(oid) {
	case oidAES128CBC:
		e.keySize = 16
	case oidAES192CBC:
		e.keySize = 24
	case oidAES256CBC:
		e.keySize = 32
	default:
		return e, false
	}
	e.iv, e.text = iv, text
	return e, len(iv) == aes.BlockSize && len(text) > 0 && len(text)%aes.BlockSize == 0
}

// derive makes the key from the passphrase, within limits on work and memory.
func (e *encrypted) derive(passphrase Secret) ([]byte, error) {
	switch string(e.kdf) {
	case oidPBKDF2:
		return e.derivePBKDF2(passphrase)
	case oidScrypt:
		return e.deriveScrypt(passphrase)
	}
	return nil, fault.New(fault.PassphraseWrong, "the encryption is not PBES2 with PBKDF2 or scrypt")
}

func (e *encrypted) derivePBKDF2(passphrase Secret) ([]byte, error) {
	var salt, prf, oid cryptobyte.String
	var iterations int64
	params := e.kdfParams
	ok := params.ReadASN1(&salt, asn1.OCTET_STRING) && len(salt) <= maxSalt &&
		params.ReadASN1Integer(&iterations) && iterations > 0 && iterations <= maxIterations &&
		e.keySizeAgrees(&params)
	newHash := sha1.New // the default of RFC 8018
	if ok && !params.Empty() {
		ok = params.ReadASN1(&prf, asn1.SEQUENCE) && params.Empty() &&
			prf.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) && prf.SkipOptionalASN1(asn1.NULL) && prf.Empty()
		newHash = hashOf(string(oid))
	}
	if ok && fips140.Enforced() && string(oid) != oidHMACSHA256 && string(oid) != oidHMACSHA384 && string(oid) != oidHMACSHA512 {
		return nil, fault.New(fault.KeyUnavailable, "its encryption derives the key with SHA-1, which FIPS 140-3 does not approve")
	}
	if !ok || newHash == nil {
		return nil, fault.New(fault.PassphraseWrong, "the parameters of PBKDF2 are out of bounds or damaged")
	}
	key, err := pbkdf2.Key(newHash, string(passphrase), salt, int(iterations), e.keySize)
	if err != nil {
		return nil, fault.Wrap(fault.PassphraseWrong, err)
	}
	return key, nil
}

func hashOf(hmac string) func() hash.Hash {
	switch hmac {
	case oidHMACSHA1:
		return sha1.New
	case oidHMACSHA256:
		return sha256.New
	case oidHMACSHA384:
		return sha512.New384
	case oidHMACSHA512:
		return sha512.New
	}
	return nil
}

func (e *encrypted) deriveScrypt(passphrase Secret) ([]byte, error) {
	var salt cryptobyte.String
	var n, r, p int64
	params := e.kdfParams
	ok := params.ReadASN1(&salt, asn1.OCTET_STRING) && len(salt) <= maxSalt &&
		params.ReadASN1Integer(&n) && params.ReadASN1Integer(&r) && params.ReadASN1Integer(&p) &&
		n > 1 && n <= maxScryptMemory/128 && r > 0 && r <= maxScryptMemory/128/n &&
		p > 0 && p <= maxScryptP && e.keySizeAgrees(&params) && params.Empty()
	if fips140.Enforced() {
		return nil, fault.New(fault.KeyUnavailable, "its encryption derives the key with scrypt, which FIPS 140-3 does not approve")
	}
	if !ok {
		return nil, fault.New(fault.PassphraseWrong, "the parameters of scrypt are out of bounds or damaged")
	}
	key, err := scrypt.Key(passphrase, salt, int(n), int(r), int(p), e.keySize)
	if err != nil {
		return nil, fault.Wrap(fault.PassphraseWrong, err)
	}
	return key, nil
}

// keySizeAgrees skips the optional length of the key, which must be the cipher's.
func (e *encrypted) keySizeAgrees(params *cryptobyte.String) bool {
	if !params.PeekASN1Tag(asn1.INTEGER) {
		return true
	}
	var size int64
	return params.ReadASN1Integer(&size) && size == int64(e.keySize)
}
