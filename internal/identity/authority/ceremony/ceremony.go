// Package ceremony makes a root and lets it sign, on a machine of its own that
// has neither network nor database: a key ceremony, with everything it needs
// and makes in one folder.
//
// The ceremony begins with a plan: who takes part, by role, and who will hold
// the root's key. That is either hardware, reached through the signer process,
// or a file whose passphrase nobody ever sees: it is split among custodians, and
// each share is encrypted to its custodian's age key before it touches the disk.
// From then on each act (make the root, sign a subordinate authority from its
// request, sign the CRL, share the key out anew) needs as many custodians as the
// plan says, and leaves one folder with all it was given and made, and an entry
// of the transcript. A step's folder appears complete or not at all, so a
// ceremony that is killed anywhere goes on from its last complete step; nothing
// is ever overwritten.
//
// Entries are chained by digest and signed by a key that lives as long as the
// ceremony. At the end the root certifies that key under the digest of the last
// entry: a certificate like any other, so that the root's key never signs bytes
// of another sort, and from then on whoever trusts the root can check the whole
// transcript with [Verify], or with openssl. A rehearsal runs the same code and
// marks every certificate so that nobody takes it for real.
package ceremony

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Keys opens and makes keys in hardware; a *keystore.Store is one.
type Keys interface {
	Create(ctx context.Context, uri string, t profile.KeyType, secret keystore.Secret) (keystore.Key, error)
	Load(ctx context.Context, uri string, secret keystore.Secret) (keystore.Key, error)
}

// Config names what a ceremony needs. The caller sees to it that one process at
// a time works in the folder.
type Config struct {
	Dir     string
	Now     func() time.Time
	Rand    io.Reader
	Machine Machine
	Present []string // who takes part in the act, by role
	Keys    Keys     // for a root in hardware; nil: there are no such keys here
	// Iterations of PBKDF2 for the key file; 0: the keystore's default. The
	// passphrase has 140 random bits, so fewer lose nothing.
	Iterations int
}

func (c *Config) check() error {
	if c.Dir == "" || c.Now == nil || c.Rand == nil {
		return errors.New("ceremony: Dir, Now and Rand are needed")
	}
	return nil
}

// Ceremony is one that has begun.
type Ceremony struct {
	config  Config
	folder  folder
	state   *state
	names   []string // of the steps' folders
	raw     [][]byte // entries
	signed  [][]byte // their signatures
	key     *ecdsa.PrivateKey
	dropped []string // folders of interrupted acts, removed by the next
}

// Open replays what was done in the folder. It returns fault.CeremonyState when
// nothing has begun there, and fault.TranscriptInvalid when a file or an entry
// is not as it was written.
func Open(c Config) (*Ceremony, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	o := &Ceremony{config: c, folder: folder(c.Dir)}
	if err := o.replay(); err != nil {
		return nil, err
	}
	if o.state.finished {
		// Killed between its last step and this, finish has left the key.
		return o, removeKey(o.folder)
	}
	for _, name := range c.Present {
		if !o.state.mayBePresent(name) {
			return nil, fault.New(fault.ParameterInvalid, name, "is not among the participants of the plan")
		}
	}
	return o, o.loadKey()
}

