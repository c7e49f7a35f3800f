package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"

	"filippo.io/age"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority/ceremony"
)

// thisMachine returns what a transcript says of this machine and program.
func thisMachine() (ceremony.Machine, error) {
	digest, err := ownDigest()
	if err != nil {
		return ceremony.Machine{}, fmt.Errorf("read this program: %w", err)
	}
	m := ceremony.Machine{Version: version, Binary: digest, System: runtime.GOOS + "/" + runtime.GOARCH, Swap: swapDevices()}
	all, err := net.Interfaces()
	if err != nil {
		return m, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, one := range all {
		if one.Flags&net.FlagUp != 0 && one.Flags&net.FlagLoopback == 0 {
			m.Interfaces = append(m.Interfaces, one.Name)
		}
	}
	return m, nil
}

// ownDigest returns the SHA-256 of the running program's file, to be compared
// with the release's SHA256SUMS.
func ownDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// swapDevices returns where Linux may write this process's memory to.
func swapDevices() []string {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil // not Linux
	}
	var devices []string
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if name, _, _ := strings.Cut(line, " "); i > 0 && name != "" {
			devices = append(devices, strings.TrimSpace(name))
		}
	}
	return devices
}

type ceremonyIdentityCmd struct {
	Out string `help:"File for the identity, which is secret; the recipient goes beside it, with .pub behind its name." required:"" type:"path" placeholder:"FILE"`
}

// Run makes a custodian's key.
func (c *ceremonyIdentityCmd) Run(io_ *streams) error {
	// Shares stay secret for as long as the root lives, so against the computers
	// of that time, too.
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return err
	}
	public := id.Recipient().String()
	for _, path := range []string{c.Out, c.Out + ".pub"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.ParameterInvalid, path, "is there already")
		}
	}
	if err := newSecretFile(c.Out, []byte(id.String()+"\n")); err != nil {
		return err
	}
	if err := writeFile(c.Out+".pub", []byte(public+"\n"), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(io_.out, "Made %s, which is secret, and %s.pub for the ceremony's plan.\n", c.Out, c.Out)
	return err
}
