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
	secret, err := c.rootPassphrase()
	if err != nil {
		return err
	}
	if c.RootPassphraseFile == "" {
		result.RootPassphrase = string(secret)
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
		err = n.install(ctx, installation{
			organization: c.Org, statusURL: strings.TrimSuffix(c.StatusURL, "/"), keyType: profile.KeyType(c.KeyType), root: secret, operator: name,
		})
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
		fmt.Fprintf(io.out, "\nThe issuing keys' passphrase is in %s; docs/operate says how to keep it elsewhere.\n", r.PassphraseFile)
	}
	if r.StatusURL == "" {
		fmt.Fprint(io.out, "\nNo --status-url: certificates will carry no OCSP or CRL address.\n")
	}
	fmt.Fprintf(io.out, "\nNext: birthmark serve --data %s\n", r.Data)
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
