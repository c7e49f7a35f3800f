package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/pkcs11"
	"github.com/birthmark/birthmark/internal/pki/keystore/remote"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

type doctorCmd struct {
	configured `embed:""`
	JSON       bool `help:"Print JSON."`
}

// finding is one line of the doctor's.
type finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Says  string `json:"says,omitempty"`
	Code  string `json:"code,omitempty"`
	Do    string `json:"do,omitempty"`
}

// doctor collects findings.
type doctor struct {
	settings *Settings
	io       *streams
	findings []finding
	sick     bool
}

func (d *doctor) good(check string, says ...any) {
	d.findings = append(d.findings, finding{Check: check, OK: true, Says: strings.TrimSpace(fmt.Sprintln(says...))})
}

// bad reports whether something is wrong, and notes what.
func (d *doctor) bad(check string, err error) bool {
	if err == nil {
		return false
	}
	f := fault.Of(err)
	says := f.Message
	if f.Detail != "" {
		says += ": " + f.Detail
	}
	if cause := f.Unwrap(); cause != nil && f.Code != fault.TokenPIN {
		says += " (" + cause.Error() + ")"
	}
	d.findings = append(d.findings, finding{Check: check, Says: says, Code: f.Code.String(), Do: f.Remedy})
	d.sick = true
	return true
}

// Run looks at everything, in the order in which things depend on one another.
func (c *doctorCmd) Run(ctx context.Context, io *streams) error {
	d := &doctor{io: io}
	var err error
	if d.settings, err = readSettings(c.Config); !d.bad("configuration", err) {
		d.good("configuration", c.Config)
		d.checkUsers()
		d.checkJournal()
		d.checkSocket(ctx)
		d.checkToken()
		d.checkKeys(ctx)
	}
	if c.JSON {
		err = program.PrintJSON(io.out, d.findings)
	} else {
		err = d.print()
	}
	if err == nil && d.sick {
		err = program.ErrSilent
	}
	return err
}

func (d *doctor) print() error {
	for _, f := range d.findings {
		state := "ok "
		if !f.OK {
			state = "BAD"
		}
		line := fmt.Sprintf("%s  %s: %s", state, f.Check, f.Says)
		if !f.OK {
			line += fmt.Sprintf(" (%s)\n     %s", f.Code, f.Do)
		}
		if _, err := fmt.Fprintln(d.io.out, line); err != nil {
			return err
		}
	}
	return nil
}

func (d *doctor) checkUsers() {
	users, err := uids("users", d.settings.Users)
	if err == nil && len(users) == 0 {
		err = invalid("users: nobody may ask")
	}
	if !d.bad("users", err) {
		d.good("users", strings.Join(d.settings.Users, ", "))
	}
}

// checkJournal looks whether records can be written, and hold.
func (d *doctor) checkJournal() {
	dir := d.settings.journal()
	if d.bad("journal", writable(dir)) {
		return
	}
	n := 0
	err := signer.ReadJournal(dir, func(*signer.Record) error { n++; return nil })
	if !d.bad("journal", err) {
		d.good("journal", n, "records in", dir+";", "the chain holds")
	}
}

// writable tries to write and sync a file.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.SignerJournal, err, dir, "cannot be made")
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fault.New(fault.SignerJournal, "others may write to", dir+"; chmod 700")
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return fault.Wrap(fault.SignerJournal, err, dir, "cannot be written")
	}
	_, err = f.Write(make([]byte, 4096))
	if err := errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name())); err != nil {
		return fault.Wrap(fault.SignerJournal, err, dir, "cannot be written")
	}
	return nil
}

// checkSocket looks at the socket's place, and asks whoever answers there.
func (d *doctor) checkSocket(ctx context.Context) {
	s := d.settings
	dir := filepath.Dir(s.Socket)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		d.bad("socket", fault.Wrap(fault.SignerConfig, err, "make its folder", dir))
		return
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&os.ModeSticky == 0:
		d.bad("socket", invalid("everybody may replace it: chmod o-w", dir))
		return
	case len(s.Socket) > 107:
		d.bad("socket", invalid("its path has more than 107 octets"))
		return
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", s.Socket)
	if err != nil {
		d.good("socket", "nobody answers at", s.Socket)
		return
	}
	_ = c.Close() // it was only to see whether somebody answers
	client, err := remote.New(remote.Config{Socket: s.Socket, Now: time.Now, Timeout: 5 * time.Second})
	if d.bad("socket", err) {
		return
	}
	defer client.Close()
	keys, err := client.Keys(ctx)
	if fault.Has(err, fault.SignerPeer) {
		d.good("socket", "a signer answers, and turns this user away")
		return
	}
	if !d.bad("socket", err) {
		d.good("socket", "a signer answers at", s.Socket, "with", len(keys), "keys")
	}
}

