package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

type initCmd struct {
	Settings           `embed:""`
	Org                string `help:"Organization in the certificates' names." required:""`
	StatusURL          string `help:"Base of the OCSP, CRL and authority addresses in certificates, for example http://pki.example.com. Without it certificates carry none." placeholder:"URL"`
	RootPassphraseFile string `help:"File with the root key's passphrase. Without it one is made and shown once." placeholder:"FILE" type:"path"`
	RootCertificate    string `help:"Certificate (PEM) of a root whose key is elsewhere, made in a key ceremony: the issuing authority then waits for its own." placeholder:"PEM" type:"path"`
	RootKey            string `help:"Key of the root in birthmark-signer; left out: a new file." placeholder:"signer:NAME" env:"BIRTHMARK_ROOT_KEY"`
	IssuingKey         string `help:"Key of the issuing authority in birthmark-signer; left out: a new file." placeholder:"signer:NAME" env:"BIRTHMARK_ISSUING_KEY"`
	KeyType            string `help:"Key type of the authorities." default:"p256" enum:"p256,p384,ed25519,rsa2048,rsa3072,rsa4096"`
	JSON               bool   `help:"Print JSON."`
}

// initResult is what init prints.
type initResult struct {
	Data           string `json:"data"`
	Root           string `json:"root"`
	Bundle         string `json:"bundle"`
	Login          string `json:"login"`
	Operator       string `json:"operator"`
	RootPassphrase string `json:"root_passphrase,omitempty"`
	PassphraseFile string `json:"passphrase_file"`
	CSR            string `json:"csr,omitempty"` // what a root elsewhere is to sign
	StatusURL      string `json:"status_url,omitempty"`
}

// Run makes a data folder.
func (c *initCmd) Run(ctx context.Context, io *streams) error {
	quiet := c.Settings
	quiet.LogLevel = "warn"
	log, closeLog := newLogger(&quiet, io.err)
	defer closeLog()
	f := folder(c.Data)
	if _, err := os.Stat(f.bundle()); err == nil {
		return fault.New(fault.DataFolderState, c.Data, "is initialized already")
	}
	result := initResult{
		Data: c.Data, Root: f.root(), Bundle: f.bundle(), Login: "http://" + c.ConsoleListen + "/",
		PassphraseFile: f.passphrase(), StatusURL: c.StatusURL,
	}
	made := installation{
		rootKey: c.RootKey, issuingKey: c.IssuingKey,
		organization: c.Org, statusURL: strings.TrimSuffix(c.StatusURL, "/"), keyType: profile.KeyType(c.KeyType),
	}
	if err := c.readRoot(io, f, &made, &result); err != nil {
		return err
	}
	if c.PassphraseFile != "" {
		result.PassphraseFile = c.PassphraseFile
	}
	n, err := openNode(ctx, c.Settings, log, nodeOptions{create: true, block: oneShotBlock})
	if err != nil {
		return err
	}
	name, err := localUser()
	if err == nil {
		result.Operator = "local:" + name
		made.operator = name
		err = n.install(ctx, made)
	}
	if err == nil {
		if err = n.startLedger(ctx); err == nil {
			err = n.lastCheckpoint(ctx)
		}
	}
	if err := joinClose(ctx, n, err); err != nil {
		return err
	}
	return c.print(io, &result)
}

// oneShotBlock is how many serials a command leases that is no server.
const oneShotBlock = 16

// readRoot reads or makes what init must know of the root: its certificate, or
// the passphrase of the key to be made.
func (c *initCmd) readRoot(io *streams, f folder, made *installation, result *initResult) error {
	if c.RootCertificate != "" {
		if c.RootPassphraseFile != "" {
			return fault.New(fault.ConfigInvalid, "a root whose key is elsewhere has no passphrase here")
		}
		text, err := fileText(io, c.RootCertificate)
		if err != nil {
			return err
		}
		made.rootCertificate, result.CSR = text, f.csr()
		return nil
	}
	if c.RootKey != "" {
		return nil
	}
	secret, err := c.rootPassphrase()
	if err != nil {
		return err
	}
	made.root = secret
	if c.RootPassphraseFile == "" {
		result.RootPassphrase = string(secret)
	}
	return nil
}

func (c *initCmd) rootPassphrase() (keystore.Secret, error) {
	if c.RootPassphraseFile == "" {
		return keystore.NewPassphrase(rand.Reader), nil
	}
	return readSecret(c.RootPassphraseFile)
}

// readSecret reads a passphrase from a file, without its line ending.
func readSecret(path string) (keystore.Secret, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.ConfigInvalid, err, "the passphrase file cannot be read")
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if len(secret) < 12 {
		return nil, fault.New(fault.ConfigInvalid, "a passphrase has at least 12 characters")
	}
	return keystore.Secret(secret), nil
}

func (c *initCmd) print(io *streams, r *initResult) error {
	if c.JSON {
		return printJSON(io.out, r)
	}
	fmt.Fprintf(io.out, "Made %s\n  root            %s\n  all authorities %s\n  first operator  %s\n", r.Data, r.Root, r.Bundle, r.Operator)
	if r.RootPassphrase != "" {
		fmt.Fprintf(io.out, "\nPassphrase of the root's key (shown once, kept nowhere; write it down):\n  %s\n", r.RootPassphrase)
	}
	if c.PassphraseFile == "" {
		fmt.Fprintf(io.out, "\nThe passphrase of the keys that the server opens by itself is in %s; docs/operate/systemd.md says how to keep it elsewhere.\n", r.PassphraseFile)
	}
	if r.StatusURL == "" {
		fmt.Fprint(io.out, "\nNo --status-url: certificates will carry no OCSP or CRL address.\n")
	}
	if r.CSR != "" {
		fmt.Fprintf(io.out, "\nThe issuing authority waits for its certificate. Let the ceremony's root sign %s, then:\n"+
			"  birthmark authority import --data %s --name issuing --certificate FILE\n  birthmark authority import-crl --data %s --name root --crl FILE\n", r.CSR, r.Data, r.Data)
	}
	then := "Next"
	if r.CSR != "" {
		then = "Then"
	}
	socket := ""
	if c.SignerSocket != "" {
		socket = " --signer-socket " + c.SignerSocket
	}
	fmt.Fprintf(io.out, "\n%s: birthmark serve --data %s%s\n", then, r.Data, socket)
	return nil
}

// localUser names the user of this process.
func localUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.Username, nil
}
