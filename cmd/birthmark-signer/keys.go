package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
	"github.com/birthmark/birthmark/internal/pki/keystore/tpm"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// keyURI is where a key lives.
type keyURI struct {
	scheme string // pkcs11, file or tpm
	token  string // pkcs11: labels, id
	object string
	id     []byte
	name   string // file
	handle uint32 // tpm
}

// parseURI reads a key's URI; pkcs11: as in RFC 7512, with these attributes.
func parseURI(uri string) (keyURI, error) {
	scheme, rest, ok := strings.Cut(uri, ":")
	u := keyURI{scheme: scheme}
	wrong := func(detail ...any) (keyURI, error) {
		return u, fault.New(fault.KeyURI, append([]any{uri + ":"}, detail...)...)
	}
	var err error
	switch {
	case !ok:
		return wrong("pkcs11:token=LABEL;object=LABEL, file:NAME or tpm:HANDLE")
	case scheme == "file":
		u.name = rest
	case scheme == "tpm":
		u.handle, err = tpm.ParseHandle(rest)
	case scheme == "pkcs11":
		for part := range strings.SplitSeq(rest, ";") {
			name, value, _ := strings.Cut(part, "=")
			if value, err = unescape(value); err != nil {
				return wrong("a percent sign is followed by two hexadecimal digits")
			}
			switch name {
			case "token":
				u.token = value
			case "object":
				u.object = value
			case "id":
				u.id = []byte(value)
				if !strings.Contains(part, "%") {
					if u.id, err = hex.DecodeString(value); err != nil {
						return wrong("an id is hexadecimal")
					}
				}
			default:
				return wrong("the attribute", name, "is not one of token, object, id")
			}
		}
		if u.token == "" || u.object == "" {
			return wrong("token and object are needed")
		}
	default:
		return wrong("keys of this scheme are not supported")
	}
	return u, err
}

// unescape reads percent-encoding.
func unescape(text string) (string, error) {
	var b strings.Builder
	for text != "" {
		before, after, found := strings.Cut(text, "%")
		b.WriteString(before)
		if !found {
			break
		}
		if len(after) < 2 {
			return "", errors.New("cut")
		}
		octet, err := hex.DecodeString(after[:2])
		if err != nil {
			return "", err
		}
		b.Write(octet)
		text = after[2:]
	}
	return b.String(), nil
}

// backends opens keys where they live, each token and folder once.
type backends struct {
	settings *Settings
	io       *streams
	tokens   map[string]*pkcs11.Token
	opened   []*tpm.Key
	prompted []byte // the PIN, typed
}

func newBackends(s *Settings, io *streams) *backends {
	return &backends{settings: s, io: io, tokens: make(map[string]*pkcs11.Token)}
}

func (b *backends) close() {
	for _, t := range b.tokens {
		t.Close()
	}
	for _, k := range b.opened {
		k.Close()
	}
}

// retry lets refused PINs be tried once more.
func (b *backends) retry() {
	for _, t := range b.tokens {
		t.Retry()
	}
}

// token opens a PKCS #11 token by its label.
func (b *backends) token(label string) (*pkcs11.Token, error) {
	if t := b.tokens[label]; t != nil {
		return t, nil
	}
	c := &b.settings.PKCS11
	pin := func() ([]byte, error) { return bytes.Clone(b.prompted), nil }
	switch {
	case c.PINFile != "":
		pin = func() ([]byte, error) { return readSecret(c.PINFile, "the PIN") }
		if _, err := pin(); err != nil {
			return nil, err
		}
	case b.prompted == nil && pkcs11.Available:
		var err error
		if b.prompted, err = b.prompt(label); err != nil {
			return nil, err
		}
	}
	t, err := pkcs11.Open(pkcs11.Config{Module: c.Module, Token: label, PIN: pin, Sessions: c.Sessions, Wait: c.Wait, Now: time.Now})
	if err != nil {
		return nil, err
	}
	b.tokens[label] = t
	return t, nil
}

