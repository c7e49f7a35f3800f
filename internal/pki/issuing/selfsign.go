package issuing

import (
	"bytes"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// SelfSign makes the certificate of a root. The public key is the signer's; an
// SPKI in the input must be the same.
func SelfSign(p *profile.Profile, key Signer, in Input) ([]byte, error) {
	c, err := New(p, &Issuer{Name: p.Name, Key: key})
	if err != nil {
		return nil, err
	}
	if in.SPKI == nil {
		in.SPKI = c.authority.spki
	}
	if !bytes.Equal(in.SPKI, c.authority.spki) {
		return nil, fault.New(fault.AuthorityMismatch, p.Name)
	}
	return c.Issue(in)
}

// SelfValidity returns the times of a root that is made now.
func SelfValidity(p *profile.Profile, now time.Time) (notBefore, notAfter time.Time) {
	notBefore = start(&p.Validity, now)
	return notBefore, end(&p.Validity, notBefore)
}
