//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/keystore/session"
)

// Available reports whether this program can use PKCS #11.
const Available = true

// Token is a token of a module.
type Token struct {
	c    Config
	pool *session.Pool[*handle]

	// calls is held for reading during every call into the module, and for
	// writing while the module is ended and begun again.
	calls sync.RWMutex
	m     *p11.Ctx
	owned bool      // the module was begun here, so it is ended here
	life  int       // guarded by calls; how often the module was begun
	begun time.Time // guarded by calls; when, to leave time between two

	login   sync.Mutex
	refused error // guarded by login: the PIN is not tried again
}

// handle is an open session.
type handle struct {
	session p11.SessionHandle
	life    int
	objects map[string]p11.ObjectHandle // private keys by label and id
}

// Open loads the module and finds the token. It does not log in yet.
func Open(c Config) (*Token, error) {
	if c.PIN == nil || c.Now == nil || c.Token == "" {
		return nil, errors.New("pkcs11: Token, PIN and Now are needed")
	}
	m, owned, err := load(c.Module)
	if err != nil {
		return nil, err
	}
	t := &Token{c: c, m: m, owned: owned, begun: c.Now()}
	t.pool, err = session.New(session.Config[*handle]{
		Open: t.open, Close: t.closeSession, Broken: broken, Exhausted: exhausted, Most: c.Sessions, Wait: c.Wait,
	})
	if err != nil {
		return nil, err
	}
	if _, err := t.slot(); err != nil {
		end(m, owned)
		return nil, err
	}
	return t, nil
}

// load loads and begins a module; owned is false if it had been begun already in
// this process, for another token of its.
func load(path string) (m *p11.Ctx, owned bool, err error) {
	if err := Inspect(path); err != nil {
		return nil, false, err
	}
	m = p11.New(path)
	if m == nil {
		return nil, false, fault.New(fault.TokenModule, path, "is a library, but no PKCS #11 module, or libraries that it needs are missing")
	}
	err = m.Initialize()
	if err != nil && !is(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		m.Destroy()
		return nil, false, fault.Wrap(fault.TokenModule, err, path, "does not start:", name(err))
	}
	return m, err == nil, nil
}

func end(m *p11.Ctx, owned bool) {
	if owned {
		_ = m.Finalize() // nothing can be done about it
	}
	m.Destroy()
}

// Tokens lists the tokens of a module.
func Tokens(path string) ([]TokenInfo, error) {
	m, owned, err := load(path)
	if err != nil {
		return nil, err
	}
	defer end(m, owned)
	slots, err := m.GetSlotList(true)
	if err != nil {
		return nil, failed(err)
	}
	var all []TokenInfo
	for _, slot := range slots {
		info, err := m.GetTokenInfo(slot)
		if err != nil {
			continue // drawn just now
		}
		all = append(all, infoOf(&info))
	}
	return all, nil
}

func infoOf(i *p11.TokenInfo) TokenInfo {
	known := func(n uint) uint {
		if n == ^uint(0) { // CK_UNAVAILABLE_INFORMATION
			return 0
		}
		return n
	}
	return TokenInfo{
		Label: strings.TrimSpace(i.Label), Maker: strings.TrimSpace(i.ManufacturerID), Model: strings.TrimSpace(i.Model),
		Firmware:    fmt.Sprintf("%d.%02d", i.FirmwareVersion.Major, i.FirmwareVersion.Minor),
		Initialized: i.Flags&p11.CKF_TOKEN_INITIALIZED != 0,
		PINLow:      i.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0, PINLast: i.Flags&p11.CKF_USER_PIN_FINAL_TRY != 0,
		PINLocked:    i.Flags&p11.CKF_USER_PIN_LOCKED != 0,
		SessionsMost: known(i.MaxSessionCount), SessionsOpen: known(i.SessionCount),
	}
}

// Info returns what the module says of the token.
func (t *Token) Info() (TokenInfo, error) {
	t.calls.RLock()
	defer t.calls.RUnlock()
	slot, err := t.slot()
	if err != nil {
		return TokenInfo{}, err
	}
	info, err := t.m.GetTokenInfo(slot)
	if err != nil {
		return TokenInfo{}, failed(err)
	}
	return infoOf(&info), nil
}

