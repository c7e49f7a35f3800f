package tpm

import (
	"context"
	"crypto"
	"crypto/rsa"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// Signer is a key of a TPM for certificate requests and TLS. It holds nothing of
// the TPM between two signatures.
type Signer struct {
	ctx context.Context // of the program: crypto.Signer has none
	t   *TPM
	key *Key
}

// Signer returns the key for use until ctx ends.
func (t *TPM) Signer(ctx context.Context, k *Key) *Signer { return &Signer{ctx, t, k} }

// Public implements crypto.Signer.
func (s *Signer) Public() crypto.PublicKey { return s.key.parsed.Key }

var hashes = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign implements crypto.Signer: ECDSA as ASN.1 DER, RSA as PKCS #1 v1.5 or PSS,
// with SHA-256, SHA-384 or SHA-512. The randomness is the TPM's.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	hash, ok := hashes[opts.HashFunc()]
	if !ok || len(digest) != opts.HashFunc().Size() {
		return nil, fault.New(fault.ParameterInvalid, "the TPM signs digests of SHA-256, SHA-384 and SHA-512")
	}
	scheme, err := s.scheme(hash, opts)
	if err != nil {
		return nil, err
	}
	err = s.t.turn(s.ctx, func(u *turn) error {
		l, err := u.load(s.key)
		if err != nil {
			return err
		}
		got, err := tpm2.Sign{
			KeyHandle: l.auth(), Digest: tpm2.TPM2BDigest{Buffer: digest}, InScheme: scheme,
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(u)
		if err != nil {
			return failed("TPM2_Sign", err)
		}
		signature, err = signatureOf(got.Signature)
		return err
	})
	return signature, err
}

func (s *Signer) scheme(hash tpm2.TPMAlgID, opts crypto.SignerOpts) (tpm2.TPMTSigScheme, error) {
	alg := tpm2.TPMAlgECDSA
	if s.key.parsed.Type == format.AlgRSA {
		alg = tpm2.TPMAlgRSASSA
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			alg = tpm2.TPMAlgRSAPSS
			if n := pss.SaltLength; n != rsa.PSSSaltLengthAuto && n != rsa.PSSSaltLengthEqualsHash && n != opts.HashFunc().Size() {
				return tpm2.TPMTSigScheme{}, fault.New(fault.ParameterInvalid, "the TPM chooses the length of the salt itself")
			}
		}
	}
	details := tpm2.TPMSSchemeHash{HashAlg: hash}
	return tpm2.TPMTSigScheme{Scheme: alg, Details: tpm2.NewTPMUSigScheme(alg, &details)}, nil
}

// signatureOf returns a TPMT_SIGNATURE as the rest of the world writes it.
func signatureOf(t tpm2.TPMTSignature) ([]byte, error) {
	s, err := format.ParseSignature(tpm2.Marshal(t))
	if err != nil {
		return nil, err
	}
	if s.Scheme.Alg != format.AlgECDSA {
		return s.RSA, nil
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(s.R))
		b.AddASN1BigInt(new(big.Int).SetBytes(s.S))
	})
	return b.Bytes()
}
