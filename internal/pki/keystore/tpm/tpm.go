// Package tpm signs with keys that lie in a TPM 2.0 under a persistent handle
// (tpm:0x81010020): unrestricted signing keys, P-256, P-384 or RSA. The TPM is
// reached as a device file or at a socket, where a resource manager or swtpm
// listens. One command at a time, as TPMs work; a TPM that hangs is left
// behind after a while (package session), and the connection is made anew.
package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/session"
)

// Config says which key of which TPM to use.
type Config struct {
	Path   string // /dev/tpmrm0, unix:PATH or tcp:HOST:PORT
	Handle uint32 // persistent
	Auth   func() ([]byte, error)
	Wait   time.Duration // the longest that a call may take; default 10 seconds
}

// Key is a signing key in a TPM.
type Key struct {
	c      Config
	pool   *session.Pool[*link]
	public crypto.PublicKey
	name   tpm2.TPM2BName
}

// ParseHandle reads the handle of a tpm: URI.
func ParseHandle(text string) (uint32, error) {
	h, err := strconv.ParseUint(text, 0, 32)
	if err != nil || h>>24 != 0x81 {
		return 0, fault.New(fault.KeyURI, "a persistent handle of a TPM is 0x81000000 to 0x81FFFFFF")
	}
	return uint32(h), nil
}

// Open reads the key's public part.
func Open(ctx context.Context, c Config) (*Key, error) {
	if c.Auth == nil || c.Path == "" {
		return nil, errors.New("tpm: Path and Auth are needed")
	}
	k := &Key{c: c}
	var err error
	k.pool, err = session.New(session.Config[*link]{
		Open: func(ctx context.Context) (*link, error) { return dial(ctx, c.Path) }, Close: (*link).close,
		Broken:    func(err error) bool { return fault.Has(err, fault.TPMUnreachable) },
		Exhausted: func(error) bool { return false }, Most: 1, Wait: c.Wait,
	})
	if err != nil {
		return nil, err
	}
	read, err := session.Do(ctx, k.pool, func(l *link) (*tpm2.ReadPublicResponse, error) {
		r, err := again(func() (*tpm2.ReadPublicResponse, error) {
			return tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(c.Handle)}.Execute(l)
		})
		if err != nil {
			return nil, l.failure(err)
		}
		return r, nil
	})
	if err != nil {
		return nil, err
	}
	k.name = read.Name
	return k, k.readPublic(&read.OutPublic)
}

// readPublic takes the key and refuses what cannot sign digests of ours.
func (k *Key) readPublic(wrapped *tpm2.TPM2BPublic) error {
	public, err := wrapped.Contents()
	if err != nil {
		return fault.Wrap(fault.TPMFailed, err)
	}
	if !public.ObjectAttributes.SignEncrypt || public.ObjectAttributes.Restricted {
		return fault.New(fault.TokenKey, "the TPM's key does not sign what others hashed: it is restricted, or not for signing")
	}
	if k.public, err = tpm2.Pub(*public); err != nil {
		return fault.Wrap(fault.KeyAlgorithm, err)
	}
	if e, ok := k.public.(*ecdsa.PublicKey); ok && e.Curve != elliptic.P256() && e.Curve != elliptic.P384() {
		return fault.New(fault.KeyAlgorithm, "the key's curve is neither P-256 nor P-384")
	}
	return nil
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Parallel returns 1: a TPM does one thing at a time.
func (k *Key) Parallel() int { return 1 }

// Close ends the connection.
func (k *Key) Close() { k.pool.Close() }

// hashes by their names in Go.
var hashes = map[crypto.Hash]tpm2.TPMIAlgHash{
	crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign has the TPM sign a digest.
func (k *Key) Sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	alg, ok := hashes[hash]
	if !ok {
		return nil, fault.New(fault.KeyAlgorithm, hash)
	}
	auth, err := k.c.Auth()
	if err != nil {
		return nil, err
	}
	scheme := tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: alg})}
	if _, ok := k.public.(*rsa.PublicKey); ok {
		scheme = tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSchemeHash{HashAlg: alg})}
	}
	command := tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: tpm2.TPMHandle(k.c.Handle), Name: k.name, Auth: tpm2.PasswordAuth(auth)},
		Digest:     tpm2.TPM2BDigest{Buffer: append([]byte(nil), digest...)},
		InScheme:   scheme,
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}
	return session.Do(ctx, k.pool, func(l *link) ([]byte, error) {
		r, err := again(func() (*tpm2.SignResponse, error) { return command.Execute(l) })
		if err != nil {
			return nil, l.failure(err)
		}
		return encode(&r.Signature)
	})
}