// slot finds the token by its label. The caller holds calls, or is alone.
func (t *Token) slot() (uint, error) {
	slots, err := t.m.GetSlotList(true)
	if err != nil {
		return 0, failed(err)
	}
	var found []uint
	var labels []string
	for _, slot := range slots {
		info, err := t.m.GetTokenInfo(slot)
		if err != nil {
			continue
		}
		label := strings.TrimSpace(info.Label)
		if label == t.c.Token {
			found = append(found, slot)
		}
		if label != "" && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	slices.Sort(labels)
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return 0, fault.New(fault.TokenMissing, len(found), "tokens have the label", t.c.Token)
	case len(labels) == 0:
		return 0, fault.New(fault.TokenMissing, "no token has the label", t.c.Token, "and the module shows no other")
	}
	return 0, fault.New(fault.TokenMissing, "no token has the label", t.c.Token+";", "there are:", strings.Join(labels, ", "))
}

// open opens a session, logged in.
func (t *Token) open(context.Context) (*handle, error) {
	h, err := t.tryOpen(p11.CKF_SERIAL_SESSION)
	if err == nil || !gone(err) && !fault.Has(err, fault.TokenMissing) {
		return h, err
	}
	// Some modules notice only at their beginning which tokens there are.
	if !t.beginAgain() {
		return nil, err
	}
	return t.tryOpen(p11.CKF_SERIAL_SESSION)
}

func (t *Token) tryOpen(flags uint) (*handle, error) {
	t.calls.RLock()
	defer t.calls.RUnlock()
	slot, err := t.slot()
	if err != nil {
		return nil, err
	}
	s, err := t.m.OpenSession(slot, flags)
	if err != nil {
		return nil, failed(err)
	}
	if err := t.logIn(s); err != nil {
		_ = t.m.CloseSession(s) // the login's error says more
		return nil, err
	}
	return &handle{session: s, life: t.life, objects: make(map[string]p11.ObjectHandle)}, nil
}

// logIn logs the process in, unless it is. A PIN that was refused is not tried
// again before Retry.
func (t *Token) logIn(s p11.SessionHandle) error {
	t.login.Lock()
	defer t.login.Unlock()
	if t.refused != nil {
		return t.refused
	}
	pin, err := t.c.PIN()
	if err != nil {
		return err
	}
	defer clear(pin)
	err = t.m.Login(s, p11.CKU_USER, string(pin))
	switch {
	case err == nil, is(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case is(err, p11.CKR_PIN_LOCKED):
		t.refused = fault.New(fault.TokenPIN, "token", t.c.Token+":", "the PIN is locked")
	case is(err, p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE, p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED):
		t.refused = fault.New(fault.TokenPIN, "token", t.c.Token+":", name(err)+";", "it is not tried again before a restart")
	default:
		return failed(err)
	}
	return t.refused
}

// Retry lets a PIN that was refused be tried again, once.
func (t *Token) Retry() {
	t.login.Lock()
	defer t.login.Unlock()
	t.refused = nil
}

// patience is the least time between two beginnings of a module.
const patience = time.Second

// beginAgain ends the module and begins it again, if no call is in it and the
// last time is a while ago. All its sessions end.
func (t *Token) beginAgain() bool {
	if !t.calls.TryLock() {
		return false
	}
	defer t.calls.Unlock()
	if now := t.c.Now(); now.Sub(t.begun) < patience {
		return false
	} else {
		t.begun = now
	}
	_ = t.m.Finalize() // it may have ended by itself
	err := t.m.Initialize()
	t.life++
	return err == nil || is(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)
}

func (t *Token) closeSession(h *handle) {
	t.calls.RLock()
	defer t.calls.RUnlock()
	if h.life == t.life {
		_ = t.m.CloseSession(h.session) // broken or given back
	}
}

// Close ends the sessions and the module.
func (t *Token) Close() {
	t.pool.Close()
	if t.calls.TryLock() {
		defer t.calls.Unlock()
		end(t.m, t.owned)
		t.life++
	}
}

// errStale is a session of an earlier life of the module.
var errStale = p11.Error(p11.CKR_SESSION_HANDLE_INVALID)

// do makes calls into the module in a session.
func do[R any](ctx context.Context, t *Token, call func(h *handle) (R, error)) (R, error) {
	return session.Do(ctx, t.pool, func(h *handle) (R, error) {
		t.calls.RLock()
		defer t.calls.RUnlock()
		if h.life != t.life {
			var none R
			return none, failed(errStale)
		}
		return call(h)
	})
}
