package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority/ceremony"
	signerkeys "github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/shares"
	"github.com/birthmark/birthmark/internal/store"
)

// ceremonyCmd works on a machine of its own: it needs no data folder, no server
// and no network.
type ceremonyCmd struct {
	Identity   ceremonyIdentityCmd   `cmd:"" help:"Make a custodian's key: what opens that person's share."`
	Begin      ceremonyBeginCmd      `cmd:"" help:"Begin a ceremony: who takes part, who will hold the root's key."`
	Root       ceremonyRootCmd       `cmd:"" help:"Make the root: its key and its certificate."`
	Share      ceremonyShareCmd      `cmd:"" help:"A custodian's share."`
	Sign       ceremonySignCmd       `cmd:"" help:"Sign the request of an issuing authority, or of the root's OCSP responder."`
	CRL        ceremonyCRLCmd        `cmd:"" name:"crl" help:"Sign the root's CRL, valid for twelve months."`
	Custodians ceremonyCustodiansCmd `cmd:"" help:"Share the root's key out anew."`
	Finish     ceremonyFinishCmd     `cmd:"" help:"End the ceremony: the root vouches for the transcript."`
	Show       ceremonyShowCmd       `cmd:"" help:"Print the transcript so far."`
	Verify     ceremonyVerifyCmd     `cmd:"" help:"Check a transcript, or a ceremony's whole folder."`
}

// ceremonyFlags are what every act in a ceremony's folder takes.
type ceremonyFlags struct {
	Dir        string   `help:"The ceremony's folder." required:"" type:"path" placeholder:"DIR"`
	By         []string `help:"Role that takes part in this step, as planned; may be repeated." placeholder:"ROLE"`
	JSON       bool     `help:"Print JSON."`
	tokenFlags `embed:"" group:"Keys in hardware"`
}

func (f *ceremonyFlags) config() (c ceremony.Config, err error) {
	c = ceremony.Config{Dir: f.Dir, Now: time.Now, Rand: rand.Reader, Present: f.By}
	c.Machine, err = thisMachine()
	return c, err
}

// act does one thing with the ceremony in the folder, alone in there.
func (f *ceremonyFlags) act(io_ *streams, do func(*ceremony.Ceremony) (ceremony.Step, error)) error {
	if _, err := os.Stat(f.Dir); err != nil {
		return fault.New(fault.CeremonyState, "there is no ceremony in", f.Dir)
	}
	lock, err := store.LockFolder(f.Dir)
	if err != nil {
		return err
	}
	c, err := f.config()
	if err != nil {
		return errors.Join(err, lock.Unlock())
	}
	guardSecrets()
	o, err := ceremony.Open(c)
	if err == nil {
		var step ceremony.Step
		if step, err = do(o); err == nil {
			err = f.print(io_, &step)
		}
	}
	return errors.Join(err, lock.Unlock())
}

// withKeys does something for which the root's key must be reached if it is in
// hardware; create names its type if it is to be made there.
func (f *ceremonyFlags) withKeys(ctx context.Context, o *ceremony.Ceremony, create profile.KeyType, do func() (ceremony.Step, error)) (ceremony.Step, error) {
	if o.Plan().Key == ceremony.KeyFile || o.Finished() {
		return do()
	}
	keys, done, err := f.keys(ctx, o, create)
	if err != nil {
		return ceremony.Step{}, err
	}
	defer done()
	o.Use(keys)
	return do()
}

// opened does one thing with the root's key, opened by custodians or in
// hardware.
func (f *ceremonyFlags) opened(ctx context.Context, io_ *streams, files []string, do func(*ceremony.Session) (ceremony.Step, error)) error {
	return f.act(io_, func(o *ceremony.Ceremony) (ceremony.Step, error) {
		given, err := readShares(io_, files)
		defer func() {
			for i := range given {
				given[i].Erase()
			}
		}()
		if err != nil {
			return ceremony.Step{}, err
		}
		return f.withKeys(ctx, o, "", func() (ceremony.Step, error) {
			session, err := o.OpenRoot(ctx, given)
			if err != nil {
				return ceremony.Step{}, err
			}
			defer session.Close()
			return do(session)
		})
	})
}

func readShares(io_ *streams, files []string) ([]shares.Share, error) {
	var given []shares.Share
	for _, path := range files {
		text, err := fileText(io_, path)
		if err != nil {
			return given, err
		}
		s, err := shares.Parse(text)
		clear(text)
		if err != nil {
			return given, fmt.Errorf("%s: %w", path, err)
		}
		given = append(given, s)
	}
	return given, nil
}

