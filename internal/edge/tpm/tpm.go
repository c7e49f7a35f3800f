// Package tpm is the device's side of a TPM 2.0: it reads the endorsement key and
// its certificate, makes attestation and subject keys, opens the server's
// challenge, certifies, quotes and signs. What the TPM says it hands on as it is;
// whether that proves anything is for the server.
//
// A small TPM holds three loaded objects and three sessions and nothing more, so
// all work is done in turns: a turn opens the way to the TPM, does its commands
// one after the other, flushes what it has loaded, however it ends, and closes.
// Between two turns nothing of ours is loaded, and others may use the TPM.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
)

// Config says which TPM.
type Config struct {
	// Path is a device file (/dev/tpmrm0), a Unix socket or HOST:PORT of a TPM in
	// software; empty: the first device file that is there.
	Path string
	// Template names the endorsement key to use, such as "H-3"; empty: see Endorsement.
	Template string
	// OwnerAuth and EndorsementAuth are the passwords of the hierarchies; most TPMs
	// have none.
	OwnerAuth, EndorsementAuth []byte
	// Timeout is for one command, and for other users to be done with theirs; 0: 2
	// min, which an RSA key may take.
	Timeout time.Duration
}

const defaultTimeout = 2 * time.Minute

// TPM is a TPM that answers. Its methods may be called by several goroutines; they
// take turns.
type TPM struct {
	c    Config
	info Info
	mu   sync.Mutex // held during a turn
}

// Info is what a TPM says of itself.
type Info struct {
	Path         string `json:"path"`
	Manufacturer string `json:"manufacturer"` // four characters, such as "IFX"
	Vendor       string `json:"vendor"`       // the maker's own text
	Firmware     string `json:"firmware"`     // four numbers, as in attestations: 7.85.4555.0
	NVBuffer     int    `json:"nvBuffer"`     // octets of an NV index that one command carries
}

// Open finds the TPM and asks who it is.
func Open(ctx context.Context, c Config) (*TPM, error) {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	var err error
	if c.Path, err = find(c.Path); err != nil {
		return nil, err
	}
	t := &TPM{c: c}
	err = t.turn(ctx, func(u *turn) error {
		t.info, err = u.identify()
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Info returns what the TPM says of itself.
func (t *TPM) Info() Info { return t.info }

// turn is one user's turn at the TPM.
type turn struct {
	t      *TPM
	ctx    context.Context
	ch     *channel
	loaded []tpm2.TPMHandle // objects and sessions, to be flushed
}

// turn does work with the TPM to itself. What the work has loaded is flushed at
// its end, however it ends.
func (t *TPM) turn(ctx context.Context, work func(*turn) error) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &turn{t: t, ctx: ctx}
	if u.ch, err = dial(ctx, t.c.Path, t.c.Timeout); err != nil {
		return err
	}
	defer func() {
		if flushErr := u.flush(); err == nil {
			err = flushErr
		}
		_ = u.ch.Close() // nothing is under way
	}()
	return work(u)
}

// Send implements transport.TPM. A turn that was called off sends nothing more but
// what is needed to flush.
func (u *turn) Send(command []byte) ([]byte, error) {
	if err := u.ctx.Err(); err != nil {
		return nil, err
	}
	return u.ch.Send(command)
}

// keep notes that a handle is to be flushed at the end of the turn.
func (u *turn) keep(h tpm2.TPMHandle) { u.loaded = append(u.loaded, h) }

// drop flushes what was loaded last, to make room. Where the connection broke it
// does so over a new one.
func (u *turn) drop() error {
	last := len(u.loaded) - 1
	h := u.loaded[last]
	u.loaded = u.loaded[:last]
	err := u.ch.flush(h)
	if u.ch.broken == nil {
		return err
	}
	fresh, dialErr := dial(context.WithoutCancel(u.ctx), u.t.c.Path, u.t.c.Timeout)
	if dialErr != nil {
		return err
	}
	_ = u.ch.Close() // it is broken
	u.ch = fresh
	return u.ch.flush(h)
}

// dropTo flushes what was loaded since there were n, to make room.
func (u *turn) dropTo(n int) error {
	for len(u.loaded) > n {
		if err := u.drop(); err != nil {
			return err
		}
	}
	return nil
}

// flush flushes all that is loaded. It goes on after a failure: what stays loaded
// takes room from everybody.
func (u *turn) flush() error {
	var all error
	for len(u.loaded) > 0 {
		all = errors.Join(all, u.drop())
	}
	return all
}

func (c *channel) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c)
	if err != nil && errors.Is(err, tpm2.TPMRCHandle) {
		return nil // it is gone already
	}
	return failed("TPM2_FlushContext", err)
}

// hints say what people can do about codes that occur with sound TPMs.
var hints = []struct {
	code tpm2.TPMRC
	hint string
}{
	{tpm2.TPMRCObjectMemory, "all of its places for loaded objects are taken: use the resource manager /dev/tpmrm0, or let the program that holds them end"},
	{tpm2.TPMRCObjectHandles, "all of its places for loaded objects are taken: use the resource manager /dev/tpmrm0, or let the program that holds them end"},
	{tpm2.TPMRCSessionMemory, "all of its sessions are taken: use the resource manager /dev/tpmrm0, or let the program that holds them end"},
	{tpm2.TPMRCSessionHandles, "all of its sessions are taken: use the resource manager /dev/tpmrm0, or let the program that holds them end"},
	{tpm2.TPMRCNVSpace, "its memory for persistent keys and indices is full"},
	{tpm2.TPMRCLockout, "it is locked after wrong passwords; wait, or let the owner reset it"},
	{tpm2.TPMRCAuthFail, "a password is wrong"},
	{tpm2.TPMRCBadAuth, "a password is wrong: the hierarchy's owner has set one"},
	{tpm2.TPMRCHierarchy, "the hierarchy is switched off"},
	{tpm2.TPMRCInitialize, "it was not started: the firmware must send TPM2_Startup"},
	{tpm2.TPMRCFailure, "it is in failure mode; restart the device"},
	{tpm2.TPMRCIntegrity, "the key or credential was made for another TPM or another key"},
}

// failed makes a refusal of the TPM a fault that names the command.
func failed(command string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	rc, ok := errors.AsType[tpm2.TPMRC](err)
	if !ok {
		return fault.Wrap(fault.TPMFailed, err, command)
	}
	detail := fmt.Sprintf("%s: %v", command, rc)
	for _, h := range hints {
		if errors.Is(rc, h.code) {
			return fault.Wrap(fault.TPMFailed, err, detail+"; "+h.hint)
		}
	}
	return fault.Wrap(fault.TPMFailed, err, detail)
}
