package attest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Products is what the service needs of the device register.
type Products interface {
	Products(ctx context.Context, s access.Scope) ([]device.Product, error)
}

// Config names what the service needs. All but Logger is required.
type Config struct {
	Store    Store
	Products Products
	// ParseRoots and CheckPolicy read contents: tpm.ParseRoots and tpm.ParsePolicy
	// of the package below, which imports this one.
	ParseRoots  func(content []byte) (*RootsFile, error)
	CheckPolicy func(content []byte) error
	Now         func() time.Time
	Logger      *slog.Logger
}

// Service keeps what judgments of hardware rest on, and shows what was kept of
// them.
type Service struct {
	store       Store
	products    Products
	parseRoots  func([]byte) (*RootsFile, error)
	checkPolicy func([]byte) error
	now         func() time.Time
	log         *slog.Logger
}

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Products == nil || c.ParseRoots == nil || c.CheckPolicy == nil || c.Now == nil {
		return nil, errors.New("attest: everything but Logger is needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{store: c.Store, products: c.Products, parseRoots: c.ParseRoots, checkPolicy: c.CheckPolicy, now: c.Now, log: c.Logger}, nil
}

// Evidence returns what was shown for a credential, or fault.CredentialUnknown.
func (s *Service) Evidence(ctx context.Context, by access.Caller, id device.CredentialID) (Evidence, error) {
	return s.store.Evidence(ctx, by.Scope, id)
}

// TPMOf returns the TPM of a device, or fault.DeviceUnknown.
func (s *Service) TPMOf(ctx context.Context, by access.Caller, id device.ID) (TPMRecord, error) {
	return s.store.TPMOf(ctx, by.Scope, id)
}

// ResetTPM accepts that the counters of a device's TPM begin anew, as they do when
// it was cleared.
func (s *Service) ResetTPM(ctx context.Context, by access.Caller, id device.ID, reason string) error {
	if reason = strings.TrimSpace(reason); reason == "" {
		return fault.New(fault.ParameterInvalid, "a reason is needed")
	}
	if _, err := s.store.TPMOf(ctx, by.Scope, id); err != nil {
		return err
	}
	return s.store.ResetTPM(ctx, id, s.entry(ledger.TPMReset, by.Name, &ledger.ResetTPM{Device: int64(id), Reason: sha256.Sum256([]byte(reason))}))
}

// Refused records that evidence of a known requester was refused. The refusal
// itself stands whether or not it was recorded.
func (s *Service) Refused(ctx context.Context, actor string, b *ledger.RefusedEvidence) error {
	return s.store.Record(ctx, s.entry(ledger.EvidenceRefused, actor, b))
}

// ticketsKept is how long spent tickets are remembered after their expiry, for the
// clocks of nodes that differ.
const ticketsKept = time.Hour

// Prune forgets tickets that nobody accepts any more. It may run on every node,
// every few minutes.
func (s *Service) Prune(ctx context.Context) error {
	return s.store.PruneTickets(ctx, s.now().Add(-ticketsKept))
}

func (s *Service) entry(kind ledger.Kind, actor string, body ledger.Body) ledger.Entry {
	return ledger.Entry{Kind: kind, At: s.now(), Actor: actor, Body: body}
}

// moment is a time as the database keeps it.
func moment(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// rootsBody and policyBody are the ledger's records of a version of a bundle and of
// a policy.
type rootsBody struct {
	Name     string `json:"name"`
	Version  int64  `json:"version"`
	Digest   string `json:"sha256"`
	Signer   string `json:"signer"` // fingerprint
	Repinned bool   `json:"repinned,omitempty"`
}

func rootsEntryBody(r *Roots) ledger.Body {
	return ledger.JSON(rootsBody{
		Name: r.Name, Version: r.Version, Digest: hex.EncodeToString(r.Digest[:]), Signer: Fingerprint(r.Signer), Repinned: r.Repinned,
	})
}

type policyBody struct {
	Product int64  `json:"product"`
	Version int64  `json:"version"`
	Digest  string `json:"sha256"`
	Ended   bool   `json:"ended,omitempty"` // the product has no policy from here on
}

func policyEntryBody(p *Policy) ledger.Body {
	return ledger.JSON(policyBody{Product: p.Product, Version: p.Version, Digest: hex.EncodeToString(p.Digest[:]), Ended: len(p.Content) == 0})
}
