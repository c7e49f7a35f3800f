package ceremony

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/lint"
)

var (
	authorityName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	roleName      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
)

const maxParticipants = 64

// check refuses a plan that cannot be carried out. Errors name the field.
func (p *Plan) check() error {
	wrong := func(details ...any) error { return fault.New(fault.ParameterInvalid, details...) }
	switch {
	case !plain(p.Title, 1, 200):
		return wrong("the title has 1 to 200 characters in one line")
	case !plain(p.Organization, 0, 64):
		return wrong("the organization has at most 64 characters in one line")
	case !plain(p.Hardware, 0, 200):
		return wrong("what holds the key is said in at most 200 characters in one line")
	case !authorityName.MatchString(p.Authority):
		return wrong("the root's name has 1 to 40 lower-case letters, digits and dashes")
	case len(p.Participants) > maxParticipants:
		return wrong("there are at most", maxParticipants, "participants")
	}
	for i, role := range p.Participants {
		if !roleName.MatchString(role) || slices.Contains(p.Participants[:i], role) {
			return wrong("participants are roles of lower-case letters, digits and dashes, each once:", i+1)
		}
	}
	if p.StatusURL != "" {
		if err := lint.StatusURL(p.StatusURL, false); err != nil {
			return err
		}
	}
	if p.Key == KeyFile && p.After == nil {
		return checkCustodians(p.Custodians, p.Threshold)
	}
	// The custody of an earlier ceremony's key goes on.
	if p.Key != KeyFile && !strings.HasPrefix(p.Key, "signer:") || len(p.Key) > 300 || len(p.Custodians) > 0 || p.Threshold != 0 {
		return wrong("the key is a file among custodians, or signer:NAME without any")
	}
	return nil
}

// checkCustodians refuses shares that fewer people could join than it seems.
func checkCustodians(all []Custodian, threshold int) error {
	if threshold < 2 || threshold > len(all) || len(all) > maxParticipants {
		return fault.New(fault.SharesTooFew, "the threshold is 2 up to the number of custodians, and those are at most", maxParticipants)
	}
	for i, c := range all {
		if !roleName.MatchString(c.Name) {
			return fault.New(fault.ParameterInvalid, "custodian", i+1, "needs a name of lower-case letters, digits and dashes")
		}
		if _, err := recipient(c.Recipient); err != nil {
			return err
		}
		same := func(o Custodian) bool { return o.Name == c.Name || o.Recipient == c.Recipient }
		if slices.ContainsFunc(all[:i], same) {
			return fault.New(fault.ParameterInvalid, "custodian", c.Name, "has the name or key of another")
		}
	}
	return nil
}

// recipient reads one age recipient.
func recipient(text string) (age.Recipient, error) {
	r, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(r) != 1 || strings.ContainsAny(text, "\r\n") {
		return nil, fault.New(fault.ParameterInvalid, "a custodian's key is one age recipient (age1...)")
	}
	return r[0], nil
}

// plain reports whether a text is one line that looks like what it is.
func plain(text string, least, most int) bool {
	n := utf8.RuneCountInString(text)
	return utf8.ValidString(text) && n >= least && n <= most && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// NewPlan is what to begin.
type NewPlan struct {
	Plan      // CeremonyKey and After are filled in
	Rehearsal bool
	After     string // folder of the finished ceremony to go on from; empty: none
}

// Begin makes the ceremony's folder, which must not be there yet. With After,
// root, key, shares and list of revoked certificates come from there.
func Begin(c Config, p NewPlan) (Step, error) {
	if err := c.check(); err != nil {
		return Step{}, err
	}
	o := &Ceremony{config: c, state: newState()}
	before, err := p.carry(c.Now, c.Rand)
	if err != nil {
		return Step{}, err
	}
	if err := p.Plan.check(); err != nil {
		return Step{}, err
	}
	for _, who := range c.Present {
		if !slices.Contains(p.Participants, who) {
			return Step{}, fault.New(fault.ParameterInvalid, who, "is not among the participants of the plan")
		}
	}
	if p.Key == KeyFile && fips140.Enforced() {
		return Step{}, fault.New(fault.KeyAlgorithm, "shares are encrypted with age, which FIPS 140-3 does not approve; keep the root's key in hardware")
	}
	if _, err := os.Lstat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		return Step{}, fault.New(fault.CeremonyState, c.Dir, "is there already; name a new folder")
	}
	var id [16]byte
	if _, err := io.ReadFull(c.Rand, id[:]); err != nil {
		return Step{}, err
	}
	o.state.id, o.state.rehearsal = hex.EncodeToString(id[:]), p.Rehearsal
	return o.begin(&p, before)
}

// begin makes the folder beside its place and gives it its name last.
func (o *Ceremony) begin(p *NewPlan, before map[string][]byte) (Step, error) {
	to := strings.TrimRight(o.config.Dir, string(os.PathSeparator))
	o.folder = folder(fmt.Sprintf("%s.new-%s", to, o.state.id[:12]))
	if err := os.Mkdir(string(o.folder), 0o700); err != nil {
		return Step{}, fault.Wrap(fault.CeremonyState, err, "the folder cannot be made")
	}
	step, err := o.firstStep(p, before)
	if err == nil {
		if err = os.Rename(string(o.folder), to); err == nil {
			step.Folder = folder(to).in(o.names[0])
			return step, syncFolder(folder(to).in(".."))
		}
	}
	return Step{}, errors.Join(err, os.RemoveAll(string(o.folder)))
}

func (o *Ceremony) firstStep(p *NewPlan, before map[string][]byte) (Step, error) {
	var err error
	if o.key, err = ecdsa.GenerateKey(elliptic.P256(), o.config.Rand); err != nil {
		return Step{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(o.key)
	if err != nil {
		return Step{}, err
	}
	defer clear(private)
	if p.CeremonyKey, err = x509.MarshalPKIXPublicKey(o.key.Public()); err != nil {
		return Step{}, err
	}
	if err := writeNew(o.folder.in(keyName), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})); err != nil {
		return Step{}, err
	}
	s, err := o.folder.stage(o.config.Rand)
	if err != nil {
		return Step{}, err
	}
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	if err := s.carried(before); err != nil {
		return Step{}, err
	}
	return o.commit(s, &Entry{Act: ActBegin, At: now, Plan: &p.Plan}, "begin")
}
