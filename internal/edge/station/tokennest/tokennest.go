// Package tokennest is the adapter for devices whose key is in a PKCS #11 token
// that the station reaches itself: a secure element or smart card with the
// maker's module. The key is made in the token, signs its own request, and the
// certificate is kept beside it as the standard's certificate object. Where the
// chip's maker has put a key of its own into the token and lists it, that key
// proves the chip, or becomes the key of the certificate.
//
// Modules are C libraries: only stations built with the tag pkcs11 can use this;
// others explain themselves.
package tokennest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Config says where the tokens are.
type Config struct {
	Module string
	Tokens map[string]string // label of the token by nest; the empty nest stands for all others
	PIN    func() ([]byte, error)
	// Label and ID are those of the key that gets the certificate, and of the
	// certificate.
	Label string
	ID    []byte
	Kind  profile.KeyType // of a new key
	// ChipLabel is the label of the key that the chip's maker lists; its CKA_ID is the
	// chip's UID in the manifest. Empty: there is none.
	ChipLabel string
}

// Adapter reaches devices. A token stays open for the units that come to its nest
// one after the other: the module's login is the process's.
type Adapter struct {
	c Config

	mu   sync.Mutex
	open map[string]*pkcs11.Token // by label; guarded by mu
}

// New returns an adapter, or explains why there is none.
func New(c Config) (*Adapter, error) {
	switch {
	case !pkcs11.Available:
		return nil, fault.New(fault.BuiltWithout)
	case c.Module == "" || len(c.Tokens) == 0:
		return nil, fault.New(fault.ParameterInvalid, "the adapter pkcs11 needs --pkcs11-module and --pkcs11-token")
	case c.Label == "":
		return nil, fault.New(fault.ParameterInvalid, "the key has no label")
	}
	return &Adapter{c: c, open: map[string]*pkcs11.Token{}}, nil
}

// Close implements fixture.Adapter.
func (a *Adapter) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.open {
		t.Close()
	}
	clear(a.open)
	return nil
}

func (a *Adapter) token(label string) (*pkcs11.Token, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.open[label]; t != nil {
		return t, nil
	}
	t, err := pkcs11.Open(pkcs11.Config{Module: a.c.Module, Token: label, PIN: a.c.PIN, Sessions: 1, Now: time.Now})
	if err == nil {
		a.open[label] = t
	}
	return t, err
}

// Open implements fixture.Adapter.
func (a *Adapter) Open(_ context.Context, job fixture.Job) (fixture.Unit, error) {
	label, ok := a.c.Tokens[job.Nest]
	if !ok {
		label, ok = a.c.Tokens[""]
	}
	if !ok {
		return nil, fault.New(fault.ParameterInvalid, "no token is named for nest", job.Nest)
	}
	t, err := a.token(label)
	if err != nil {
		return nil, err
	}
	return &unit{c: &a.c, t: t, model: job.KeyModel}, nil
}

// unit is the device in a nest.
type unit struct {
	c     *Config
	t     *pkcs11.Token
	model string
}

// held reports whether the chip's own key gets the certificate.
func (u *unit) held() bool { return u.model == "pre-provisioned" || u.model == "adopted" }

// label returns the label of key and certificate.
func (u *unit) label() (string, []byte) {
	if u.held() {
		return u.c.ChipLabel, nil
	}
	return u.c.Label, u.c.ID
}

func (u *unit) key(ctx context.Context) (*pkcs11.Key, error) {
	label, id := u.label()
	return u.t.Key(ctx, label, id)
}

// Identify implements fixture.Unit.
func (u *unit) Identify(ctx context.Context) (fixture.Identity, error) {
	if u.c.ChipLabel == "" {
		return fixture.Identity{}, nil
	}
	all, err := u.t.Keys(ctx)
	if err != nil {
		return fixture.Identity{}, err
	}
	i := slices.IndexFunc(all, func(k pkcs11.KeyInfo) bool { return k.Label == u.c.ChipLabel })
	if i < 0 {
		return fixture.Identity{}, fault.New(fault.TokenKey, "the token has no private key of the key", u.c.ChipLabel)
	}
	k, err := u.t.Key(ctx, u.c.ChipLabel, nil)
	if err != nil {
		return fixture.Identity{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	return fixture.Identity{ChipUID: hex.EncodeToString(all[i].ID), SPKI: spki}, err
}

// Request implements fixture.Unit. A key that is there already is used: its unit
// was cut off before.
func (u *unit) Request(ctx context.Context) ([]byte, error) {
	k, err := u.key(ctx)
	if fault.Has(err, fault.TokenKey) {
		k, err = u.make(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, &signer{ctx, k})
}

// make makes the key, unless what is wrong with it is not that there is none.
func (u *unit) make(ctx context.Context, cause error) (*pkcs11.Key, error) {
	all, err := u.t.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(all, func(k pkcs11.KeyInfo) bool { return k.Label == u.c.Label }) {
		return nil, cause
	}
	return u.t.Create(ctx, u.c.Label, u.c.ID, u.c.Kind)
}

// Prove implements fixture.Unit.
func (u *unit) Prove(ctx context.Context, s fixture.Statement) ([]byte, error) {
	if u.c.ChipLabel == "" {
		return nil, fault.New(fault.ChipProofMissing, "no key of the chip's maker is named")
	}
	k, err := u.t.Key(ctx, u.c.ChipLabel, nil)
	if err != nil {
		return nil, err
	}
	return k.Sign(ctx, s.Digest[:], crypto.SHA256)
}

// Install implements fixture.Unit.
func (u *unit) Install(ctx context.Context, c fixture.Credential) error {
	if len(c.Wrapped) > 0 {
		return fault.New(fault.FixtureProtocol, "the adapter pkcs11 takes no wrapped keys")
	}
	label, id := u.label()
	return u.t.SetCertificate(ctx, label, id, c.Certificate)
}

// ReadBack implements fixture.Unit.
func (u *unit) ReadBack(ctx context.Context) ([]byte, error) {
	label, id := u.label()
	der, err := u.t.Certificate(ctx, label, id)
	if err == nil && der == nil {
		err = fault.New(fault.ReadBackWrong, "the token holds no certificate")
	}
	return der, err
}

// Confirm implements fixture.Unit.
func (u *unit) Confirm(ctx context.Context, s fixture.Statement) ([]byte, error) {
	k, err := u.key(ctx)
	if err != nil {
		return nil, err
	}
	return k.Sign(ctx, s.Digest[:], crypto.SHA256)
}

// Close implements fixture.Unit.
func (u *unit) Close(bool) error { return nil }

// signer is a key of a token as crypto.Signer.
type signer struct {
	ctx context.Context // of the step: crypto.Signer has none
	key *pkcs11.Key
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.key.Public() }

// Sign implements crypto.Signer.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, errors.New("token: a hash is needed")
	}
	return s.key.Sign(s.ctx, digest, opts.HashFunc())
}
