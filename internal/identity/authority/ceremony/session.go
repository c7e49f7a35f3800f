package ceremony

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/request"
	"github.com/birthmark/birthmark/internal/pki/shares"
)

// Session is the opened root. It lives as long as one act of those who opened
// it.
type Session struct {
	ceremony   *Ceremony
	key        keystore.Key
	passphrase keystore.Secret // of the key file; nil for hardware
	present    []string        // custodians
}

// OpenShare decrypts a custodian's share with that person's age identities,
// makes sure that it is the one that was handed out, and puts that on record.
// The share comes back as the custodian hands it in.
func (o *Ceremony) OpenShare(name string, identities io.Reader) (Step, shares.Share, error) {
	if err := o.rooted(); err != nil {
		return Step{}, shares.Share{}, err
	}
	h, err := o.heldBy(name)
	if err != nil {
		return Step{}, shares.Share{}, err
	}
	files, err := o.folder.readStep(o.names[o.state.keyStep-1])
	if err != nil {
		return Step{}, shares.Share{}, err
	}
	share, err := unseal(files[h.File], identities)
	if err != nil {
		return Step{}, shares.Share{}, err
	}
	if commitment(&share) != h.Commitment {
		return Step{}, shares.Share{}, fault.New(fault.ShareInvalid, "it is not the share that was handed out to", name)
	}
	now, err := o.now()
	if err != nil {
		return Step{}, shares.Share{}, err
	}
	s, err := o.folder.stage(o.config.Rand)
	if err != nil {
		return Step{}, shares.Share{}, err
	}
	step, err := o.commit(s, &Entry{
		Act: ActShare, At: now, Present: []string{name},
		Share: &OpenedShare{Name: name, Index: h.Index, Split: o.state.root.Custody.Split},
	}, "share-"+name)
	if err != nil {
		s.drop()
	}
	return step, share, err
}

func (o *Ceremony) heldBy(name string) (*Held, error) {
	c := o.state.root.Custody
	if c == nil {
		return nil, fault.New(fault.CeremonyState, "the root's key is in hardware; there are no shares")
	}
	for i := range c.Shares {
		if c.Shares[i].Name == name {
			return &c.Shares[i], nil
		}
	}
	return nil, fault.New(fault.ParameterInvalid, name, "holds no share")
}

// unseal decrypts a share.
func unseal(encrypted []byte, identities io.Reader) (shares.Share, error) {
	ids, err := age.ParseIdentities(identities)
	if err != nil {
		return shares.Share{}, fault.New(fault.ParameterInvalid, "the identity file has no age identity (AGE-SECRET-KEY-...)")
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(encrypted)), ids...)
	if err != nil {
		return shares.Share{}, fault.New(fault.ShareInvalid, "this identity does not open it")
	}
	text, err := io.ReadAll(io.LimitReader(r, 4<<10))
	defer clear(text)
	if err != nil {
		return shares.Share{}, fault.New(fault.ShareInvalid, "the file is damaged")
	}
	return shares.Parse(text)
}

