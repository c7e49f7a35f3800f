package ceremony

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/shares"
)

// Where a step keeps the root's key file, twice, and the shares.
const (
	keyFolder    = "key"
	copyFolder   = "key-copy"
	keyURI       = "file:root"
	keyFileName  = "root.key"
	sharesFolder = "shares"
)

// NewRoot says what root to make.
type NewRoot struct {
	Profile    []byte // YAML, of the kind root
	CommonName string // default: the organization and "Root CA"
	KeyType    profile.KeyType
}

// MakeRoot makes the root's key and its certificate. A key in a file is
// encrypted under a passphrase that is shared out and forgotten at once.
func (o *Ceremony) MakeRoot(ctx context.Context, n NewRoot) (Step, error) {
	if err := o.open(); err != nil {
		return Step{}, err
	}
	if o.state.root != nil {
		return Step{}, fault.New(fault.CeremonyState, "there is a root already")
	}
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	p, err := profile.Parse(n.Profile)
	if err != nil {
		return Step{}, err
	}
	if p.Kind != profile.KindRoot || !p.Allows(n.KeyType) {
		return Step{}, fault.New(fault.AuthorityInvalid, "profile", p.Name, "does not make a root with a key of type", n.KeyType)
	}
	s, err := o.folder.stage(o.config.Rand)
	if err != nil {
		return Step{}, err
	}
	step, err := o.makeRoot(ctx, s, p, &n, now)
	if err != nil {
		s.drop()
	}
	return step, err
}

func (o *Ceremony) makeRoot(ctx context.Context, s *staging, p *profile.Profile, n *NewRoot, now time.Time) (Step, error) {
	if err := s.input("profile-"+p.Name+".yaml", n.Profile); err != nil {
		return Step{}, err
	}
	e := &Entry{Act: ActRoot, At: now, Root: new(Root)}
	key, err := o.makeKey(ctx, s, n.KeyType, e)
	if err != nil {
		return Step{}, err
	}
	e.Root.Certificate, err = o.selfSign(p, key, n, now)
	if err != nil {
		return Step{}, err
	}
	if err := s.output("root.pem", certificatePEM(e.Root.Certificate)); err != nil {
		return Step{}, err
	}
	return o.commit(s, e, "root")
}

// makeKey makes the root's key in a file or in hardware.
func (o *Ceremony) makeKey(ctx context.Context, s *staging, t profile.KeyType, e *Entry) (keystore.Key, error) {
	if o.state.plan.Key != KeyFile {
		return o.makeHardwareKey(ctx, t, e)
	}
	passphrase := keystore.NewPassphrase(o.config.Rand)
	defer clear(passphrase)
	store, err := o.keystore(filepath.Join(s.dir, keyFolder))
	if err != nil {
		return nil, err
	}
	key, err := store.Create(ctx, keyURI, t, passphrase)
	if err != nil {
		return nil, err
	}
	e.Root.Custody, err = o.shareOut(ctx, s, passphrase, o.state.plan.Custodians, o.state.plan.Threshold)
	return key, err
}

// makeHardwareKey makes the key where the plan says. One that an interrupted act
// has made is taken, and that is noted.
func (o *Ceremony) makeHardwareKey(ctx context.Context, t profile.KeyType, e *Entry) (keystore.Key, error) {
	if o.config.Keys == nil {
		return nil, fault.New(fault.KeyUnavailable, o.state.plan.Key, "is in hardware, and no signer process was named")
	}
	key, err := o.config.Keys.Create(ctx, o.state.plan.Key, t, nil)
	if fault.Has(err, fault.KeyExists) {
		e.Notes = append(e.Notes, "the key was in the hardware already: it was not made in this step")
		key, err = o.config.Keys.Load(ctx, o.state.plan.Key, nil)
	}
	if err == nil && key.Type() != t {
		return nil, fault.New(fault.KeyExists, o.state.plan.Key, "is a key of type", key.Type())
	}
	return key, err
}

func (o *Ceremony) keystore(dir string) (*keystore.Store, error) {
	return keystore.Open(keystore.Config{Dir: dir, Rand: o.config.Rand, Iterations: o.config.Iterations})
}