// Times that a TPM may ask to be asked again, and the pause before.
const (
	attempts = 50
	pause    = 5 * time.Millisecond
)

// again makes a command again while the TPM says that it is busy with itself.
func again[R any](command func() (R, error)) (r R, err error) {
	for range attempts {
		r, err = command()
		if !errors.Is(err, tpm2.TPMRCRetry) && !errors.Is(err, tpm2.TPMRCYielded) && !errors.Is(err, tpm2.TPMRCTesting) {
			break
		}
		<-time.After(pause)
	}
	return r, err
}

// encode writes a signature as the rest of the world does.
func encode(s *tpm2.TPMTSignature) ([]byte, error) {
	if s.SigAlg == tpm2.TPMAlgRSASSA {
		r, err := s.Signature.RSASSA()
		if err != nil {
			return nil, fault.Wrap(fault.TPMFailed, err)
		}
		return r.Sig.Buffer, nil
	}
	e, err := s.Signature.ECDSA()
	if err != nil {
		return nil, fault.Wrap(fault.TPMFailed, err)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(e.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(e.SignatureS.Buffer))
	})
	return b.Bytes()
}

// link carries commands to a TPM.
type link struct {
	rw  io.ReadWriteCloser
	err error // it broke
}

func dial(ctx context.Context, path string) (*link, error) {
	var rw io.ReadWriteCloser
	var err error
	switch network, address, _ := strings.Cut(path, ":"); network {
	case "unix", "tcp":
		rw, err = new(net.Dialer).DialContext(ctx, network, address)
	default:
		rw, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fault.Wrap(fault.TPMUnreachable, err, path)
	}
	return &link{rw: rw}, nil
}

// maxResponse is more than any TPM answers.
const maxResponse = 16 << 10

// Send sends one command and returns the response.
func (l *link) Send(command []byte) ([]byte, error) {
	response, err := l.exchange(command)
	if err != nil {
		l.err = fault.Wrap(fault.TPMUnreachable, err)
	}
	return response, err
}

func (l *link) exchange(command []byte) ([]byte, error) {
	if _, err := l.rw.Write(command); err != nil {
		return nil, err
	}
	// A device gives the whole response to one read, a socket as it likes.
	buffer := make([]byte, maxResponse)
	n, err := io.ReadAtLeast(l.rw, buffer, 10)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(buffer[2:])
	if size < 10 || size > maxResponse || int(size) < n {
		return nil, errors.New("tpm: a malformed response")
	}
	if _, err := io.ReadFull(l.rw, buffer[n:size]); err != nil {
		return nil, err
	}
	return buffer[:size], nil
}

func (l *link) close() { _ = l.rw.Close() }

// failure returns an error of a command as a fault.
func (l *link) failure(err error) error {
	switch {
	case l.err != nil:
		return l.err
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCLockout):
		return fault.Wrap(fault.TokenPIN, err, "the TPM refused the key's authorization:", err)
	case errors.Is(err, tpm2.TPMRCHandle), errors.Is(err, tpm2.TPMRCValue):
		return fault.Wrap(fault.TokenKey, err, "the TPM has no key at this handle")
	}
	return fault.Wrap(fault.TPMFailed, err, err)
}