// OpenRoot opens the root's key: with as many custodians' shares as the plan
// says, or with none if it is in hardware.
func (o *Ceremony) OpenRoot(ctx context.Context, given []shares.Share) (*Session, error) {
	if err := o.rooted(); err != nil {
		return nil, err
	}
	r := &Session{ceremony: o}
	var err error
	if c := o.state.root.Custody; c != nil {
		err = r.openFile(ctx, c, given)
	} else {
		err = r.openHardware(ctx, given)
	}
	if err == nil {
		err = o.isRootKey(r.key)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Session) openHardware(ctx context.Context, given []shares.Share) (err error) {
	if len(given) > 0 {
		return fault.New(fault.ShareInvalid, "the root's key is in hardware; there are no shares")
	}
	o := r.ceremony
	if o.config.Keys == nil {
		return fault.New(fault.KeyUnavailable, o.state.plan.Key, "is in hardware, and no signer process was named")
	}
	r.key, err = o.config.Keys.Load(ctx, o.state.plan.Key, nil)
	return err
}

func (r *Session) openFile(ctx context.Context, c *Custody, given []shares.Share) error {
	if len(given) < c.Threshold {
		return fault.New(fault.SharesTooFew, len(given), "of", c.Threshold)
	}
	for i := range given {
		s := &given[i]
		if hex.EncodeToString(s.Ceremony[:]) != c.Split || s.Index > len(c.Shares) {
			return fault.New(fault.ShareInvalid, "share", s.Index, "is of another ceremony, or was replaced since")
		}
		h := &c.Shares[s.Index-1]
		if commitment(s) != h.Commitment {
			return fault.New(fault.ShareInvalid, "share", s.Index, "is not the one that was handed out to", h.Name)
		}
		r.present = append(r.present, h.Name)
	}
	passphrase, err := shares.Join(given)
	if err != nil {
		return err
	}
	r.passphrase = passphrase
	return r.load(ctx)
}

// load opens the key file, or its copy if the file is damaged.
func (r *Session) load(ctx context.Context) (err error) {
	o := r.ceremony
	step := o.names[o.state.keyStep-1]
	files, err := o.folder.readStep(step)
	if err != nil {
		return err
	}
	dir := keyFolder
	if sum(files[keyFolder+"/"+keyFileName]) != o.state.keySum {
		dir = copyFolder
	}
	store, err := o.keystore(o.folder.in(step, dir))
	if err != nil {
		return err
	}
	r.key, err = store.Load(ctx, keyURI, r.passphrase)
	return err
}

// intactKey returns the key file or, if that is damaged, its copy.
func intactKey(files map[string][]byte, want string) []byte {
	if content := files[keyFolder+"/"+keyFileName]; sum(content) == want {
		return content
	}
	return files[copyFolder+"/"+keyFileName]
}

func (o *Ceremony) isRootKey(key keystore.Key) error {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, o.state.rootX509.RawSubjectPublicKeyInfo) {
		return fault.New(fault.AuthorityMismatch, "the key is not the one of the root's certificate")
	}
	return nil
}

// Close forgets the key.
func (r *Session) Close() {
	clear(r.passphrase)
	r.key, r.passphrase = nil, nil
}

func (r *Session) issuer() *issuing.Issuer {
	o := r.ceremony
	return &issuing.Issuer{
		Name: o.state.plan.Authority, Certificate: o.state.root.Certificate, Key: r.key, Rand: o.config.Rand,
		StatusURL: o.state.plan.StatusURL,
	}
}

// Subordinate says what to certify.
type Subordinate struct {
	Name       string // of the authority; of an OCSP responder anything new
	CommonName string // default: made from organization and name
	CSR        []byte // PKCS #10, PEM or DER; only the key is taken
	Profile    []byte // YAML, of the kind issuing or ocsp-responder
}

// Sign certifies a subordinate authority, or the root's OCSP responder.
func (r *Session) Sign(n Subordinate) (Step, error) {
	o := r.ceremony
	now, err := o.now()
	if err != nil {
		return Step{}, err
	}
	if !authorityName.MatchString(n.Name) {
		return Step{}, fault.New(fault.ParameterInvalid, "a name has 1 to 40 lower-case letters, digits and dashes")
	}
	if at := o.state.names[n.Name]; at != 0 {
		return Step{}, fault.New(fault.CeremonyState, n.Name, "was certified in step", at)
	}
	der, err := request.Decode(n.CSR)
	if err != nil {
		return Step{}, err
	}
	req, err := request.Parse(der)
	if err != nil {
		return Step{}, err
	}
	if at := o.state.keys[sha256.Sum256(req.SPKI)]; at != 0 {
		return Step{}, fault.New(fault.KeyInUse, "this key was certified in step", at)
	}
	p, err := o.subordinateProfile(n.Profile)
	if err != nil {
		return Step{}, err
	}
	values := o.valuesOf(p, &n)
	if strings.EqualFold(strings.Join(strings.Fields(values.CommonName), " "), o.state.rootX509.Subject.CommonName) {
		return Step{}, fault.New(fault.ParameterInvalid, values.CommonName, "is the root's own name")
	}
	certificate, err := r.certify(p, req.SPKI, values, now)
	if err != nil {
		return Step{}, err
	}
	return r.record(&Entry{
		Act: ActSign, At: now, Certificate: &Certificate{Name: n.Name, Profile: p.Name, DER: certificate},
	}, n.Name, func(s *staging) error {
		return s.writeAll(
			[]content{{"request.pem", requestPEM(der)}, {"profile-" + p.Name + ".yaml", p.Text}},
			[]content{
				{n.Name + ".pem", certificatePEM(certificate)},
				{n.Name + "-bundle.pem", append(certificatePEM(certificate), certificatePEM(o.state.root.Certificate)...)},
			})
	})
}