// shareOut splits the passphrase of the key file in a step's folder, writes the
// file's copy and the encrypted shares, and makes sure that the shares open the
// copy.
func (o *Ceremony) shareOut(ctx context.Context, s *staging, passphrase keystore.Secret, to []Custodian, threshold int) (*Custody, error) {
	content, err := s.made(keyFolder + "/" + keyFileName)
	if err != nil {
		return nil, err
	}
	if err := s.output(copyFolder+"/"+keyFileName, content); err != nil {
		return nil, err
	}
	var id shares.ID
	if _, err := io.ReadFull(o.config.Rand, id[:]); err != nil {
		return nil, err
	}
	all, err := shares.Split(passphrase, id, threshold, len(to), o.config.Rand)
	if err != nil {
		return nil, err
	}
	defer erase(all)
	custody := &Custody{Split: hex.EncodeToString(id[:]), Threshold: threshold}
	for i := range all {
		h := Held{
			Custodian: to[i], Index: all[i].Index, Commitment: commitment(&all[i]),
			File: fmt.Sprintf("%s/%d-%s.age", sharesFolder, all[i].Index, to[i].Name),
		}
		encrypted, err := seal(all[i].Text(), to[i].Recipient)
		if err != nil {
			return nil, err
		}
		if err := s.output(h.File, encrypted); err != nil {
			return nil, err
		}
		custody.Shares = append(custody.Shares, h)
	}
	return custody, o.tryShares(ctx, filepath.Join(s.dir, copyFolder), all[len(all)-threshold:])
}

// tryShares opens a key file with shares as they would be handed in.
func (o *Ceremony) tryShares(ctx context.Context, dir string, some []shares.Share) error {
	var given []shares.Share
	defer func() { erase(given) }()
	for i := range some {
		text := some[i].Text()
		parsed, err := shares.Parse(text)
		clear(text)
		if err != nil {
			return err
		}
		given = append(given, parsed)
	}
	passphrase, err := shares.Join(given)
	if err != nil {
		return err
	}
	defer clear(passphrase)
	store, err := o.keystore(dir)
	if err != nil {
		return err
	}
	_, err = store.Load(ctx, keyURI, passphrase)
	return err
}

func erase(all []shares.Share) {
	for i := range all {
		all[i].Erase()
	}
}

func commitment(s *shares.Share) string {
	sum := s.Commitment()
	return hex.EncodeToString(sum[:])
}

// seal encrypts a share to its custodian and forgets it. age takes its
// randomness from the system.
func seal(share []byte, to string) ([]byte, error) {
	defer clear(share)
	r, err := recipient(to)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, r)
	if err != nil {
		return nil, fault.Wrap(fault.KeyUnavailable, err, "a share cannot be encrypted")
	}
	if _, err := w.Write(share); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := armored.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// selfSign makes the root's certificate.
func (o *Ceremony) selfSign(p *profile.Profile, key keystore.Key, n *NewRoot, now time.Time) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fault.Wrap(fault.KeyAlgorithm, err)
	}
	certSerial, err := newCertSerial(o.config.Rand)
	if err != nil {
		return nil, err
	}
	notBefore, notAfter := issuing.SelfValidity(p, now)
	return issuing.SelfSign(p, key, issuing.Input{
		CertSerial: certSerial, NotBefore: notBefore, NotAfter: notAfter, SPKI: spki,
		Values: o.values(n.CommonName, o.title("", "Root CA")),
	})
}

// title tells authorities of one organization apart by their names, as package
// authority does.
func (o *Ceremony) title(name, what string) string {
	return strings.TrimSpace(strings.Join(strings.Fields(o.state.plan.Organization+" "+name+" "+what), " "))
}

// values are the names in a certificate. Those of a rehearsal begin with the
// mark.
func (o *Ceremony) values(commonName, usual string) profile.Values {
	if commonName == "" {
		commonName = usual
	}
	if o.state.rehearsal {
		commonName = authority.RehearsalMark + commonName
	}
	return profile.Values{CommonName: commonName, Organization: o.state.plan.Organization}
}

// newCertSerial returns the octets of a positive INTEGER with 126 random bits.
func newCertSerial(random io.Reader) ([]byte, error) {
	if random == nil {
		random = rand.Reader
	}
	octets := make([]byte, 16)
	if _, err := io.ReadFull(random, octets); err != nil {
		return nil, fmt.Errorf("certificate serial: %w", err)
	}
	octets[0] = octets[0]&0x3f | 0x40
	return octets, nil
}

// contentOctets returns the octets of a positive INTEGER.
func contentOctets(n *big.Int) []byte {
	octets := n.Bytes()
	if len(octets) == 0 || octets[0] >= 0x80 {
		octets = append([]byte{0}, octets...)
	}
	return octets
}