// prompt asks for the PIN at the terminal.
func (b *backends) prompt(label string) ([]byte, error) {
	in, ok := b.io.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, invalid("no pin_file, and nobody to ask for the PIN")
	}
	if _, err := b.io.err.Write([]byte("PIN of the token " + label + ": ")); err != nil {
		return nil, err
	}
	pin, err := term.ReadPassword(int(in.Fd()))
	_, _ = b.io.err.Write([]byte("\n")) // the PIN was read
	return pin, err
}

// folder opens the folder of key files.
func (b *backends) folder() (*keystore.Store, keystore.Secret, error) {
	c := &b.settings.File
	if c.Folder == "" {
		return nil, nil, invalid("file: folder: missing")
	}
	secret, err := readSecret(c.PassphraseFile, "the passphrase")
	if err != nil {
		return nil, nil, err
	}
	s, err := keystore.Open(keystore.Config{Dir: c.Folder, Rand: rand.Reader})
	return s, secret, err
}

// open opens a key.
func (b *backends) open(ctx context.Context, k *KeySettings) (signer.Backend, error) {
	u, err := parseURI(k.URI)
	if err != nil {
		return nil, err
	}
	switch u.scheme {
	case "pkcs11":
		t, err := b.token(u.token)
		if err != nil {
			return nil, err
		}
		return notNil(t.Key(ctx, u.object, u.id))
	case "tpm":
		key, err := tpm.Open(ctx, tpm.Config{Path: b.settings.TPM.Path, Handle: u.handle, Auth: b.tpmAuth})
		if err == nil {
			b.opened = append(b.opened, key)
		}
		return notNil(key, err)
	}
	s, secret, err := b.folder()
	if err != nil {
		return nil, err
	}
	key, err := s.Load(ctx, k.URI, secret)
	if err != nil {
		return nil, err
	}
	return signer.Local(key), nil
}

// notNil keeps a nil pointer out of the interface.
func notNil[B signer.Backend](b B, err error) (signer.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *backends) tpmAuth() ([]byte, error) {
	if b.settings.TPM.AuthFile == "" {
		return nil, nil
	}
	return readSecret(b.settings.TPM.AuthFile, "the TPM's authorization")
}

// create makes a key where its URI says.
func (b *backends) create(ctx context.Context, k *KeySettings, t profile.KeyType) (signer.Backend, error) {
	u, err := parseURI(k.URI)
	if err != nil {
		return nil, err
	}
	switch u.scheme {
	case "pkcs11":
		token, err := b.token(u.token)
		if err != nil {
			return nil, err
		}
		id := u.id
		if id == nil {
			id = make([]byte, 8)
			if _, err := rand.Read(id); err != nil {
				return nil, err
			}
		}
		return notNil(token.Create(ctx, u.object, id, t))
	case "tpm":
		return nil, fault.New(fault.KeyURI, "make the TPM's key with tpm2_create and tpm2_evictcontrol; docs/operate/hsm.md says how")
	}
	s, secret, err := b.folder()
	if err != nil {
		return nil, err
	}
	key, err := s.Create(ctx, k.URI, t, secret)
	if err != nil {
		return nil, err
	}
	return signer.Local(key), nil
}

// keyConfig is a key as the engine takes it.
func (s *Settings) keyConfig(k *KeySettings, b signer.Backend) (signer.KeyConfig, error) {
	bounds, err := k.bounds()
	if err != nil {
		return signer.KeyConfig{}, err
	}
	c := signer.KeyConfig{
		Name: k.Name, Backend: b, Bounds: bounds,
		Certificate: func() ([]byte, error) { return readCertificate(k.Certificate) },
		Bind:        func(der []byte) error { return writeCertificate(k.Certificate, der) },
	}
	if k.Issuer != "" {
		if c.Issuer, err = readCertificate(k.Issuer); err == nil && c.Issuer == nil {
			err = invalid("key", k.Name+":", "issuer:", k.Issuer, "is not there")
		}
	}
	return c, err
}

// readCertificate reads one PEM certificate; nil if the file is not there.
func readCertificate(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fault.New(fault.CertificateInvalid, path, "is not one certificate in PEM form")
	}
	return block.Bytes, nil
}

// writeCertificate writes a certificate under a name that is free, whole or not
// at all.
func writeCertificate(path string, der []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