func removeKey(f folder) error {
	err := os.Remove(f.in(keyName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// replay reads and checks all steps.
func (o *Ceremony) replay() error {
	names, left, err := o.folder.steps()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fault.New(fault.CeremonyState, "no ceremony has begun in", string(o.folder))
	}
	o.state, o.names, o.dropped, o.raw, o.signed = newState(), names, left, nil, nil
	for i, name := range names {
		if numberOf(name) != i+1 {
			return fault.New(fault.TranscriptInvalid, fmt.Sprintf("entry %d: there is no folder of this step", i+1))
		}
		files, err := o.folder.readStep(name)
		if err != nil {
			return err
		}
		e, err := o.state.apply(files[entryFile], files[signatureFile])
		if err != nil {
			return err
		}
		if file, ok := held(e, files); !ok {
			return fault.New(fault.TranscriptInvalid, fmt.Sprintf("entry %d: the file %s/%s is not as it was", i+1, name, file))
		}
		if e.Plan != nil && e.Plan.After != nil {
			if what := e.Plan.goesOn(e, files[earlierTranscript]); what != "" {
				return fault.New(fault.TranscriptInvalid, fmt.Sprintf("entry %d: %s", i+1, what))
			}
		}
		o.raw, o.signed = append(o.raw, files[entryFile]), append(o.signed, files[signatureFile])
	}
	return nil
}

func (o *Ceremony) loadKey() error {
	text, err := os.ReadFile(o.folder.in(keyName))
	if err != nil {
		return fault.Wrap(fault.CeremonyState, err, "the ceremony's key is missing")
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fault.New(fault.CeremonyState, "the ceremony's key is damaged")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fault.Wrap(fault.CeremonyState, err, "the ceremony's key is damaged")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(o.state.key) {
		return fault.New(fault.CeremonyState, "the ceremony's key is another one")
	}
	o.key = key
	return nil
}

// Plan returns what was decided before the ceremony began.
func (o *Ceremony) Plan() Plan { return *o.state.plan }

// Custody returns who holds the shares now, or nil.
func (o *Ceremony) Custody() *Custody {
	if o.state.root == nil {
		return nil
	}
	return o.state.root.Custody
}

// Use names the keys in hardware, when they can only be reached once it is known
// which.
func (o *Ceremony) Use(keys Keys) { o.config.Keys = keys }

// Finished reports whether the ceremony has ended.
func (o *Ceremony) Finished() bool { return o.state.finished }

// RootFile returns the path of the root's certificate, or nothing before there
// is one.
func (o *Ceremony) RootFile() string {
	if o.state.root == nil {
		return ""
	}
	return o.folder.in(o.names[o.state.names[o.state.plan.Authority]-1], "root.pem")
}

// Step is what an act has left.
type Step struct {
	Folder string // path
	Entry  Entry
}

// open refuses acts after the end.
func (o *Ceremony) open() error {
	if o.state.finished {
		return fault.New(fault.CeremonyState, "it is finished; begin another one that goes on from it")
	}
	return nil
}

// rooted refuses acts that need a root.
func (o *Ceremony) rooted() error {
	if err := o.open(); err != nil {
		return err
	}
	if o.state.root == nil {
		return fault.New(fault.CeremonyState, "there is no root yet")
	}
	return nil
}

// now returns the time of the next entry.
func (o *Ceremony) now() (time.Time, error) {
	now := o.config.Now().UTC().Truncate(time.Second)
	if now.Before(o.state.last) {
		return now, fault.New(fault.CeremonyState, "the clock is behind the last step, which was at", o.state.last.Format(time.RFC3339))
	}
	return now, nil
}

// commit completes a step: it writes the entry, signed, checks it the way a
// reader would, and gives the folder its name.
func (o *Ceremony) commit(s *staging, e *Entry, name string) (Step, error) {
	if len(o.dropped) > 0 {
		e.Notes = append(e.Notes, fmt.Sprintf("%d interrupted acts left folders, which were removed", len(o.dropped)))
	}
	if up := o.config.Machine.Interfaces; len(up) > 0 {
		e.Notes = append(e.Notes, "a network was up: "+strings.Join(up, ", "))
	}
	e.Number, e.Previous = o.state.count+1, o.state.head
	e.Ceremony, e.Rehearsal = o.state.id, o.state.rehearsal
	e.Machine, e.Inputs, e.Outputs = o.config.Machine, s.inputs, s.outputs
	for _, who := range o.config.Present {
		if !slices.Contains(e.Present, who) {
			e.Present = append(e.Present, who)
		}
	}
	raw, signature, err := o.sign(e)
	if err != nil {
		return Step{}, err
	}
	if err := s.write(entryFile, raw); err != nil {
		return Step{}, err
	}
	if err := s.write(signatureFile, signature); err != nil {
		return Step{}, err
	}
	if s.last != nil {
		if err := s.last(raw, signature); err != nil {
			return Step{}, err
		}
	}
	for _, left := range o.dropped {
		if err := os.RemoveAll(o.folder.in(left)); err != nil {
			return Step{}, err
		}
	}
	folderName := fmt.Sprintf("%02d-%s", e.Number, name)
	if err := s.publish(folderName); err != nil {
		return Step{}, err
	}
	return Step{Folder: o.folder.in(folderName), Entry: *e}, o.replay()
}

// sign encodes and signs an entry. What a reader would refuse is not published.
func (o *Ceremony) sign(e *Entry) (raw, signature []byte, err error) {
	if raw, err = e.encode(); err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256(raw)
	if signature, err = ecdsa.SignASN1(o.config.Rand, o.key, digest[:]); err != nil {
		return nil, nil, err
	}
	next := newState()
	for i := range o.raw {
		if _, err := next.apply(o.raw[i], o.signed[i]); err != nil {
			return nil, nil, err
		}
	}
	_, err = next.apply(raw, signature)
	return raw, signature, err
}
