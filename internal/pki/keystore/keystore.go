// Package keystore is where private keys live. The rest of the product names a
// key by a URI and gets a signer; the key itself stays here. This package has
// file:NAME, a PKCS #8 file encrypted with a passphrase, made so that openssl can
// open it: the way out must work without us. Keys behind the signer process
// (package remote) are another scheme of the same [Key]; what that process
// reaches in tokens and TPMs is in packages pkcs11 and tpm.
//
// A key file is written once and never overwritten: first completely under
// another name, synced, then linked to its own name, and the folder synced. Only
// a change of passphrase replaces it, as atomically. The encryption has no
// integrity of its own, so the file also carries the public key, and a file
// whose private key does not belong to it does not load.
//
// A signature made by a faulty machine can give the private key away, so
// nothing is released unchecked. Verifying an ECDSA signature costs twice as
// much as making it. Who holds the private scalar d can do with a third: a
// signature (r, s) over the digest e is right if and only if the point
// R' = ((e + r*d)/s)*G has r as its x coordinate, and G is fixed, so that its
// multiples come from a table. That is what [SelfChecker] does, for P-256, with
// code and a copy of d that did not take part in signing. Only 1/s is computed
// in variable time; r and s are public. The product r*d, the sum and the scalar
// (e + r*d)/s, which is the nonce of the signature, are secret and go through
// constant-time arithmetic (filippo.io/bigmod and crypto/ecdh). See
// docs/decisions/0007-self-check.md.
package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Iterations of PBKDF2 in new key files, where Config names none, and the least
// that Config may name.
const (
	DefaultIterations = 600_000
	minIterations     = 1_000
)

// Config says where keys are kept.
type Config struct {
	Dir  string // made with mode 0700 if missing
	Rand io.Reader

	// Iterations of PBKDF2 in new files; zero means DefaultIterations. Fewer
	// are for passphrases that nobody thought up ([NewPassphrase]).
	Iterations int
}

// Store is a folder of key files. It may be used by several goroutines.
type Store struct {
	dir        string
	rand       io.Reader
	iterations int
	writing    sync.Mutex // held while a key file is replaced
}

// Open returns the store in a folder, which it makes if it is missing.
func Open(c Config) (*Store, error) {
	switch {
	case c.Dir == "":
		return nil, errors.New("keystore: no folder")
	case c.Rand == nil:
		return nil, errors.New("keystore: no source of randomness")
	case c.Iterations == 0:
		c.Iterations = DefaultIterations
	case c.Iterations < minIterations || c.Iterations > maxIterations:
		return nil, fmt.Errorf("keystore: %d iterations, want %d to %d", c.Iterations, minIterations, maxIterations)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the key folder cannot be made")
	}
	info, err := os.Stat(c.Dir)
	if err != nil || !info.IsDir() {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the key folder is no folder")
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0 {
		return nil, fault.New(fault.KeyUnavailable, "everyone can write to the key folder; chmod 700")
	}
	return &Store{dir: c.Dir, rand: c.Rand, iterations: c.Iterations}, nil
}

// Create makes a new key under a URI that is free, or returns fault.KeyExists.
// When it returns a key, the key is on disk.
func (s *Store) Create(ctx context.Context, uri string, t profile.KeyType, passphrase Secret) (Key, error) {
	if err := s.vacant(ctx, uri); err != nil {
		return nil, err
	}
	signer, err := s.generate(t)
	if err != nil {
		return nil, err
	}
	return s.Import(ctx, uri, signer, passphrase)
}

// Import stores an existing private key, one of *ecdsa.PrivateKey,
// *rsa.PrivateKey and ed25519.PrivateKey, under a URI that is free.
func (s *Store) Import(ctx context.Context, uri string, key crypto.Signer, passphrase Secret) (Key, error) {
	name, err := parseURI(uri)
	if err != nil {
		return nil, err
	}
	if err := s.vacant(ctx, uri); err != nil {
		return nil, err
	}
	k, err := newKey(uri, key)
	if err != nil {
		return nil, err
	}
	content, err := s.encode(key, passphrase)
	if err != nil {
		return nil, err
	}
	if err := s.add(name, content); err != nil {
		return nil, err
	}
	return k, nil
}

// Load reads a key. It returns fault.KeyUnknown where there is none,
// fault.PassphraseWrong if passphrase and file do not fit or the file was
// changed, and fault.KeyUnavailable if the file cannot or must not be used.
func (s *Store) Load(ctx context.Context, uri string, passphrase Secret) (Key, error) {
	name, err := parseURI(uri)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("load key %s: %w", uri, err)
	}
	content, err := s.read(name)
	if err != nil {
		return nil, err
	}
	signer, err := decode(content, passphrase)
	if err != nil {
		return nil, err
	}
	return newKey(uri, signer)
}

