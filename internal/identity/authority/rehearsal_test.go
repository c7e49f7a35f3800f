package authority_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
)

func TestImportRefusesWhatWasRehearsed(t *testing.T) {
	w := newWorld(t)
	der := foreign(t, w, newKey(t), func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: authority.RehearsalMark + "Acme Root CA"}
	})
	_, err := w.Import(t.Context(), "local:root", authority.Existing{Name: "root", Certificate: der})
	wantFault(t, err, fault.AuthorityInvalid)
}
