package ceremony

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
)

// ChangeCustodians shares the root's key out anew, when a custodian left or a
// share was lost: the key file is encrypted under a new passphrase, which is
// split among the new custodians. The old shares do not open the new file; they
// still open the old one, so its copies must be destroyed.
func (r *Session) ChangeCustodians(ctx context.Context, to []Custodian, threshold int) (Step, error) {
	o := r.ceremony
	if o.state.root.Custody == nil {
		return Step{}, fault.New(fault.CeremonyState, "the root's key is in hardware; it has no custodians")
	}
	if err := checkCustodians(to, threshold); err != nil {
		return Step{}, err
	}
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	e := &Entry{Act: ActCustodians, At: now}
	return r.record(e, "custodians", func(s *staging) error {
		passphrase := keystore.NewPassphrase(o.config.Rand)
		defer clear(passphrase)
		store, err := o.keystore(filepath.Join(s.dir, keyFolder))
		if err != nil {
			return err
		}
		if err := r.rewrap(ctx, s, store, passphrase); err != nil {
			return err
		}
		e.Custody, err = o.shareOut(ctx, s, passphrase, to, threshold)
		return err
	})
}

// rewrap writes the root's key file under another passphrase: a copy of the one
// that is there, which is then encrypted anew.
func (r *Session) rewrap(ctx context.Context, s *staging, store *keystore.Store, passphrase keystore.Secret) error {
	o := r.ceremony
	files, err := o.folder.readStep(o.names[o.state.keyStep-1])
	if err != nil {
		return err
	}
	if err := s.write(keyFolder+"/"+keyFileName, intactKey(files, o.state.keySum)); err != nil {
		return err
	}
	if err := store.ChangePassphrase(ctx, keyURI, r.passphrase, passphrase); err != nil {
		return err
	}
	_, err = store.Load(ctx, keyURI, passphrase)
	return err
}

// carry reads the finished ceremony that this one goes on from: its root, key
// file, shares and list of revoked certificates.
func (p *NewPlan) carry(now func() time.Time, random io.Reader) (map[string][]byte, error) {
	if p.After == "" {
		return nil, nil
	}
	before, err := Open(Config{Dir: p.After, Now: now, Rand: random})
	if err != nil {
		return nil, err
	}
	transcript, report, err := before.finished()
	if err != nil {
		return nil, err
	}
	if report.Rehearsal != p.Rehearsal {
		return nil, fault.New(fault.CeremonyState, "a rehearsal goes on from a rehearsal, and nothing else does")
	}
	if len(p.Custodians) > 0 || p.Threshold != 0 {
		return nil, fault.New(fault.ParameterInvalid, "custodians come from the earlier ceremony; share the key out anew in a step of its own")
	}
	state := before.state
	p.goOn(state, transcript)
	files := map[string][]byte{"root.pem": certificatePEM(state.root.Certificate), earlierTranscript: transcript}
	if state.root.Custody == nil {
		return files, nil
	}
	held, err := before.folder.readStep(before.names[state.keyStep-1])
	if err != nil {
		return nil, err
	}
	key := intactKey(held, state.keySum)
	files[keyFolder+"/"+keyFileName], files[copyFolder+"/"+keyFileName] = key, key
	for _, h := range state.root.Custody.Shares {
		files[h.File] = held[h.File]
	}
	return files, nil
}

// goOn fills in what comes from an earlier ceremony.
func (p *Plan) goOn(s *state, transcript []byte) {
	p.Authority, p.Organization, p.StatusURL, p.Key, p.Hardware = s.plan.Authority, s.plan.Organization, s.plan.StatusURL, s.plan.Key, s.plan.Hardware
	p.After = &Earlier{
		Ceremony: s.id, Transcript: sum(transcript), Root: *s.root,
		CRLNumber: s.crlNumber, CRLUpdate: s.crlUpdate, Revoked: s.revoked,
	}
}

// goesOn says what is wrong unless a plan says of the earlier ceremony what its
// transcript says, for which the root vouches. The key that signs a ceremony's
// entries lies in its folder: with it alone nobody makes a root forget what it
// has revoked.
func (p *Plan) goesOn(e *Entry, transcript []byte) string {
	report, err := Verify(transcript)
	if err != nil || !report.Finished || report.Rehearsal != e.Rehearsal {
		return "the transcript of the earlier ceremony does not hold"
	}
	want := *p
	want.goOn(report.state, transcript)
	got, err1 := json.Marshal(p)
	should, err2 := json.Marshal(want)
	if err1 != nil || err2 != nil || !bytes.Equal(got, should) {
		return "it says of the earlier ceremony what its transcript does not say"
	}
	return ""
}

const earlierTranscript = "earlier-transcript.json"

// carried adds what an earlier ceremony has left to the first step.
func (s *staging) carried(files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		add := s.output
		if name == earlierTranscript {
			add = s.input
		}
		if err := add(name, files[name]); err != nil {
			return err
		}
	}
	return nil
}
