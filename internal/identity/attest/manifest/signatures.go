package manifest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest/samekey"
)

// algorithms are those that an entry may be signed with. Nothing else is taken:
// not "none", and no algorithm with a shared key.
var algorithms = map[string]algorithm{
	"ES256": {hash: crypto.SHA256, size: 64, curve: "P-256"},
	"ES384": {hash: crypto.SHA384, size: 96, curve: "P-384"},
	"ES512": {hash: crypto.SHA512, size: 132, curve: "P-521"},
	"RS256": {hash: crypto.SHA256},
	"RS384": {hash: crypto.SHA384},
	"RS512": {hash: crypto.SHA512},
}

type algorithm struct {
	hash  crypto.Hash
	size  int // of r and s together, octets
	curve string
}

// signatures verifies the entries of one file.
type signatures struct {
	byFingerprint map[[32]byte]*signer
	verifiers     *samekey.Verifiers

	mu    sync.Mutex
	known map[string]*protected // by the protected header as it stands
}

// protected is a protected header that was found good.
type protected struct {
	signer *signer
	algorithm
	ecdsa *samekey.Verifier // nil: the key is RSA
}

// maxProtected bounds the cache of protected headers; a maker has one.
const maxProtected = 64

func newSignatures(signers map[[32]byte]*signer, verifiers *samekey.Verifiers) *signatures {
	return &signatures{byFingerprint: signers, verifiers: verifiers, known: make(map[string]*protected)}
}

// verify checks an entry's signature and returns its signer.
func (s *signatures) verify(e *jws) (*signer, error) {
	p, err := s.protected(e.protected)
	if err != nil {
		return nil, err
	}
	h := p.hash.New()
	h.Write([]byte(e.protected))
	h.Write([]byte{'.'})
	h.Write(e.payload64)
	if !p.verify(h.Sum(nil), e.signature) {
		return nil, fault.New(fault.ManifestSignature, "the signature is not the signer's over this entry")
	}
	return p.signer, nil
}

func (p *protected) verify(digest, signature []byte) bool {
	if pub, ok := p.signer.cert.PublicKey.(*rsa.PublicKey); ok {
		return rsa.VerifyPKCS1v15(pub, p.hash, digest, signature) == nil
	}
	if p.ecdsa == nil || len(signature) != p.size {
		return false
	}
	r := new(big.Int).SetBytes(signature[:p.size/2])
	return p.ecdsa.Verify(digest, r, new(big.Int).SetBytes(signature[p.size/2:]))
}

// protected looks up a protected header, which is the same in all entries of a
// signer, and reads it the first time.
func (s *signatures) protected(raw string) (*protected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.known[raw]; ok {
		return p, nil
	}
	p, err := s.parse(raw)
	if err != nil {
		return nil, err
	}
	if len(s.known) < maxProtected {
		s.known[raw] = p
	}
	return p, nil
}

func (s *signatures) parse(raw string) (*protected, error) {
	header, err := base64url.DecodeString(raw)
	if err != nil {
		return nil, bad("the protected header is not base64url")
	}
	var alg string
	var kid, thumbprint []byte
	err = members(header, func(name string, value []byte) (err error) {
		switch name {
		case "alg":
			alg, err = text(value)
		case "kid":
			kid, err = octets(value, base64url)
		case "x5t#S256":
			thumbprint, err = octets(value, base64url)
		case "crit", "b64":
			err = bad("the protected header asks for the extension %s", name)
		}
		return err
	})
	if err != nil {
		return nil, malformed("the protected header", err)
	}
	a, ok := algorithms[alg]
	if !ok {
		return nil, fault.New(fault.ManifestSignature, "the algorithm", quoted(alg), "is not allowed; allowed are ES256, ES384, ES512, RS256, RS384 and RS512")
	}
	if len(thumbprint) != 32 {
		return nil, bad("the protected header has no x5t#S256 of 32 octets")
	}
	signer, ok := s.byFingerprint[[32]byte(thumbprint)]
	if !ok {
		return nil, unpinned([32]byte(thumbprint))
	}
	if len(kid) == 0 || !bytes.Equal(kid, signer.cert.SubjectKeyId) {
		return nil, fault.New(fault.ManifestSigner, "the entry's kid", base64.RawURLEncoding.EncodeToString(kid), "is not the subject key identifier of the pinned signer")
	}
	if !a.fits(signer.cert.PublicKey) {
		return nil, fault.New(fault.ManifestSignature, "the algorithm", alg, "is not one of the signer's key")
	}
	p := &protected{signer: signer, algorithm: a}
	if pub, ok := signer.cert.PublicKey.(*ecdsa.PublicKey); ok {
		p.ecdsa = s.verifiers.Key(pub)
	}
	return p, nil
}

// fits reports whether a key signs with this algorithm.
func (a algorithm) fits(pub any) bool {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return a.curve == pub.Curve.Params().Name
	case *rsa.PublicKey:
		return a.curve == "" && pub.N.BitLen() >= 2048
	}
	return false
}
