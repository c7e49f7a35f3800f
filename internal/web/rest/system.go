package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/keystore"
)

// Ledger is what the API needs of the ledger.
type Ledger interface {
	// State returns how far the ledger is and the verifier key of its
	// checkpoints.
	State(ctx context.Context) (LedgerState, error)
	// Leaf returns an entry with its proof under the newest checkpoint.
	Leaf(ctx context.Context, index int64) (LedgerLeaf, error)
	// Verify checks everything and returns what it found; a ledger that does not
	// hold is an error. checkpoint, if not nil, is one that was seen before.
	Verify(ctx context.Context, checkpoint []byte) (ledger.Report, error)
}

// System is what the API needs of the server itself, and the acts that touch
// several services at once.
type System interface {
	State(ctx context.Context) (SystemState, error)
	AcceptClock(ctx context.Context, c *access.Caller) error
	Backup(ctx context.Context, c *access.Caller, w io.Writer) error
	KeySecret(uri string) (keystore.Secret, error)
	RevokeAuthority(ctx context.Context, c *access.Caller, s *authority.RootSession, name, reason string) error
	SignRootCRL(ctx context.Context, c *access.Caller, s *authority.RootSession) error
	// ImportAuthority imports an authority that exists already; the server adds
	// the passphrase under which its key is kept.
	ImportAuthority(ctx context.Context, c *access.Caller, e authority.Existing) error
	// ImportCRL publishes a CRL (DER) of a root whose key is elsewhere.
	ImportCRL(ctx context.Context, c *access.Caller, name string, der []byte) error
}

// LedgerState is how far the ledger is.
type LedgerState struct {
	Size         int64      `json:"size" doc:"Entries committed"`
	Checkpoint   int64      `json:"checkpoint_size" doc:"Entries under the newest checkpoint"`
	CheckpointAt *time.Time `json:"checkpoint_at,omitempty"`
	Note         string     `json:"checkpoint,omitempty" doc:"Signed note (C2SP tlog-checkpoint)"`
	VerifierKey  string     `json:"verifier_key" doc:"Public key of checkpoints, as log tools take it"`
}

// LedgerLeaf is an entry with its proof.
type LedgerLeaf struct {
	Index int64           `json:"index"`
	Entry json.RawMessage `json:"entry"`
	Actor string          `json:"actor,omitempty" doc:"Name behind the commitment, if it is still kept"`
	Size  int64           `json:"tree_size"`
	Proof []string        `json:"proof" doc:"Inclusion proof (RFC 9162), base64, leaf to root"`
}

// SystemState is what the health page shows.
type SystemState struct {
	Version      string           `json:"version"`
	Organization string           `json:"organization"`
	StatusURL    string           `json:"status_url,omitempty"`
	Node         string           `json:"node"`
	Database     string           `json:"database" doc:"sqlite or postgres"`
	Issuing      string           `json:"issuing" doc:"ok, or why nothing is issued"`
	Devices      map[string]int64 `json:"devices" doc:"Devices by state"`
	Certificates map[string]int64 `json:"certificates" doc:"Certificates of devices by state"`
}

// Verification is what verifying the ledger found.
type Verification struct {
	Report ledger.Report `json:"report"`
}

func (a *API) ledger() {
	add(a, op{method: http.MethodGet, path: "/ledger", action: access.LedgerRead, summary: "How far the ledger is", everywhere: true}, a.ledgerState)
	add(a, op{method: http.MethodGet, path: "/ledger/entries/{index}", action: access.LedgerRead, summary: "An entry with its inclusion proof", everywhere: true}, a.ledgerLeaf)
	add(a, op{method: http.MethodPost, path: "/ledger/verification", action: access.LedgerRead, summary: "Derive the register anew from the ledger and compare", everywhere: true, slow: true}, a.verifyLedger)
}

func (a *API) ledgerState(ctx context.Context, _ *access.Caller, _ *nothing) (*one[LedgerState], error) {
	state, err := a.cfg.Ledger.State(ctx)
	return &one[LedgerState]{state}, err
}

func (a *API) ledgerLeaf(ctx context.Context, _ *access.Caller, in *struct {
	Index int64 `path:"index" minimum:"0"`
},
) (*one[LedgerLeaf], error) {
	leaf, err := a.cfg.Ledger.Leaf(ctx, in.Index)
	return &one[LedgerLeaf]{leaf}, err
}

func (a *API) verifyLedger(ctx context.Context, _ *access.Caller, in *struct {
	Body struct {
		Checkpoint string `json:"checkpoint,omitempty" doc:"Base64 of a signed checkpoint seen before"`
	}
},
) (*one[Verification], error) {
	var note []byte
	if in.Body.Checkpoint != "" {
		var err error
		if note, err = base64.StdEncoding.DecodeString(in.Body.Checkpoint); err != nil {
			return nil, fault.New(fault.ParameterInvalid, "checkpoint is not base64")
		}
	}
	report, err := a.cfg.Ledger.Verify(ctx, note)
	return &one[Verification]{Verification{report}}, err
}

func (a *API) system() {
	add(a, op{method: http.MethodGet, path: "/system", action: access.SystemRead, summary: "State of this server"}, a.systemState)
	add(a, op{method: http.MethodPost, path: "/system/clock", action: access.SystemManage, summary: "Accept the clock as it is now", everywhere: true}, a.acceptClock)
	add(a, op{method: http.MethodGet, path: "/system/backup", action: access.SystemManage, summary: "Stream a backup of everything, keys included", everywhere: true}, a.backup)
}

func (a *API) systemState(ctx context.Context, _ *access.Caller, _ *nothing) (*one[SystemState], error) {
	state, err := a.cfg.System.State(ctx)
	return &one[SystemState]{state}, err
}

func (a *API) acceptClock(ctx context.Context, c *access.Caller, _ *nothing) (*one[SystemState], error) {
	if err := a.cfg.System.AcceptClock(ctx, c); err != nil {
		return nil, err
	}
	return a.systemState(ctx, c, nil)
}

// backup streams; the file's own trailer tells whether it is whole.
func (a *API) backup(_ context.Context, c *access.Caller, _ *nothing) (*huma.StreamResponse, error) {
	return streamed("application/octet-stream", func(ctx context.Context, w io.Writer) error {
		return a.cfg.System.Backup(ctx, c, w)
	}), nil
}