// checkToken looks at the module and its tokens before anybody logs in.
func (d *doctor) checkToken() {
	used := false
	labels := map[string]bool{}
	for _, k := range d.settings.Keys {
		if u, err := parseURI(k.URI); err == nil && u.scheme == "pkcs11" {
			used = true
			labels[u.token] = true
		}
	}
	if !used {
		return
	}
	tokens, err := pkcs11.Tokens(d.settings.PKCS11.Module)
	if d.bad("module", err) {
		return
	}
	d.good("module", d.settings.PKCS11.Module)
	for _, t := range tokens {
		if !labels[t.Label] {
			continue
		}
		switch {
		case t.PINLocked:
			d.bad("token "+t.Label, fault.New(fault.TokenPIN, "the PIN is locked"))
		case t.PINLast:
			d.bad("token "+t.Label, fault.New(fault.TokenPIN, "one more wrong PIN locks it; make sure of the PIN file first"))
		case t.SessionsMost > 0 && t.SessionsOpen >= t.SessionsMost:
			d.bad("token "+t.Label, fault.New(fault.TokenSessions, t.SessionsOpen, "of", t.SessionsMost, "are open"))
		default:
			d.good("token "+t.Label, t.Maker, t.Model, "firmware", t.Firmware)
		}
	}
}

// checkKeys opens each key, has it sign, and holds it against its certificate.
func (d *doctor) checkKeys(ctx context.Context) {
	for _, one := range d.tokensAtRisk() {
		if d.bad("keys", one) {
			return
		}
	}
	b := newBackends(d.settings, d.io)
	defer b.close()
	for i := range d.settings.Keys {
		k := &d.settings.Keys[i]
		check := "key " + k.Name
		backend, err := b.open(ctx, k)
		if d.bad(check, err) {
			if fault.Has(err, fault.TokenPIN) {
				return // the others would try it again
			}
			continue
		}
		if d.bad(check, trial(ctx, backend)) {
			continue
		}
		t, err := profile.KeyTypeOf(backend.Public())
		if d.bad(check, err) {
			continue
		}
		der, err := readCertificate(k.Certificate)
		switch {
		case err != nil:
			d.bad(check, err)
		case der == nil && k.Root:
			d.good(check, t, "signs; pending: it will be bound when the root's certificate is made")
		case der == nil:
			d.good(check, t, "signs; pending: bind it with key bind once its authority has a certificate")
		case !d.bad(check, fits(k, backend, der)):
			d.good(check, t, "signs for", subjectOf(der))
		}
	}
}

// tokensAtRisk says why no PIN may be tried now.
func (d *doctor) tokensAtRisk() (all []error) {
	for _, f := range d.findings {
		if !f.OK && strings.HasPrefix(f.Check, "token ") && f.Code == fault.TokenPIN.String() {
			all = append(all, fault.New(fault.TokenPIN, "no PIN is tried:", f.Check))
		}
	}
	return all
}

// trial has a key sign a digest of words that are no structure anybody accepts.
func trial(ctx context.Context, b signer.Backend) error {
	digest := sha256.Sum256([]byte("birthmark-signer doctor: a signature that means nothing"))
	ok := false
	switch public := b.Public().(type) {
	case ed25519.PublicKey:
		signature, err := b.Sign(ctx, digest[:], 0)
		if err != nil {
			return err
		}
		ok = ed25519.Verify(public, digest[:], signature)
	case *ecdsa.PublicKey:
		signature, err := b.Sign(ctx, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		ok = ecdsa.VerifyASN1(public, digest[:], signature)
	case *rsa.PublicKey:
		signature, err := b.Sign(ctx, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}
	if !ok {
		return fault.New(fault.SignatureFault, "public and private key do not belong together, or the hardware is faulty")
	}
	return nil
}
