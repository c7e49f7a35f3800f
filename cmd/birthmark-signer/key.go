package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	gio "io"
	"os"
	"strings"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

type keyCmd struct {
	List   keyListCmd   `cmd:"" help:"List the configured keys."`
	Create keyCreateCmd `cmd:"" help:"Make a configured key where its URI says."`
	CSR    keyCSRCmd    `cmd:"" name:"csr" help:"Print a PKCS #10 request for a key's certificate."`
	Bind   keyBindCmd   `cmd:"" help:"Bind a key to its authority's certificate."`
}

// named is a command about one key.
type named struct {
	configured `embed:""`
	Name       string `arg:"" help:"Name of the key."`
}

// key finds the key and opens it.
func (n *named) key() (*Settings, *KeySettings, error) {
	s, err := readSettings(n.Config)
	if err != nil {
		return nil, nil, err
	}
	for i := range s.Keys {
		if s.Keys[i].Name == n.Name {
			return s, &s.Keys[i], nil
		}
	}
	return nil, nil, fault.New(fault.SignerKeyUnknown, n.Name, "is not in", n.Config)
}

type keyListCmd struct {
	configured `embed:""`
	JSON       bool `help:"Print JSON."`
}

// listedKey is a key as the list shows it.
type listedKey struct {
	Name    string   `json:"name"`
	URI     string   `json:"uri"`
	Type    string   `json:"type,omitempty"`
	Signs   []string `json:"signs"`
	Bound   string   `json:"bound,omitempty"` // subject of the certificate
	Problem string   `json:"problem,omitempty"`
}

// Run lists the keys.
func (c *keyListCmd) Run(ctx context.Context, io *streams) error {
	s, err := readSettings(c.Config)
	if err != nil {
		return err
	}
	b := newBackends(s, io)
	defer b.close()
	all := []listedKey{}
	for i := range s.Keys {
		k := &s.Keys[i]
		one := listedKey{Name: k.Name, URI: k.URI, Signs: k.Signs}
		if key, err := b.open(ctx, k); err != nil {
			one.Problem = fault.Of(err).Error()
		} else if t, err := profile.KeyTypeOf(key.Public()); err == nil {
			one.Type = string(t)
		}
		if der, err := readCertificate(k.Certificate); err != nil {
			one.Problem = err.Error()
		} else if cert, err := x509.ParseCertificate(der); err == nil {
			one.Bound = cert.Subject.String()
		}
		all = append(all, one)
	}
	if c.JSON {
		return program.PrintJSON(io.out, all)
	}
	var rows [][]string
	for _, k := range all {
		bound := k.Bound
		if bound == "" {
			bound = "(pending)"
		}
		rows = append(rows, []string{k.Name, k.Type, k.URI, strings.Join(k.Signs, ","), bound, k.Problem})
	}
	return program.PrintTable(io.out, []string{"NAME", "TYPE", "URI", "SIGNS", "BOUND TO", ""}, rows)
}

type keyCreateCmd struct {
	named `embed:""`
	Type  string `help:"Key type: p256, p384, rsa2048, rsa3072, rsa4096; in files also ed25519." default:"p256"`
}

// Run makes a key.
func (c *keyCreateCmd) Run(ctx context.Context, io *streams) error {
	s, k, err := c.key()
	if err != nil {
		return err
	}
	b := newBackends(s, io)
	defer b.close()
	if _, err := b.create(ctx, k, profile.KeyType(c.Type)); err != nil {
		return about(k, err)
	}
	_, err = fmt.Fprintf(io.out, "Made %s (%s) at %s\n", k.Name, c.Type, k.URI)
	return err
}

type keyCSRCmd struct {
	named        `embed:""`
	CommonName   string `help:"Common name in the request." required:""`
	Organization string `help:"Organization in the request."`
}