// print says what a step has left.
func (f *ceremonyFlags) print(io_ *streams, s *ceremony.Step) error {
	if f.JSON {
		return printJSON(io_.out, map[string]any{"folder": s.Folder, "entry": &s.Entry})
	}
	fmt.Fprintf(io_.out, "Step %d, %s: %s\n", s.Entry.Number, s.Entry.Act, s.Folder)
	for _, file := range s.Entry.Outputs {
		fmt.Fprintf(io_.out, "  %s\n", file.Name)
	}
	for _, note := range s.Entry.Notes {
		fmt.Fprintf(io_.out, "  note: %s\n", note)
	}
	return nil
}

type ceremonyBeginCmd struct {
	ceremonyFlags `embed:""`
	Title         string   `help:"What the ceremony is for." required:""`
	Org           string   `help:"Organization in the certificates' names."`
	StatusURL     string   `help:"Base of the OCSP, CRL and authority addresses in certificates, as for init." placeholder:"URL"`
	Name          string   `help:"Name of the root in these addresses." default:"root"`
	Participant   []string `help:"Role of somebody who takes part besides the custodians; may be repeated." placeholder:"ROLE"`
	Custodian     []string `help:"Custodian of a share: a role and an age recipient, or a file with one; may be repeated." placeholder:"ROLE=RECIPIENT"`
	Threshold     int      `help:"How many custodians it takes." placeholder:"M"`
	Key           string   `help:"Key of the root in birthmark-signer (signer:NAME), instead of custodians." placeholder:"URI"`
	Hardware      string   `help:"What holds that key, for the record: maker, model, number and level of its validation."`
	After         string   `help:"Folder of the finished ceremony to go on from: its root, shares and list of revoked certificates." type:"path" placeholder:"DIR"`
	Softhsm       bool     `help:"Rehearse with a throwaway token of SoftHSM2 in the ceremony's folder."`
	Rehearsal     bool     `help:"Only rehearse: every certificate and the transcript say so."`
}

// Run begins a ceremony.
func (c *ceremonyBeginCmd) Run(io_ *streams) error {
	config, err := c.config()
	if err != nil {
		return err
	}
	guardSecrets()
	to, err := readCustodians(io_, c.Custodian)
	if err != nil {
		return err
	}
	p := ceremony.NewPlan{Rehearsal: c.Rehearsal, After: c.After, Plan: ceremony.Plan{
		Title: c.Title, Authority: c.Name, Organization: c.Org, StatusURL: strings.TrimSuffix(c.StatusURL, "/"),
		Participants: c.Participant, Custodians: to, Threshold: c.Threshold, Key: c.Key, Hardware: c.Hardware,
	}}
	if c.Softhsm && !c.Rehearsal {
		return fault.New(fault.ParameterInvalid, "SoftHSM2 is for rehearsals; a real key lives in real hardware")
	}
	if c.Softhsm {
		p.Key, p.Hardware = cmp.Or(p.Key, signerkeys.Scheme+p.Authority), softToken
	}
	p.Key = cmp.Or(p.Key, ceremony.KeyFile)
	step, err := ceremony.Begin(config, p)
	if err != nil {
		return err
	}
	for _, name := range step.Entry.Machine.Interfaces {
		fmt.Fprintf(io_.err, "birthmark: warning: the network interface %s is up; a ceremony's machine has no network\n", name)
	}
	return c.print(io_, &step)
}

// readCustodians reads ROLE=RECIPIENT, where RECIPIENT may be a file.
func readCustodians(io_ *streams, list []string) ([]ceremony.Custodian, error) {
	var all []ceremony.Custodian
	for _, one := range list {
		name, key, ok := strings.Cut(one, "=")
		if !ok {
			return nil, fault.New(fault.ParameterInvalid, "a custodian is ROLE=RECIPIENT")
		}
		if !strings.HasPrefix(key, "age1") {
			text, err := fileText(io_, key)
			if err != nil {
				return nil, err
			}
			key = recipientIn(string(text))
		}
		all = append(all, ceremony.Custodian{Name: name, Recipient: key})
	}
	return all, nil
}

// recipientIn returns the one line of a file that is not a comment.
func recipientIn(text string) string {
	var found []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "\n")
}

type ceremonyRootCmd struct {
	ceremonyFlags `embed:""`
	Profile       string `help:"Preset of the kind root, or a YAML file with a profile." default:"root"`
	CommonName    string `help:"Common name in the certificate."`
	KeyType       string `help:"Key type." default:"p384" enum:"p256,p384,ed25519,rsa3072,rsa4096"`
}

