package factory

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"slices"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Events are the kinds of ledger entries that webhooks may ask for.
func Events() []ledger.Kind {
	return []ledger.Kind{
		ledger.AlarmRaised, ledger.AlarmChanged, ledger.UnitConfirmed, ledger.UnitFailed, ledger.UnitScrapped, ledger.OrderChanged,
	}
}

// Sealer encrypts secrets that have to be used again and lie in the database.
type Sealer interface {
	Seal(secret []byte) ([]byte, error)
	Open(sealed []byte) ([]byte, error)
}

// dataKey seals with AES-256-GCM.
type dataKey struct{ aead cipher.AEAD }

// NewSealer returns a Sealer with the installation's data key.
func NewSealer(key [32]byte) (Sealer, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	// The nonce comes from the system and goes before the ciphertext: the one form
	// that FIPS 140-3 approves.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &dataKey{aead}, nil
}

func (k *dataKey) Seal(secret []byte) ([]byte, error) { return k.aead.Seal(nil, nil, secret, nil), nil }

func (k *dataKey) Open(sealed []byte) ([]byte, error) { return k.aead.Open(nil, nil, sealed, nil) }

const (
	maxURL     = 2000
	minSecret  = 16
	maxSecret  = 256
	madeSecret = 32
)

// SetWebhook adds a webhook or changes the one with its name. w.Secret is the
// key of the signatures as it is; empty, a new webhook gets one, which is
// returned this once, and a known one keeps its own. A new webhook begins with
// what happens from now on.
func (s *Service) SetWebhook(ctx context.Context, by access.Caller, w Webhook) (set Webhook, secret string, err error) {
	if s.secrets == nil {
		return Webhook{}, "", fault.New(fault.WebhookInvalid, "this installation has no data key")
	}
	if err := checkWebhook(&w); err != nil {
		return Webhook{}, "", err
	}
	there, err := s.webhook(ctx, w.Name)
	known := err == nil
	if err != nil && !fault.Has(err, fault.WebhookUnknown) {
		return Webhook{}, "", err
	}
	now := moment(s.now())
	w.ID, w.CreatedAt, w.ChangedAt, w.Failure = there.ID, now, now, ""
	if known {
		w.CreatedAt, w.Cursor = there.CreatedAt, there.Cursor
	} else if w.Cursor, err = s.ledger.LedgerSize(ctx); err != nil {
		return Webhook{}, "", err
	}
	if w.Secret, secret, err = s.sealed(w.Secret, there.Secret); err != nil {
		return Webhook{}, "", err
	}
	w.ID, err = s.store.SetWebhook(ctx, w, webhookEntry(s, by, &w, "set"))
	w.Secret = nil
	return w, secret, err
}

// sealed returns what is stored of a secret, and the secret if we made it.
func (s *Service) sealed(given, kept []byte) (stored []byte, made string, err error) {
	switch {
	case len(given) == 0 && len(kept) > 0:
		return kept, "", nil
	case len(given) == 0:
		raw := make([]byte, madeSecret)
		if _, err := io.ReadFull(s.random, raw); err != nil {
			return nil, "", fmt.Errorf("secret of a webhook: %w", err)
		}
		made = base64.RawURLEncoding.EncodeToString(raw)
		given = []byte(made)
	}
	stored, err = s.secrets.Seal(given)
	return stored, made, err
}

func checkWebhook(w *Webhook) error {
	if err := checkName("webhook's name", w.Name); err != nil {
		return err
	}
	u, err := url.Parse(w.URL)
	if err != nil || len(w.URL) > maxURL || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fault.New(fault.WebhookInvalid, "the URL has to be http or https, with a host and without a user")
	}
	for _, e := range w.Events {
		if !slices.Contains(Events(), ledger.Kind(e)) {
			return fault.New(fault.WebhookInvalid, "there is no event", e)
		}
	}
	if n := len(w.Secret); n != 0 && (n < minSecret || n > maxSecret) {
		return fault.New(fault.WebhookInvalid, "the secret has to be", minSecret, "to", maxSecret, "octets")
	}
	return nil
}

func webhookEntry(s *Service, by access.Caller, w *Webhook, act string) ledger.Entry {
	return ledger.Entry{Kind: ledger.WebhookChanged, At: s.now(), Actor: by.Name, Body: ledger.JSON(webhookBody{
		Name: w.Name, URL: w.URL, Events: w.Events, Cursor: w.Cursor, Disabled: w.Disabled, Act: act,
	})}
}

func (s *Service) webhook(ctx context.Context, name string) (Webhook, error) {
	all, err := s.store.Webhooks(ctx)
	if err != nil {
		return Webhook{}, err
	}
	for _, w := range all {
		if w.Name == name {
			return w, nil
		}
	}
	return Webhook{}, fault.New(fault.WebhookUnknown, name)
}

// RemoveWebhook removes a webhook.
func (s *Service) RemoveWebhook(ctx context.Context, by access.Caller, name string) error {
	w, err := s.webhook(ctx, name)
	if err != nil {
		return err
	}
	return s.store.RemoveWebhook(ctx, w.ID, webhookEntry(s, by, &w, "removed"))
}

// Webhooks returns all webhooks, without their secrets.
func (s *Service) Webhooks(ctx context.Context, _ access.Caller) ([]Webhook, error) {
	all, err := s.store.Webhooks(ctx)
	for i := range all {
		all[i].Secret = nil
	}
	return all, err
}

// ReplayWebhook sets the cursor of a webhook to a ledger index: what happened
// from there on is sent again.
func (s *Service) ReplayWebhook(ctx context.Context, by access.Caller, name string, from int64) error {
	if from < 0 {
		return fault.New(fault.WebhookInvalid, "the cursor is negative")
	}
	w, err := s.webhook(ctx, name)
	if err != nil {
		return err
	}
	w.Cursor, w.ChangedAt, w.Failure = from, moment(s.now()), ""
	_, err = s.store.SetWebhook(ctx, w, webhookEntry(s, by, &w, "replayed"))
	return err
}

// WebhookSecret opens the secret of a webhook as the store returned it, for
// whoever signs what is sent.
func (s *Service) WebhookSecret(w *Webhook) ([]byte, error) {
	if s.secrets == nil {
		return nil, fault.New(fault.WebhookInvalid, "this installation has no data key")
	}
	return s.secrets.Open(w.Secret)
}
