package authority

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Existing is an authority that was made elsewhere.
type Existing struct {
	Name        string
	Certificate []byte // PEM or DER
	Key         []byte // PEM, PKCS #8 unencrypted, SEC 1 or PKCS #1; nil: the key stays elsewhere
	Secret      keystore.Secret
	CRLShards   int      // default 1
	Hardware    Hardware // what holds the key, as the operator declares it
}

// Import takes in an authority that was made elsewhere: with its key it issues
// here from now on, without it its certificates are trusted and no more. The
// certificate of a pending authority, signed elsewhere for the CSR that
// RequestIssuing made, makes it active.
func (s *Service) Import(ctx context.Context, actor string, e Existing) (Authority, error) {
	cert, err := authorityCertificate(e.Certificate)
	if err != nil {
		return Authority{}, err
	}
	switch {
	case !s.now().Before(cert.NotAfter):
		return Authority{}, fault.New(fault.AuthorityInvalid, "the certificate has expired")
	case Rehearsed(cert):
		return Authority{}, fault.New(fault.AuthorityInvalid, "the certificate was made in a rehearsal")
	}
	n := NewAuthority{Name: e.Name, CRLShards: e.CRLShards, Hardware: e.Hardware}
	if err := n.check(""); err != nil {
		return Authority{}, err
	}
	snap, err := s.Refresh(ctx)
	if err != nil {
		return Authority{}, err
	}
	if m, err := snap.Authority(e.Name); err == nil {
		if m.State != Pending || e.Key != nil {
			return Authority{}, fault.New(fault.AuthorityExists, e.Name)
		}
		a := m.Authority
		if e.Hardware != (Hardware{}) {
			a.Hardware = e.Hardware
		}
		a.Parent = snap.parentOf(cert)
		return s.complete(ctx, actor, a, cert)
	}
	a := Authority{Name: e.Name, Kind: kindOf(cert), Parent: snap.parentOf(cert), CRLShards: n.CRLShards, Hardware: n.Hardware}
	if e.Key != nil {
		a.KeyURI = "file:" + e.Name
		if err := s.importKey(ctx, a.KeyURI, cert, e); err != nil {
			return Authority{}, err
		}
	}
	now := s.now()
	a.State, a.Certificate, a.CreatedAt, a.ChangedAt = Active, cert.Raw, now, now
	a.ID, err = s.store.AddAuthority(ctx, a, s.entry(ledger.AuthorityImported, actor, bodyOf(&a)))
	if err != nil {
		return Authority{}, err
	}
	_, err = s.Refresh(ctx)
	return a, err
}

// complete gives a pending authority the certificate that was signed elsewhere.
func (s *Service) complete(ctx context.Context, actor string, a Authority, cert *x509.Certificate) (Authority, error) {
	key, err := s.openKey(ctx, a.KeyURI)
	if err != nil {
		return Authority{}, err
	}
	if err := fits(cert.Raw, key); err != nil {
		return Authority{}, err
	}
	if kindOf(cert) != a.Kind {
		return Authority{}, fault.New(fault.AuthorityInvalid, a.Name, "is an authority of another kind than the certificate's")
	}
	a.State, a.Certificate, a.ChangedAt = Active, cert.Raw, s.now()
	if err := s.store.UpdateAuthority(ctx, a, s.entry(ledger.AuthorityImported, actor, bodyOf(&a))); err != nil {
		return Authority{}, err
	}
	_, err = s.Refresh(ctx)
	return a, err
}

// importKey puts the key into the keystore, unless an interrupted import did.
func (s *Service) importKey(ctx context.Context, uri string, cert *x509.Certificate, e Existing) error {
	signer, err := parseKey(e.Key)
	if err != nil {
		return err
	}
	if err := fits(cert.Raw, signer); err != nil {
		return err
	}
	key, err := s.keys.Import(ctx, uri, signer, e.Secret)
	if fault.Has(err, fault.KeyExists) {
		key, err = s.keys.Load(ctx, uri, e.Secret)
	}
	if err != nil {
		return err
	}
	return fits(cert.Raw, key)
}

func kindOf(cert *x509.Certificate) Kind {
	if bytes.Equal(cert.RawSubject, cert.RawIssuer) {
		return Root
	}
	return Issuing
}

// parentOf returns the authority of ours that signed a certificate, 0 if none.
func (s *Snapshot) parentOf(cert *x509.Certificate) int64 {
	for _, m := range s.authorities {
		if m.X509 != nil && bytes.Equal(m.X509.RawSubject, cert.RawIssuer) && !bytes.Equal(m.Certificate, cert.Raw) &&
			cert.CheckSignatureFrom(m.X509) == nil {
			return m.ID
		}
	}
	return 0
}

// authorityCertificate reads one CA certificate and refuses what could not sign
// certificates here.
func authorityCertificate(text []byte) (*x509.Certificate, error) {
	der := text
	if block, rest := pem.Decode(text); block != nil {
		if block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fault.New(fault.CertificateInvalid)
		}
		der = block.Bytes
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.CertificateInvalid, err)
	}
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, fault.New(fault.AuthorityInvalid, "it is not the certificate of a certification authority")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fault.New(fault.AuthorityInvalid, "its keyUsage does not allow signing certificates")
	case len(cert.RawSubject) <= 2:
		return nil, fault.New(fault.AuthorityInvalid, "it has no subject")
	}
	if _, err := profile.KeyTypeOf(cert.PublicKey); err != nil {
		return nil, err
	}
	if kindOf(cert) == Root && cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		return nil, fault.New(fault.AuthorityInvalid, "its own signature does not verify")
	}
	return cert, nil
}

// parseKey reads an unencrypted private key.
func parseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	for rest := text; block != nil && block.Type == "EC PARAMETERS"; {
		_, rest = pem.Decode(rest)
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, fault.New(fault.KeyMalformed, "it is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fault.New(fault.KeyMalformed, "remove the key's encryption first; a PEM block", block.Type, "is not read")
	}
	if err != nil {
		return nil, fault.Wrap(fault.KeyMalformed, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.KeyAlgorithm)
	}
	if _, err := profile.KeyTypeOf(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// fits reports whether a certificate is for this key.
func fits(certificate []byte, key crypto.Signer) error {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fault.Wrap(fault.CertificateInvalid, err)
	}
	spki, err := spkiOf(key)
	if err != nil {
		return fault.Wrap(fault.KeyAlgorithm, err)
	}
	if !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		return fault.New(fault.AuthorityMismatch)
	}
	return nil
}

// RequestIssuing makes the key of an issuing authority that a root elsewhere
// will sign, and returns the CSR (DER) for it. The authority is pending until
// Import brings its certificate. Its key is opened without a person, so its
// passphrase is the server's.
func (s *Service) RequestIssuing(ctx context.Context, actor string, n NewAuthority) ([]byte, error) {
	if err := n.check("issuing"); err != nil {
		return nil, err
	}
	if err := s.learnKeyType(ctx, &n); err != nil {
		return nil, err
	}
	a, err := s.pending(ctx, actor, Authority{Name: n.Name, Kind: Issuing, KeyURI: n.uri(), CRLShards: n.CRLShards, Hardware: n.Hardware})
	if err != nil {
		return nil, err
	}
	key, err := s.openOrMake(ctx, a.KeyURI, n.KeyType)
	if err != nil {
		return nil, err
	}
	snap, err := s.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	return certificationRequest(s.random, key, authorityValues(snap.Installation, n.CommonName, n.title("Issuing CA")))
}
