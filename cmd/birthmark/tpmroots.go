package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type tpmRootsCmd struct {
	Import tpmRootsImportCmd `cmd:"" help:"Import a signed bundle; its makers are trusted from then on, in place of the version before."`
	List   tpmRootsListCmd   `cmd:"" help:"List bundles, the newest version of each."`
	Show   tpmRootsShowCmd   `cmd:"" help:"Show a bundle: makers, roots, deny list, versions."`
	Add    tpmRootsAddCmd    `cmd:"" help:"Write a bundle's content with one maker more, from certificate files. Needs no data folder."`
	Sign   tpmRootsSignCmd   `cmd:"" help:"Sign a bundle's content. Needs no data folder."`
}

type tpmRootsImportCmd struct {
	remote `embed:""`
	File   string `arg:"" help:"The bundle (- for standard input)."`
	Signer string `help:"Public key of who signs the bundle (PEM or DER), or its fingerprint: got on another way than the bundle." required:"" placeholder:"PUBKEY"`
	Repin  bool   `help:"Accept another signer than that of the version before."`
}

// Run imports a bundle.
func (c *tpmRootsImportCmd) Run(ctx context.Context, io *streams) error {
	text, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	in := rest.TPMRootsImport{Bundle: string(text), Repin: c.Repin}
	if in.Signer, err = signerFingerprint(io, c.Signer); err != nil {
		return err
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/tpm/roots", in, func(r *rest.ImportedTPMRoots) error {
		if r.Again {
			fmt.Fprintf(io.out, "%s version %d was imported before.\n", r.Name, r.Version)
			return nil
		}
		fmt.Fprintf(io.out, "Imported %s version %d: %s.\n", r.Name, r.Version, counted(len(r.Makers), "maker"))
		if r.Pinned {
			fmt.Fprintf(io.out, "  Later versions must be signed by %s.\n", r.Signer)
		}
		return nil
	})
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// signerFingerprint reads a fingerprint, or a file with a public key.
func signerFingerprint(io *streams, text string) (string, error) {
	if plain := strings.ReplaceAll(text, ":", ""); len(plain) == 64 && strings.Trim(strings.ToLower(plain), "0123456789abcdef") == "" {
		return plain, nil
	}
	raw, err := fileText(io, text)
	if err != nil {
		return "", err
	}
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	key, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return "", fault.New(fault.ParameterInvalid, text, "holds no public key (PEM \"PUBLIC KEY\" or DER)")
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	return attest.Fingerprint(spki), err
}

type tpmRootsListCmd struct {
	remote `embed:""`
}

// Run lists bundles.
func (c *tpmRootsListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/tpm/roots", url.Values{}, 0, []string{"NAME", "VERSION", "MAKERS", "DENIED", "SIGNER", "IMPORTED", "BY"},
		func(r *rest.TPMRoots) []string {
			var makers []string
			for _, m := range r.Makers {
				makers = append(makers, m.Name)
			}
			return []string{r.Name, fmt.Sprint(r.Version), strings.Join(makers, ","), fmt.Sprint(len(r.Deny)), r.Signer, day(r.ImportedAt), r.ImportedBy}
		})
}

type tpmRootsShowCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the bundle."`
}

// Run shows the newest version of a bundle and names the others.
func (c *tpmRootsShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, "/tpm/roots/"+url.PathEscape(c.Name), nil, func(l *listing[rest.TPMRoots]) error {
		r := &l.Items[0]
		fmt.Fprintf(io.out, "%s  version %d  issued %s\n", r.Name, r.Version, day(r.IssuedAt))
		err := printFields(io.out, [][2]string{{"signer", r.Signer}, {"sha256", r.Digest}})
		for _, m := range r.Makers {
			printMaker(io, &m)
		}
		for _, d := range r.Deny {
			fmt.Fprintf(io.out, "  denied: %s (%s)\n", denied(&d), d.Reason)
		}
		for i := range l.Items {
			v := &l.Items[i]
			repinned := ""
			if v.Repinned {
				repinned = ", another signer was accepted"
			}
			fmt.Fprintf(io.out, "  version %d imported %s by %s%s\n", v.Version, day(v.ImportedAt), v.ImportedBy, repinned)
		}
		return err
	})
}

func printMaker(io *streams, m *rest.TPMMaker) {
	expired := ""
	if m.AcceptExpired {
		expired = ", also beyond their end"
	}
	vendors := "any"
	if len(m.Vendors) > 0 {
		vendors = strings.Join(m.Vendors, ", ")
	}
	fmt.Fprintf(io.out, "  %s: EK certificates of %s%s\n", m.Name, vendors, expired)
	for _, ca := range m.Roots {
		fmt.Fprintf(io.out, "    root          %s, until %s\n", ca.Subject, day(ca.NotAfter))
	}
	for _, ca := range m.Intermediates {
		fmt.Fprintf(io.out, "    intermediate  %s, until %s\n", ca.Subject, day(ca.NotAfter))
	}
}

