//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto/x509"

	p11 "github.com/miekg/pkcs11"

	"github.com/birthmark/birthmark/internal/fault"
)

// Certificate returns the certificate (DER) with a label and, if given, id; nil:
// there is none.
func (t *Token) Certificate(ctx context.Context, label string, id []byte) ([]byte, error) {
	return do(ctx, t, func(h *handle) ([]byte, error) {
		all, err := t.objects(h, certificateObject(label, id))
		if err != nil || len(all) == 0 {
			return nil, err
		}
		if len(all) > 1 {
			return nil, fault.New(fault.TokenKey, "the token has", len(all), "certificates of", what(label, id))
		}
		values, err := t.values(h, all[0], p11.CKA_VALUE)
		if err != nil {
			return nil, err
		}
		return values[0], nil
	})
}

func certificateObject(label string, id []byte) []*p11.Attribute {
	search := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_CERTIFICATE), p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label),
	}
	if id != nil {
		search = append(search, p11.NewAttribute(p11.CKA_ID, id))
	}
	return search
}

// SetCertificate makes a certificate (DER) the only one with a label and id. A
// power cut in between leaves none or both; setting it again mends that.
func (t *Token) SetCertificate(ctx context.Context, label string, id, der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fault.Wrap(fault.TokenFailed, err, "not a certificate")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Writing needs a session that may, as making a key does.
	h, err := t.tryOpen(p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	defer t.closeSession(h)
	t.calls.RLock()
	defer t.calls.RUnlock()
	old, err := t.objects(h, certificateObject(label, id))
	if err != nil {
		return err
	}
	object := append(certificateObject(label, id),
		p11.NewAttribute(p11.CKA_CERTIFICATE_TYPE, p11.CKC_X_509), p11.NewAttribute(p11.CKA_VALUE, der),
		p11.NewAttribute(p11.CKA_SUBJECT, c.RawSubject), p11.NewAttribute(p11.CKA_PRIVATE, false),
	)
	if _, err := t.m.CreateObject(h.session, object); err != nil {
		return failed(err)
	}
	for _, one := range old {
		if err := t.m.DestroyObject(h.session, one); err != nil {
			return failed(err)
		}
	}
	return nil
}
