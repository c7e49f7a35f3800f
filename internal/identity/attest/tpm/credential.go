package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// Credential wraps a secret so that only this TPM opens it, and only for this AK:
// TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, both with their sizes. The Name in it
// is computed here, from the very octets whose attributes were checked (TPM 2.0
// Library, Part 1, section 24; Part 3, TPM2_MakeCredential).
func (x *TPM) Credential(random io.Reader, secret []byte) (idObject, encSecret []byte, err error) {
	ek, err := wire.ParsePublic(x.EKPublic)
	if err != nil {
		return nil, nil, err
	}
	ak, err := wire.ParsePublic(x.AKPublic)
	if err != nil {
		return nil, nil, err
	}
	h := ek.NameAlg.Hash()
	if len(secret) == 0 || len(secret) > h.Size() {
		return nil, nil, errors.New("a credential holds no secret of that length")
	}
	seed, ciphertext, err := encapsulate(random, ek.Key, h)
	if err != nil {
		return nil, nil, fmt.Errorf("make a credential: %w", err)
	}
	name := ak.Name()
	block, err := aes.NewCipher(kdfa(h, seed, "STORAGE", name, int(ek.Symmetric.KeyBits)))
	if err != nil {
		return nil, nil, fmt.Errorf("make a credential: %w", err)
	}
	wrapped := encryptCFB(block.Encrypt, appendSized(nil, secret))
	mac := hmac.New(h.New, kdfa(h, seed, "INTEGRITY", nil, 8*h.Size()))
	mac.Write(wrapped)
	mac.Write(name)
	object := append(appendSized(nil, mac.Sum(nil)), wrapped...)
	return appendSized(nil, object), appendSized(nil, ciphertext), nil
}

// encapsulate draws a seed that only the EK's holder learns: OAEP with RSA (Part 1,
// annex B.10.3), one-pass Diffie-Hellman with ECC (annex C.6.3).
func encapsulate(random io.Reader, ek crypto.PublicKey, h crypto.Hash) (seed, ciphertext []byte, err error) {
	switch key := ek.(type) {
	case *rsa.PublicKey:
		seed = make([]byte, h.Size())
		if _, err := io.ReadFull(random, seed); err != nil {
			return nil, nil, err
		}
		ciphertext, err = rsa.EncryptOAEP(h.New(), random, key, seed, []byte(identityLabel))
		return seed, ciphertext, err
	case *ecdsa.PublicKey:
		public, err := key.ECDH()
		if err != nil {
			return nil, nil, err
		}
		ephemeral, err := public.Curve().GenerateKey(random)
		if err != nil {
			return nil, nil, err
		}
		z, err := ephemeral.ECDH(public)
		if err != nil {
			return nil, nil, err
		}
		x, y := coordinates(ephemeral.PublicKey())
		ekX, _ := coordinates(public)
		return kdfe(h, z, x, ekX), appendSized(appendSized(nil, x), y), nil
	}
	return nil, nil, errors.New("an endorsement key of a kind that does not exist")
}

// identityLabel is for seeds of credentials; the zero octet ends it.
const identityLabel = "IDENTITY\x00"

func coordinates(key *ecdh.PublicKey) (x, y []byte) {
	point := key.Bytes()[1:]
	return point[:len(point)/2], point[len(point)/2:]
}

// kdfa is KDFa (Part 1, section 11.4.10.2): SP 800-108 in counter mode with HMAC.
func kdfa(h crypto.Hash, key []byte, label string, context []byte, bits int) []byte {
	var out []byte
	mac := hmac.New(h.New, key)
	for counter := uint32(1); len(out)*8 < bits; counter++ {
		mac.Reset()
		mac.Write(binary.BigEndian.AppendUint32(nil, counter))
		mac.Write([]byte(label))
		mac.Write([]byte{0})
		mac.Write(context)
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(bits)))
		out = mac.Sum(out)
	}
	return out[:bits/8]
}

// kdfe is KDFe (Part 1, section 11.4.10.3) for a seed as long as the digest, which
// one round gives.
func kdfe(h crypto.Hash, z, partyU, partyV []byte) []byte {
	d := h.New()
	d.Write([]byte{0, 0, 0, 1})
	d.Write(z)
	d.Write([]byte(identityLabel))
	d.Write(partyU)
	d.Write(partyV)
	return d.Sum(nil)
}

// encryptCFB is cipher feedback with the full block and a zero vector, as a TPM
// uses it. The standard library's is deprecated, rightly, and refused in FIPS mode;
// here a MAC covers what it encrypts.
func encryptCFB(encrypt func(dst, src []byte), plain []byte) []byte {
	out := make([]byte, len(plain))
	var block [aes.BlockSize]byte
	for start := 0; start < len(plain); start += aes.BlockSize {
		encrypt(block[:], block[:])
		end := min(start+aes.BlockSize, len(plain))
		for i := start; i < end; i++ {
			out[i] = plain[i] ^ block[i-start]
			block[i-start] = out[i]
		}
	}
	return out
}

// appendSized appends a TPM2B: a size of 16 bits and the octets.
func appendSized(b, octets []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(octets))), octets...)
}