// Run prints a request. Whoever runs it has the PIN, so nothing stands between
// the two.
func (c *keyCSRCmd) Run(ctx context.Context, io *streams) error {
	s, k, err := c.key()
	if err != nil {
		return err
	}
	b := newBackends(s, io)
	defer b.close()
	backend, err := b.open(ctx, k)
	if err != nil {
		return about(k, err)
	}
	subject := pkix.Name{CommonName: c.CommonName}
	if c.Organization != "" {
		subject.Organization = []string{c.Organization}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, asSigner{ctx, backend})
	if err != nil {
		return about(k, err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil || request.CheckSignature() != nil {
		return fault.New(fault.SignatureFault, "key", k.Name)
	}
	return pem.Encode(io.out, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// asSigner is a backend as crypto/x509 calls it.
type asSigner struct {
	ctx     context.Context
	backend signer.Backend
}

// Public returns the public key.
func (a asSigner) Public() crypto.PublicKey { return a.backend.Public() }

// Sign signs a digest.
func (a asSigner) Sign(_ gio.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return a.backend.Sign(a.ctx, digest, opts.HashFunc())
}

type keyBindCmd struct {
	named       `embed:""`
	Certificate string `help:"PEM file with the authority's certificate." required:"" placeholder:"FILE" type:"path"`
}

// Run keeps the certificate that a key's authority has. A signer that runs finds
// it by itself.
func (c *keyBindCmd) Run(ctx context.Context, io *streams) error {
	s, k, err := c.key()
	if err != nil {
		return err
	}
	der, err := readCertificate(c.Certificate)
	if err != nil {
		return err
	}
	if der == nil {
		return fault.New(fault.CertificateInvalid, c.Certificate, "is not there")
	}
	b := newBackends(s, io)
	defer b.close()
	backend, err := b.open(ctx, k)
	if err != nil {
		return about(k, err)
	}
	if err := fits(k, backend, der); err != nil {
		return about(k, err)
	}
	switch have, err := readCertificate(k.Certificate); {
	case err != nil:
		return err
	case bytes.Equal(have, der):
	case have != nil:
		return fault.New(fault.KeyExists, "the key is bound to another certificate; remove", k.Certificate, "if that is meant, and restart the signer")
	default:
		if err := writeCertificate(k.Certificate, der); err != nil {
			return fault.Wrap(fault.SignerConfig, err, k.Certificate)
		}
	}
	_, err = fmt.Fprintf(io.out, "%s signs for %s\n", k.Name, subjectOf(der))
	return err
}

func fits(k *KeySettings, b signer.Backend, der []byte) error {
	bounds, err := k.bounds()
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(b.Public())
	if err != nil {
		return err
	}
	return signer.Fits(der, spki, &bounds)
}

func subjectOf(der []byte) string {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "?"
	}
	return cert.Subject.String()
}

type journalCmd struct {
	configured `embed:""`
	Print      bool `help:"Print every record as a line of JSON."`
}

// Run checks the journal's chain and, if asked, prints it.
func (c *journalCmd) Run(_ context.Context, io *streams) error {
	s, err := readSettings(c.Config)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.journal()); err != nil {
		return fault.Wrap(fault.SignerJournal, err, "there is none")
	}
	counts := map[signer.Outcomes]int{}
	err = signer.ReadJournal(s.journal(), func(r *signer.Record) error {
		counts[r.Outcome]++
		if c.Print {
			return program.PrintLine(io.out, r)
		}
		return nil
	})
	if err != nil || c.Print {
		return err
	}
	_, err = fmt.Fprintf(io.out, "The chain holds: %d signed, %d refused, %d failed, %d dropped\n",
		counts[signer.Signing], counts[signer.Refused], counts[signer.Failed], counts[signer.Dropped])
	return err
}

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// version is set by the release.
var version = "development"

// Run prints what the binary was made from.
func (c *versionCmd) Run(_ context.Context, io *streams) error {
	return program.PrintBuild(io.out, "birthmark-signer", version, c.JSON)
}