// valuesOf names a subordinate the way package authority would.
func (o *Ceremony) valuesOf(p *profile.Profile, n *Subordinate) profile.Values {
	if p.Kind == profile.KindOCSPResponder {
		return o.values(n.CommonName, o.title("OCSP", o.state.plan.Authority))
	}
	name := n.Name
	if name == string(profile.KindIssuing) {
		name = ""
	}
	return o.values(n.CommonName, o.title(name, "Issuing CA"))
}

// subordinateProfile reads a profile of what a root signs. A preset is for the
// issuer of the usual name; here the root says which name that is.
func (o *Ceremony) subordinateProfile(text []byte) (*profile.Profile, error) {
	p, err := profile.Parse(text)
	if err != nil {
		return nil, err
	}
	if p.Issuer != o.state.plan.Authority && p.Issuer == string(profile.KindRoot) {
		var lines strings.Builder
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "issuer:") {
				line = "issuer: " + o.state.plan.Authority + "\n"
			}
			lines.WriteString(line)
		}
		if p, err = profile.Parse([]byte(lines.String())); err != nil {
			return nil, err
		}
	}
	switch {
	case p.Kind != profile.KindIssuing && p.Kind != profile.KindOCSPResponder:
		return nil, fault.New(fault.AuthorityInvalid, "profile", p.Name, "is not for an issuing authority, nor for an OCSP responder")
	case p.Issuer != o.state.plan.Authority:
		return nil, fault.New(fault.AuthorityInvalid, "profile", p.Name, "names another issuer")
	}
	return p, nil
}

// certify signs one certificate.
func (r *Session) certify(p *profile.Profile, spki []byte, values profile.Values, now time.Time) ([]byte, error) {
	compiled, err := issuing.New(p, r.issuer())
	if err != nil {
		return nil, err
	}
	notBefore, notAfter, err := compiled.Validity(now)
	if err != nil {
		return nil, err
	}
	certSerial, err := newCertSerial(r.ceremony.config.Rand)
	if err != nil {
		return nil, err
	}
	return compiled.Issue(issuing.Input{CertSerial: certSerial, NotBefore: notBefore, NotAfter: notAfter, Values: values, SPKI: spki})
}

// record completes an act of the opened root.
func (r *Session) record(e *Entry, name string, fill func(*staging) error) (Step, error) {
	o := r.ceremony
	s, err := o.folder.stage(o.config.Rand)
	if err != nil {
		return Step{}, err
	}
	e.Present = append(e.Present, r.present...)
	if err = fill(s); err == nil {
		var step Step
		if step, err = o.commit(s, e, name); err == nil {
			return step, nil
		}
	}
	s.drop()
	return Step{}, err
}

// content is a file of a step.
type content struct {
	name string
	data []byte
}

func (s *staging) writeAll(inputs, outputs []content) error {
	for _, c := range inputs {
		if err := s.input(c.name, c.data); err != nil {
			return err
		}
	}
	for _, c := range outputs {
		if err := s.output(c.name, c.data); err != nil {
			return err
		}
	}
	return nil
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