func denied(d *rest.TPMDeny) string {
	var parts []string
	for _, p := range [][2]string{
		{"vendor", d.Vendor},
		{"model", d.Model},
		{"version from", d.VersionFrom},
		{"to", d.VersionTo},
		{"firmware from", d.FirmwareFrom},
		{"to", d.FirmwareTo},
	} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	return strings.Join(parts, " ")
}

type tpmRootsAddCmd struct {
	Name          string   `help:"Name of the bundle; left out: that of --onto." placeholder:"NAME"`
	Version       int64    `help:"Version; left out: the one after that of --onto, or 1."`
	Onto          string   `help:"Content to start from." placeholder:"FILE"`
	Maker         string   `help:"Name of the maker." required:""`
	Vendor        []string `help:"tpmManufacturer of its EK certificates, for example id:494E5443; left out: any."`
	Root          []string `help:"Files with its root certificates, PEM or DER." required:"" placeholder:"FILE"`
	Intermediate  []string `help:"Files with intermediate certificates that its TPMs do not carry." placeholder:"FILE"`
	AcceptExpired bool     `help:"Accept EK certificates of this maker whose time is over."`
}

// Run writes the content of a bundle.
func (c *tpmRootsAddCmd) Run(_ context.Context, io *streams) error {
	file, err := c.start(io)
	if err != nil {
		return err
	}
	maker := attest.Maker{Name: c.Maker, Vendors: c.Vendor, AcceptExpired: c.AcceptExpired}
	if maker.Roots, err = certificateFiles(io, c.Root); err != nil {
		return err
	}
	if maker.Intermediates, err = certificateFiles(io, c.Intermediate); err != nil {
		return err
	}
	file.Makers = append(file.Makers, maker)
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	if _, err := tpm.ParseRoots(text); err != nil {
		return err
	}
	_, err = fmt.Fprintf(io.out, "%s\n", text)
	return err
}

// start returns the content to add to, with name, version and date of the new one.
func (c *tpmRootsAddCmd) start(io *streams) (*attest.RootsFile, error) {
	file := new(attest.RootsFile)
	if c.Onto != "" {
		text, err := fileText(io, c.Onto)
		if err != nil {
			return nil, err
		}
		if file, err = tpm.ParseRoots(text); err != nil {
			return nil, err
		}
	}
	file.Version++
	if c.Version != 0 {
		file.Version = c.Version
	}
	if c.Name != "" {
		file.Name = c.Name
	}
	file.IssuedAt = time.Now().UTC().Truncate(time.Second)
	return file, nil
}

// certificateFiles reads all certificates of files, as DER.
func certificateFiles(io *streams, paths []string) ([][]byte, error) {
	var all [][]byte
	for _, path := range paths {
		raw, err := fileText(io, path)
		if err != nil {
			return nil, err
		}
		before := len(all)
		for rest := raw; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				all = append(all, block.Bytes)
			}
		}
		if len(all) == before {
			all = append(all, raw)
		}
		for _, der := range all[before:] {
			if _, err := x509.ParseCertificate(der); err != nil {
				return nil, fault.Wrap(fault.ParameterInvalid, err, path, "holds no certificate")
			}
		}
	}
	return all, nil
}

type tpmRootsSignCmd struct {
	File string `arg:"" help:"The bundle's content, JSON (- for standard input)."`
	Key  string `help:"Private key of the signer: Ed25519, P-256 or P-384, PEM, unencrypted." required:"" placeholder:"PEM"`
}

// Run signs the content of a bundle exactly as it is and prints the bundle.
func (c *tpmRootsSignCmd) Run(_ context.Context, io *streams) error {
	content, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	if _, err := tpm.ParseRoots(content); err != nil {
		return err
	}
	raw, err := fileText(io, c.Key)
	if err != nil {
		return err
	}
	key, err := plainKey(raw)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, c.Key, "holds no private key that is not encrypted")
	}
	bundle, err := attest.SignBundle(content, key, rand.Reader)
	if err != nil {
		return err
	}
	_, err = io.out.Write(bundle)
	return err
}

// plainKey reads a PEM private key: PKCS #8 or SEC 1.
func plainKey(raw []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			return nil, fault.New(fault.ParameterInvalid, "no PEM block")
		}
		switch block.Type {
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			if signer, ok := key.(crypto.Signer); ok {
				return signer, nil
			}
			return nil, fault.New(fault.ParameterInvalid, "the key cannot sign")
		}
	}
}
