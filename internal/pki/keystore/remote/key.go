package remote

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/signer"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Scheme begins the URIs of keys in the signer.
const Scheme = "signer:"

// NameOf returns the name in a signer: URI; ok is false for other schemes.
func NameOf(uri string) (name string, ok bool, err error) {
	name, ok = strings.CutPrefix(uri, Scheme)
	if ok && !wire.ValidName(name) {
		return "", true, fault.New(fault.KeyURI, "a name is 1 to", wire.MaxName, "of the characters a-z A-Z 0-9 . _ - and starts with a letter or digit")
	}
	return name, ok, nil
}

// Keys are the keys of a folder and of the signer under one roof.
type Keys struct {
	*keystore.Store         // file:
	Signer          *Client // signer:; nil: there is none
}

// key is a key in the signer.
type key struct {
	client *Client
	name   string
	public crypto.PublicKey
	kind   profile.KeyType
	hash   crypto.Hash
}

// newKey returns the Key of a name and public key.
func newKey(c *Client, name string, public crypto.PublicKey) (*key, error) {
	kind, err := profile.KeyTypeOf(public)
	if err != nil {
		return nil, err
	}
	k := &key{client: c, name: name, public: public, kind: kind, hash: crypto.SHA256}
	switch kind {
	case profile.P384:
		k.hash = crypto.SHA384
	case profile.Ed25519:
		k.hash = 0
	}
	return k, nil
}

// URI returns signer:NAME.
func (k *key) URI() string { return Scheme + k.name }

// Type returns the key's type.
func (k *key) Type() profile.KeyType { return k.kind }

// Public returns the public key.
func (k *key) Public() crypto.PublicKey { return k.public }

var errHash = errors.New("remote: this key does not sign with that hash")

// Sign refuses: the signer signs what it can read, never a digest.
func (k *key) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fault.New(fault.SignerContent, "the signer signs no digests")
}

// SignMessage has the signer sign a to-be-signed structure.
func (k *key) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != nil && opts.HashFunc() != k.hash {
		return nil, errHash
	}
	return k.client.Sign(context.Background(), k.name, message)
}

// Create returns a key that the signer has already, if it is of this type: keys
// there are made with birthmark-signer. Others are made in the folder.
func (k *Keys) Create(ctx context.Context, uri string, t profile.KeyType, secret keystore.Secret) (keystore.Key, error) {
	_, remote, err := NameOf(uri)
	if err != nil {
		return nil, err
	}
	if !remote {
		return k.Store.Create(ctx, uri, t, secret)
	}
	got, err := k.Load(ctx, uri, secret)
	if err != nil {
		return nil, err
	}
	if got.Type() != t {
		return nil, fault.New(fault.KeyExists, uri, "is a key of type", got.Type())
	}
	return got, nil
}

// Load opens a key. One in the signer needs no passphrase.
func (k *Keys) Load(ctx context.Context, uri string, secret keystore.Secret) (keystore.Key, error) {
	name, remote, err := NameOf(uri)
	if err != nil {
		return nil, err
	}
	if !remote {
		return k.Store.Load(ctx, uri, secret)
	}
	if k.Signer == nil {
		return nil, fault.New(fault.SignerUnreachable, "name its socket with --signer-socket, in a ceremony with --signer")
	}
	got, err := k.Signer.Key(ctx, name)
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(got.SPKI)
	if err != nil {
		return nil, fault.Wrap(fault.KeyAlgorithm, err)
	}
	return newKey(k.Signer, name, public)
}

// Expect returns a key in the signer whose public key is known from its
// certificate, without asking the signer: it may come up later. ok is false for
// keys elsewhere.
func (k *Keys) Expect(uri string, public crypto.PublicKey) (got keystore.Key, ok bool, err error) {
	name, remote, err := NameOf(uri)
	if err != nil || !remote {
		return nil, remote, err
	}
	if k.Signer == nil {
		return nil, true, fault.New(fault.SignerUnreachable, "name its socket with --signer-socket, in a ceremony with --signer")
	}
	got, err = newKey(k.Signer, name, public)
	return got, true, err
}

// Import stores a private key in the folder. The signer takes none.
func (k *Keys) Import(ctx context.Context, uri string, private crypto.Signer, secret keystore.Secret) (keystore.Key, error) {
	if _, remote, err := NameOf(uri); remote || err != nil {
		return nil, errors.Join(fault.New(fault.KeyURI, "import the key with birthmark-signer"), err)
	}
	return k.Store.Import(ctx, uri, private, secret)
}
