package tpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// NV indices of certificates that lead from the endorsement keys' to the maker's
// root (TCG EK Credential Profile, section 2.2.1.5.2).
const (
	firstChain = 0x01C00100
	lastChain  = 0x01C001FF
)

// Endorsement is an endorsement key with what its maker says of it.
type Endorsement struct {
	Template    string   // "L-1"
	Handle      uint32   // where the TPM keeps it; 0: it is made anew each time
	Public      []byte   // TPMT_PUBLIC
	Certificate []byte   // DER; empty: the TPM has none for it
	Chain       [][]byte // DER of the certificates that the TPM keeps beside, in its order

	template []byte // from which TPM2_CreatePrimary makes the key
	low      bool   // its use needs the policy TPM2_PolicySecret(endorsement)
	nameAlg  format.Alg
}

// Endorsement finds the endorsement key: of those that the maker certified the
// first that the TPM keeps, or else the first that can be made from its template.
// Without any certificate it is the P-256 or RSA key that the TPM keeps or makes;
// then only a list of keys can vouch for it.
func (t *TPM) Endorsement(ctx context.Context) (e *Endorsement, err error) {
	err = t.turn(ctx, func(u *turn) error {
		e, err = u.findEndorsement()
		return err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (u *turn) findEndorsement() (*Endorsement, error) {
	candidates, err := u.certified()
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		return u.uncertified()
	}
	for _, e := range candidates {
		if held, err := u.kept(e); err != nil || held {
			return e, err
		}
	}
	var first error
	for _, e := range candidates {
		err := u.make(e)
		if err == nil {
			return e, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// certified returns what is known of each certified endorsement key: its
// certificate and template, low range first.
func (u *turn) certified() ([]*Endorsement, error) {
	indices, err := u.handles(rangeNV)
	if err != nil {
		return nil, err
	}
	var all []*Endorsement
	for _, template := range format.EKTemplates() {
		if !slices.Contains(indices, template.Certificate) || !u.wants(template.Name) {
			continue
		}
		text, err := u.readIndex(template.Certificate)
		if err != nil {
			return nil, err
		}
		found := certificates(text)
		if len(found) == 0 {
			continue
		}
		e, err := u.fromTemplate(&template, indices)
		if err != nil {
			return nil, err
		}
		e.Certificate, e.Chain = found[0], found[1:]
		all = append(all, e)
	}
	if len(all) == 0 {
		return nil, nil
	}
	chain, err := u.chain(indices)
	for _, e := range all {
		e.Chain = path(e.Certificate, append(e.Chain, chain...))
	}
	return all, err
}

// maxChain is how many intermediates a claim carries.
const maxChain = 6

// path returns those certificates that lead from the endorsement key's to a root,
// issuers first: a maker keeps those of several keys in one place.
func path(leaf []byte, among [][]byte) [][]byte {
	var found [][]byte
	at, err := x509.ParseCertificate(leaf)
	for err == nil && len(found) < maxChain && !bytes.Equal(at.RawIssuer, at.RawSubject) {
		i := slices.IndexFunc(among, func(der []byte) bool {
			c, err := x509.ParseCertificate(der)
			return err == nil && bytes.Equal(c.RawSubject, at.RawIssuer) && !bytes.Equal(c.RawSubject, c.RawIssuer)
		})
		if i < 0 {
			break
		}
		found = append(found, among[i])
		at, err = x509.ParseCertificate(among[i])
	}
	return found
}

// chain reads the maker's intermediates, which may go over from one index to the
// next.
func (u *turn) chain(indices []uint32) ([][]byte, error) {
	var text []byte
	for _, one := range indices { // they rise
		if one < firstChain || one > lastChain {
			continue
		}
		more, err := u.readIndex(one)
		if err != nil {
			return nil, err
		}
		text = append(text, more...)
	}
	return certificates(text), nil
}

// fromTemplate returns an endorsement key of a template, with the nonce or the
// template of its own that the TPM's maker has put beside it.
func (u *turn) fromTemplate(t *format.Template, indices []uint32) (*Endorsement, error) {
	e := &Endorsement{Template: t.Name, low: t.Low(), nameAlg: t.NameAlg}
	var nonce []byte
	var err error
	if t.Low() && slices.Contains(indices, t.Nonce) {
		if nonce, err = u.readIndex(t.Nonce); err != nil {
			return nil, err
		}
	}
	if slices.Contains(indices, t.Own) {
		if e.template, err = u.readIndex(t.Own); err != nil {
			return nil, err
		}
	}
	if e.template == nil {
		e.template = t.Public(nonce)
	}
	return e, nil
}

// kept looks for the certified key among those that the TPM keeps.
func (u *turn) kept(e *Endorsement) (bool, error) {
	key, err := certificateKey(e.Certificate)
	if err != nil {
		return false, err
	}
	handles, err := u.handles(rangePersistent)
	if err != nil {
		return false, err
	}
	for _, h := range handles {
		public, _, err := u.readPublic(h)
		if err != nil {
			return false, err
		}
		p, err := format.ParsePublic(public)
		if err != nil || !bytes.Equal(p.SPKI, key) || !p.Attributes.Has(format.Restricted|format.Decrypt) {
			continue // another key, or one of a kind that we do not know
		}
		e.Handle, e.Public = h, public
		return true, nil
	}
	return false, nil
}

// certificateKey returns the key of an endorsement key's certificate, DER
// SubjectPublicKeyInfo, an RSA key always as plain RSA.
func certificateKey(der []byte) ([]byte, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.EKCertificate, err)
	}
	key := format.EKKey(c)
	if key == nil {
		return nil, fault.New(fault.EKCertificate, "its key")
	}
	return x509.MarshalPKIXPublicKey(key)
}

// make makes the key from its template and looks whether it is the certified one.
func (u *turn) make(e *Endorsement) error {
	l, err := u.createPrimary(u.endorsement(), e.template)
	if err != nil {
		return err
	}
	if err := u.drop(); err != nil {
		return err
	}
	e.Public = l.public
	if len(e.Certificate) == 0 {
		return nil
	}
	key, err := certificateKey(e.Certificate)
	if err != nil {
		return err
	}
	if p, err := format.ParsePublic(e.Public); err != nil || !bytes.Equal(p.SPKI, key) {
		return fault.New(fault.EKMismatch, "template", e.Template, "makes another key than the certificate's")
	}
	return nil
}

// uncertified returns an endorsement key of a TPM that has no certificates.
func (u *turn) uncertified() (*Endorsement, error) {
	for _, name := range []string{"L-1", "L-2"} {
		if !u.wants(name) {
			continue
		}
		t := templateNamed(name)
		public, _, err := u.readPublic(t.Handle)
		if err != nil {
			return nil, err
		}
		if public == nil {
			continue
		}
		p, err := format.ParsePublic(public)
		if err != nil || !t.Fits(p.Key) {
			continue
		}
		if rebuilt, err := format.EKPublic(*t, p.Key); err != nil || !bytes.Equal(rebuilt, public) {
			continue
		}
		return &Endorsement{Template: name, Handle: t.Handle, Public: public, low: true, nameAlg: t.NameAlg}, nil
	}
	made := []string{"L-2", "L-1"}
	if name := u.t.c.Template; name != "" {
		made = []string{name}
	}
	var first error
	for _, name := range made {
		t := templateNamed(name)
		if t == nil {
			return nil, fault.New(fault.ParameterInvalid, "there is no template", name)
		}
		e, err := u.fromTemplate(t, nil)
		if err == nil {
			err = u.make(e)
		}
		if err == nil {
			return e, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func templateNamed(name string) *format.Template {
	all := format.EKTemplates()
	i := slices.IndexFunc(all, func(t format.Template) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// wants reports whether the endorsement key of a template may be used.
func (u *turn) wants(template string) bool {
	return u.t.c.Template == "" || u.t.c.Template == template
}

// loadEndorsement makes the endorsement key usable.
func (u *turn) loadEndorsement(e *Endorsement) (*loadedKey, error) {
	if e.Handle == 0 {
		return u.createPrimary(u.endorsement(), e.template)
	}
	public, name, err := u.readPublic(e.Handle)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(public, e.Public) {
		return nil, fault.New(fault.TPMHandle, fmt.Sprintf("%#08x holds another endorsement key than before", e.Handle))
	}
	return &loadedKey{tpm2.NamedHandle{Handle: tpm2.TPMHandle(e.Handle), Name: name}, public}, nil
}
