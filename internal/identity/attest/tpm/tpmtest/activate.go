package tpmtest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// ActivateCredential is TPM2_ActivateCredential: it opens a credential that was
// made for this EK and this AK (Part 1, section 24), or returns ErrIntegrity.
// Both arguments carry their sizes.
func (t *TPM) ActivateCredential(ak *Key, credential, encSecret []byte) ([]byte, error) {
	area := t.EK.Area
	h := area.NameAlg.Hash()
	id, ok := unsized(credential)
	mac, encrypted, ok2 := cutSized(id)
	ciphertext, ok3 := unsized(encSecret)
	if !ok || !ok2 || !ok3 {
		return nil, ErrIntegrity
	}
	seed, err := t.EK.decapsulate(h, ciphertext)
	if err != nil {
		return nil, ErrIntegrity
	}
	macKey := tpm2.KDFa(h, seed, "INTEGRITY", nil, nil, 8*h.Size())
	m := hmac.New(h.New, macKey)
	m.Write(encrypted)
	m.Write(ak.Name())
	if !hmac.Equal(m.Sum(nil), mac) {
		return nil, ErrIntegrity
	}
	bits := int(area.Symmetric.KeyBits)
	block, err := aes.NewCipher(tpm2.KDFa(h, seed, "STORAGE", ak.Name(), nil, bits))
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	decryptCFB(block, plain, encrypted)
	secret, ok := unsized(plain)
	if !ok {
		return nil, ErrIntegrity
	}
	return secret, nil
}

// decryptCFB is cipher feedback with a zero vector.
func decryptCFB(block cipher.Block, plain, encrypted []byte) {
	pad, last := make([]byte, block.BlockSize()), make([]byte, block.BlockSize())
	for i, octet := range encrypted {
		at := i % len(pad)
		if at == 0 {
			block.Encrypt(pad, last)
		}
		plain[i] = octet ^ pad[at]
		last[at] = octet
	}
}

// decapsulate returns the seed: OAEP for RSA, one-pass Diffie-Hellman for ECC.
func (k *Key) decapsulate(h crypto.Hash, ciphertext []byte) ([]byte, error) {
	if key, ok := k.Signer.(*rsa.PrivateKey); ok {
		return rsa.DecryptOAEP(h.New(), nil, key, ciphertext, []byte("IDENTITY\x00"))
	}
	key, err := k.Signer.(*ecdsa.PrivateKey).ECDH()
	if err != nil {
		return nil, err
	}
	x, rest, ok := cutSized(ciphertext)
	y, rest2, ok2 := cutSized(rest)
	if !ok || !ok2 || len(rest2) != 0 {
		return nil, ErrIntegrity
	}
	peer, err := key.Curve().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, err
	}
	z, err := key.ECDH(peer)
	if err != nil {
		return nil, err
	}
	return tpm2.KDFe(h, z, "IDENTITY", x, abscissa(key.PublicKey()), 8*h.Size()), nil
}

func abscissa(key *ecdh.PublicKey) []byte {
	point := key.Bytes()[1:]
	return point[:len(point)/2]
}

func cutSized(b []byte) (head, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func unsized(b []byte) ([]byte, bool) {
	head, rest, ok := cutSized(b)
	return head, ok && len(rest) == 0
}
