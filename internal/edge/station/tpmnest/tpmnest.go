// Package tpmnest is the adapter for devices with a TPM that the station reaches
// itself: through a device file, a Unix socket or a TCP port, one for each nest.
// The key is made in the device's TPM and never leaves it; the TPM proves so by
// answering the server's challenge.
//
// Key and certificate are kept in the TPM (a persistent handle and an NV index),
// where the device finds them whatever is installed on it later, or else as files
// that the line copies onto the device. Either way a device that was cut off in the
// middle has its key still and gets the certificate that was issued for it.
package tpmnest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// Where devices look for their initial identity (TCG Registry of Reserved TPM 2.0
// Handles and Localities, section 2.2).
const (
	DefaultHandle = 0x81020000
	DefaultIndex  = 0x01C90000
)

// Config says where the TPMs are and where identities are kept.
type Config struct {
	TPMs   map[string]string // path of the TPM by nest; the empty nest stands for all others
	Kind   format.KeyKind    // of keys; empty: P-256
	Handle uint32            // 0: DefaultHandle
	Index  uint32            // 0: DefaultIndex
	// Dir is a folder for files instead: DIR/SERIAL/key.pem (TSS2 key file),
	// certificate.pem and chain.pem.
	Dir string
	// OwnerAuth and EndorsementAuth are the passwords of the hierarchies.
	OwnerAuth, EndorsementAuth []byte
}

// Adapter reaches devices.
type Adapter struct{ c Config }

// New returns an adapter.
func New(c Config) (*Adapter, error) {
	if len(c.TPMs) == 0 {
		return nil, fault.New(fault.ParameterInvalid, "the adapter tpm needs --tpm")
	}
	if c.Handle == 0 {
		c.Handle = DefaultHandle
	}
	if c.Index == 0 {
		c.Index = DefaultIndex
	}
	return &Adapter{c}, nil
}

// Close implements fixture.Adapter: nothing is held.
func (a *Adapter) Close() error { return nil }

// Open implements fixture.Adapter.
func (a *Adapter) Open(ctx context.Context, job fixture.Job) (fixture.Unit, error) {
	path, ok := a.c.TPMs[job.Nest]
	if !ok {
		path, ok = a.c.TPMs[""]
	}
	if !ok {
		return nil, fault.New(fault.ParameterInvalid, "no TPM is named for nest", job.Nest)
	}
	t, err := tpm.Open(ctx, tpm.Config{Path: path, OwnerAuth: a.c.OwnerAuth, EndorsementAuth: a.c.EndorsementAuth})
	if err != nil {
		return nil, err
	}
	u := &unit{t: t, kind: a.c.Kind}
	if a.c.Dir == "" {
		u.home = &inside{t, a.c.Handle, a.c.Index}
		return u, nil
	}
	u.home, err = newBeside(a.c.Dir, job.DeviceSerial)
	return u, err
}

// home is where a device's key and certificate are kept.
type home interface {
	// key returns the key; nil: there is none.
	key(ctx context.Context) (*tpm.Key, error)
	// make makes the key and keeps it. When it returns, a power cut leaves it there.
	make(ctx context.Context, t *tpm.TPM, kind format.KeyKind) (*tpm.Key, error)
	write(ctx context.Context, c fixture.Credential) error
	// read returns the certificate, DER.
	read(ctx context.Context) ([]byte, error)
}

// unit is the device in a nest.
type unit struct {
	t    *tpm.TPM
	kind format.KeyKind
	home home

	key *tpm.Key
	ek  *tpm.Endorsement
	ak  *tpm.Key
}

// Identify implements fixture.Unit. A TPM does not know the device's serial.
func (u *unit) Identify(context.Context) (fixture.Identity, error) { return fixture.Identity{}, nil }

// held returns the key that the device has already.
func (u *unit) held(ctx context.Context) (*tpm.Key, error) {
	if u.key != nil {
		return u.key, nil
	}
	k, err := u.home.key(ctx)
	if err != nil || k == nil {
		return nil, err
	}
	if p := k.Parsed(); !p.Attributes.Has(format.Sign|format.FixedTPM|format.SensitiveDataOrigin) || p.Attributes.Any(format.Restricted|format.Decrypt) {
		return nil, fault.New(fault.TPMHandle, "it is not a key of ours for signing")
	}
	u.key = k
	return k, nil
}

// Request implements fixture.Unit.
func (u *unit) Request(ctx context.Context) ([]byte, error) {
	k, err := u.held(ctx)
	if err != nil {
		return nil, err
	}
	if k == nil {
		if k, err = u.home.make(ctx, u.t, u.kind); err != nil {
			return nil, err
		}
		u.key = k
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, u.t.Signer(ctx, k))
}

// Claim implements fixture.Attester.
func (u *unit) Claim(ctx context.Context) (format.Claim, error) {
	var err error
	if u.ek, err = u.t.Endorsement(ctx); err != nil {
		return format.Claim{}, err
	}
	if u.ak, err = u.t.AttestationKey(ctx, "", 0); err != nil {
		return format.Claim{}, err
	}
	return tpm.Claim(u.ek, u.ak), nil
}

// Answer implements fixture.Attester.
func (u *unit) Answer(ctx context.Context, c *format.Challenge) (*format.Answer, error) {
	if u.ek == nil || u.key == nil {
		return nil, fault.New(fault.FixtureProtocol, "a challenge comes after the request and the claim")
	}
	return u.t.Answer(ctx, c, u.ek, u.ak, u.key)
}

// Prove implements fixture.Unit: a TPM proves by answering a challenge.
func (u *unit) Prove(context.Context, fixture.Statement) ([]byte, error) {
	return nil, fault.New(fault.ChipProofMissing, "the adapter tpm is for products whose key is made on the device")
}

// Install implements fixture.Unit.
func (u *unit) Install(ctx context.Context, c fixture.Credential) error {
	if len(c.Wrapped) > 0 {
		return fault.New(fault.FixtureProtocol, "the adapter tpm is for products whose key is made on the device")
	}
	return u.home.write(ctx, c)
}

// ReadBack implements fixture.Unit.
func (u *unit) ReadBack(ctx context.Context) ([]byte, error) { return u.home.read(ctx) }

// Confirm implements fixture.Unit.
func (u *unit) Confirm(ctx context.Context, s fixture.Statement) ([]byte, error) {
	k, err := u.held(ctx)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, fault.New(fault.ReadBackWrong, "the device has no key")
	}
	return u.t.Signer(ctx, k).Sign(nil, s.Digest[:], crypto.SHA256)
}

// Close implements fixture.Unit.
func (u *unit) Close(bool) error { return nil }