// List returns the URIs of all keys, sorted. It does not look into the files.
func (s *Store) List(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "the key folder cannot be read")
	}
	var uris []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if ok && e.Type().IsRegular() && validName(name) {
			uris = append(uris, schemeFile+name)
		}
	}
	slices.Sort(uris)
	return uris, nil
}

// ChangePassphrase encrypts a key file anew. Whatever happens on the way, the
// file opens with the old passphrase or with the new one.
func (s *Store) ChangePassphrase(ctx context.Context, uri string, old, replacement Secret) error {
	name, err := parseURI(uri)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("change passphrase of %s: %w", uri, err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	content, err := s.read(name)
	if err != nil {
		return err
	}
	signer, err := decode(content, old)
	if err != nil {
		return err
	}
	if content, err = s.encode(signer, replacement); err != nil {
		return err
	}
	return s.replace(name, content)
}

// vacant refuses a URI that is taken before anything costly is done for it; the
// link that ends writing decides for good.
func (s *Store) vacant(ctx context.Context, uri string) error {
	name, err := parseURI(uri)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("make key %s: %w", uri, err)
	}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	switch _, err := root.Lstat(name + suffix); {
	case err == nil:
		return fault.New(fault.KeyExists, uri)
	case !errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.KeyUnavailable, err)
	}
	return nil
}

func (s *Store) generate(t profile.KeyType) (crypto.Signer, error) {
	sizes := map[profile.KeyType]int{profile.RSA2048: 2048, profile.RSA3072: 3072, profile.RSA4096: 4096}
	var signer crypto.Signer
	var err error
	switch t {
	case profile.P256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), s.rand)
	case profile.P384:
		signer, err = ecdsa.GenerateKey(elliptic.P384(), s.rand)
	case profile.Ed25519:
		_, signer, err = ed25519.GenerateKey(s.rand)
	case profile.RSA2048, profile.RSA3072, profile.RSA4096:
		signer, err = rsa.GenerateKey(s.rand, sizes[t])
	default:
		return nil, fault.New(fault.KeyAlgorithm, string(t))
	}
	if err != nil {
		return nil, fmt.Errorf("make a %s key: %w", t, err)
	}
	return signer, nil
}

const (
	schemeFile = "file:"
	maxName    = 64
)

// parseURI returns the name in a file: URI.
func parseURI(uri string) (string, error) {
	name, ok := strings.CutPrefix(uri, schemeFile)
	if !ok {
		if scheme, _, ok := strings.Cut(uri, ":"); ok && validName(scheme) {
			return "", fault.New(fault.KeyURI, "keys of the scheme", scheme, "are not supported")
		}
		return "", fault.New(fault.KeyURI, "the scheme is missing")
	}
	if !validName(name) {
		return "", fault.New(fault.KeyURI, "a name is 1 to", maxName, "of the characters a-z A-Z 0-9 . _ - and starts with a letter or digit")
	}
	return name, nil
}

// validName accepts what is one plain file name on every system.
func validName(name string) bool {
	if name == "" || len(name) > maxName || strings.ContainsAny(name[:1], "._-") || strings.HasSuffix(name, ".") {
		return false
	}
	for i := range len(name) {
		b := name[i]
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '.' && b != '_' && b != '-' {
			return false
		}
	}
	// Device names that Windows sees in any folder, whatever follows the dot.
	base, _, _ := strings.Cut(strings.ToLower(name), ".")
	switch base {
	case "con", "prn", "aux", "nul":
		return false
	}
	return len(base) != 4 || !strings.HasPrefix(base, "com") && !strings.HasPrefix(base, "lpt") || base[3] < '0' || base[3] > '9'
}