// Run makes the root.
func (c *ceremonyRootCmd) Run(ctx context.Context, io_ *streams) error {
	text, err := profileText(io_, c.Profile)
	if err != nil {
		return err
	}
	return c.act(io_, func(o *ceremony.Ceremony) (ceremony.Step, error) {
		create := profile.KeyType(c.KeyType)
		if o.RootFile() != "" {
			create = "" // a second root is refused before anything is made
		}
		return c.withKeys(ctx, o, create, func() (ceremony.Step, error) {
			return o.MakeRoot(ctx, ceremony.NewRoot{Profile: text, CommonName: c.CommonName, KeyType: profile.KeyType(c.KeyType)})
		})
	})
}

// profileText returns a preset, or a profile of the operator's own.
func profileText(io_ *streams, name string) ([]byte, error) {
	if text, ok := profile.Preset(name); ok {
		return text, nil
	}
	return fileText(io_, name)
}

type ceremonyShareCmd struct {
	Open ceremonyShareOpenCmd `cmd:"" help:"Decrypt a share with its custodian's key, and put on record that it is the right one."`
}

type ceremonyShareOpenCmd struct {
	ceremonyFlags `embed:""`
	Custodian     string `help:"Whose share." required:"" placeholder:"ROLE"`
	Identity      string `help:"File with the custodian's age identity (- for standard input)." required:"" placeholder:"FILE"`
	Out           string `help:"File to write the share to; take care that it does not outlive the ceremony." required:"" type:"path" placeholder:"FILE"`
}

// Run opens a share.
func (c *ceremonyShareOpenCmd) Run(io_ *streams) error {
	return c.act(io_, func(o *ceremony.Ceremony) (ceremony.Step, error) {
		identity, err := fileText(io_, c.Identity)
		if err != nil {
			return ceremony.Step{}, err
		}
		defer clear(identity)
		step, share, err := o.OpenShare(c.Custodian, strings.NewReader(string(identity)))
		if err != nil {
			return step, err
		}
		defer share.Erase()
		return step, newSecretFile(c.Out, share.Text())
	})
}

// newSecretFile writes a file that is not there yet, for its owner alone.
func newSecretFile(path string, secret []byte) error {
	defer clear(secret)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, path, "cannot be written anew")
	}
	_, err = f.Write(secret)
	return errors.Join(err, f.Sync(), f.Close())
}

// sharesFlag are the custodians who open the root.
type sharesFlag struct {
	Share []string `help:"File with an opened share (- for standard input); as many as the plan says." placeholder:"FILE"`
}

type ceremonySignCmd struct {
	ceremonyFlags `embed:""`
	sharesFlag    `embed:""`
	CSR           string `name:"csr" help:"PKCS #10 file (PEM or DER); only the key is taken from it." required:"" placeholder:"FILE"`
	Name          string `help:"Name of what is signed; of an issuing authority the one that it has in its installation." required:""`
	Profile       string `help:"Preset (issuing, ocsp-responder-root), or a YAML file with a profile." default:"issuing"`
	OCSP          bool   `name:"ocsp" help:"The preset issuing names an OCSP responder of the root, too; sign one as well."`
	CommonName    string `help:"Common name in the certificate."`
}

// Run signs a subordinate.
func (c *ceremonySignCmd) Run(ctx context.Context, io_ *streams) error {
	csr, err := fileText(io_, c.CSR)
	if err != nil {
		return err
	}
	text, err := profileText(io_, c.Profile)
	if err != nil {
		return err
	}
	if c.Profile == string(profile.KindIssuing) && !c.OCSP {
		// The root's key is far away, so its CRL says what was revoked.
		text = append(text, "status: {ocsp: false}\n"...)
	}
	return c.opened(ctx, io_, c.Share, func(s *ceremony.Session) (ceremony.Step, error) {
		return s.Sign(ceremony.Subordinate{Name: c.Name, CommonName: c.CommonName, CSR: csr, Profile: text})
	})
}

type ceremonyCRLCmd struct {
	ceremonyFlags `embed:""`
	sharesFlag    `embed:""`
	Revoke        []string `help:"Certificate (PEM) of the root's to revoke, and why; may be repeated." placeholder:"FILE=REASON"`
}

