package factory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest/manifest"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// PinSigner trusts a certificate (PEM or DER) to sign manifests of a format from
// now on. The caller has checked the fingerprint with the chip maker.
func (s *Service) PinSigner(ctx context.Context, by access.Caller, name, format string, certificate []byte) (Signer, error) {
	if err := checkName("signer's name", name); err != nil {
		return Signer{}, err
	}
	if !manifest.Format(format).Signed() {
		return Signer{}, fault.New(fault.ManifestFormat, "manifests of format", format, "are not signed, or there is no such format")
	}
	der, err := oneCertificate(certificate)
	if err != nil {
		return Signer{}, err
	}
	x := Signer{Name: name, Format: format, Fingerprint: sha256.Sum256(der), Certificate: der, PinnedBy: by.Name, PinnedAt: moment(s.now())}
	all, err := s.store.Signers(ctx)
	if err != nil {
		return Signer{}, err
	}
	for _, there := range all {
		if there.Fingerprint == x.Fingerprint && there.Format == format && there.WithdrawnAt.IsZero() {
			return Signer{}, fault.New(fault.SignerExists, there.Name)
		}
	}
	x.ID, err = s.store.PinSigner(ctx, x, ledger.Entry{Kind: ledger.SignerPinned, At: s.now(), Actor: by.Name, Body: signerEntryBody(&x, "")})
	return x, err
}

// oneCertificate returns the DER of exactly one certificate.
func oneCertificate(text []byte) ([]byte, error) {
	der := text
	if block, rest := pem.Decode(text); block != nil {
		if block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fault.New(fault.ParameterInvalid, "one certificate is wanted")
		}
		der = block.Bytes
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, "the signer's certificate is malformed")
	}
	return der, nil
}

// WithdrawSigner ends the trust in a signer. Manifests that it signed stay.
func (s *Service) WithdrawSigner(ctx context.Context, by access.Caller, name, reason string) (Signer, error) {
	if err := needReason(reason); err != nil {
		return Signer{}, err
	}
	all, err := s.store.Signers(ctx)
	if err != nil {
		return Signer{}, err
	}
	for _, x := range all {
		if x.Name != name && hex.EncodeToString(x.Fingerprint[:]) != name {
			continue
		}
		if !x.WithdrawnAt.IsZero() {
			return x, nil
		}
		x.WithdrawnAt = moment(s.now())
		err := s.store.WithdrawSigner(ctx, x.ID, x.WithdrawnAt, ledger.Entry{
			Kind: ledger.SignerWithdrawn, At: s.now(), Actor: by.Name, Body: signerEntryBody(&x, reason),
		})
		return x, err
	}
	return Signer{}, fault.New(fault.SignerUnknown, name)
}

// Signers returns all signers, withdrawn ones too.
func (s *Service) Signers(ctx context.Context, _ access.Caller) ([]Signer, error) {
	return s.store.Signers(ctx)
}

// pinned returns the signers of a format that are good, as the importer wants
// them.
func (s *Service) pinned(ctx context.Context, format manifest.Format) (good []manifest.Signer, ids map[[32]byte]int64, err error) {
	all, err := s.store.Signers(ctx)
	if err != nil {
		return nil, nil, err
	}
	ids = make(map[[32]byte]int64)
	for _, x := range all {
		if x.Format == string(format) && x.WithdrawnAt.IsZero() {
			good = append(good, manifest.Signer{Fingerprint: x.Fingerprint, Certificate: x.Certificate})
			ids[x.Fingerprint] = x.ID
		}
	}
	return good, ids, nil
}