// Run signs the root's CRL.
func (c *ceremonyCRLCmd) Run(ctx context.Context, io_ *streams) error {
	var revoke []ceremony.Revocation
	for _, one := range c.Revoke {
		at := strings.LastIndexByte(one, '=')
		if at < 0 {
			return fault.New(fault.ParameterInvalid, "say what to revoke and why: FILE=REASON, where the reason is one of",
				strings.Join(ceremony.Reasons(), ", "))
		}
		text, err := fileText(io_, one[:at])
		if err != nil {
			return err
		}
		cert, err := parseCertificate(text)
		if err != nil {
			return err
		}
		revoke = append(revoke, ceremony.Revocation{Certificate: cert, Reason: one[at+1:]})
	}
	return c.opened(ctx, io_, c.Share, func(s *ceremony.Session) (ceremony.Step, error) { return s.SignCRL(revoke) })
}

type ceremonyCustodiansCmd struct {
	ceremonyFlags `embed:""`
	sharesFlag    `embed:""`
	Custodian     []string `help:"New custodian, as for begin; may be repeated." required:"" placeholder:"ROLE=RECIPIENT"`
	Threshold     int      `help:"How many of them it takes." required:"" placeholder:"M"`
}

// Run shares the root's key out anew.
func (c *ceremonyCustodiansCmd) Run(ctx context.Context, io_ *streams) error {
	to, err := readCustodians(io_, c.Custodian)
	if err != nil {
		return err
	}
	return c.opened(ctx, io_, c.Share, func(s *ceremony.Session) (ceremony.Step, error) {
		return s.ChangeCustodians(ctx, to, c.Threshold)
	})
}

type ceremonyFinishCmd struct {
	ceremonyFlags `embed:""`
	sharesFlag    `embed:""`
}

// Run ends the ceremony.
func (c *ceremonyFinishCmd) Run(ctx context.Context, io_ *streams) error {
	return c.opened(ctx, io_, c.Share, func(s *ceremony.Session) (ceremony.Step, error) { return s.Finish() })
}

// parseCertificate reads the first certificate of a file.
func parseCertificate(text []byte) (*x509.Certificate, error) {
	der, err := certificateDER(text)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.CertificateInvalid, err)
	}
	return cert, nil
}

type ceremonyShowCmd struct {
	Path string `arg:"" help:"The ceremony's folder, or a transcript." type:"path"`
	HTML bool   `name:"html" help:"Print a page."`
	JSON bool   `help:"Print the transcript as it is verified."`
}

// Run prints a transcript after checking it.
func (c *ceremonyShowCmd) Run(io_ *streams) error {
	report, err := verifyCeremony(c.Path)
	if err != nil {
		return err
	}
	out := report.Text()
	switch {
	case c.HTML:
		out = report.Page()
	case c.JSON:
		out = report.Transcript()
	}
	_, err = io_.out.Write(out)
	return err
}

type ceremonyVerifyCmd struct {
	Path string `arg:"" help:"The ceremony's folder, or a transcript." type:"path"`
	Root string `help:"Certificate of the root (PEM) that the reader trusts." placeholder:"PEM"`
	JSON bool   `help:"Print JSON."`
}

// verifyCeremony checks a folder or a transcript.
func verifyCeremony(path string) (*ceremony.Report, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, path, "cannot be read")
	}
	if info.IsDir() {
		return ceremony.VerifyFolder(path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, path, "cannot be read")
	}
	return ceremony.Verify(text)
}

// Run checks a transcript.
func (c *ceremonyVerifyCmd) Run(io_ *streams) error {
	report, err := verifyCeremony(c.Path)
	if err != nil {
		return err
	}
	if c.Root != "" {
		text, err := fileText(io_, c.Root)
		if err != nil {
			return err
		}
		cert, err := parseCertificate(text)
		if err != nil {
			return err
		}
		if report.Root == nil || !report.Root.Equal(cert) {
			return fault.New(fault.TranscriptInvalid, "its root is not the one in", c.Root)
		}
	}
	return c.print(io_, report)
}

func (c *ceremonyVerifyCmd) print(io_ *streams, r *ceremony.Report) error {
	if c.JSON {
		return json.NewEncoder(io_.out).Encode(r.Summary())
	}
	what := "holds; the root vouches for it"
	if !r.Finished {
		what = "holds so far, but is not finished: only the ceremony's own key vouches for it"
	}
	if r.Rehearsal {
		what += "; it is a REHEARSAL"
	}
	s := r.Summary()
	fmt.Fprintf(io_.out, "The transcript %s.\n  %s\n  %d steps, %s to %s\n", what, s.Title, s.Steps, s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	if s.Root != "" {
		fmt.Fprintf(io_.out, "  root %s\n  SHA-256 %s\n", s.Root, s.Fingerprint)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(io_.out, "  note: %s\n", note)
	}
	if c.Root == "" && s.Root != "" {
		fmt.Fprint(io_.out, "Compare the root's fingerprint with the one that you trust, or name it with --root.\n")
	}
	return nil
}
