package main

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/protocol/station"
	"github.com/birthmark/birthmark/internal/web/rest"
	"github.com/birthmark/birthmark/internal/web/server"
)

// apiRoutes puts the management API into a listener's table; local adds what
// carries a root's passphrase.
func (n *node) apiRoutes(local bool) ([]server.Route, error) {
	stations, err := n.stationHandlers(nil)
	if err != nil {
		return nil, err
	}
	a, err := rest.New(rest.Config{
		Register: n.register, Devices: n.store, Authority: n.authority, Access: n.access,
		Status: statusAPI{n.status}, Ledger: ledgerAPI{n}, System: systemAPI{n}, Version: version,
		Factory: n.line.factory, Attest: n.line.attest, Batches: station.NewBatches(stations, n.line.statements), MayReach: n.line.guard.Check,
		Spool: string(n.folder),
	})
	if err != nil {
		return nil, err
	}
	return a.Routes(local)
}

// statusAPI is package status as the API calls it.
type statusAPI struct{ service *status.Service }

// Revoke ends a certificate for good.
func (s statusAPI) Revoke(ctx context.Context, c *access.Caller, certSerial []byte, reason string) error {
	_, err := s.service.Revoke(ctx, *c, status.Act{CertSerial: certSerial, Reason: status.Reason(reason)})
	return err
}

// Hold puts a certificate on hold.
func (s statusAPI) Hold(ctx context.Context, c *access.Caller, certSerial []byte) error {
	_, err := s.service.Hold(ctx, *c, status.Act{CertSerial: certSerial})
	return err
}

// Release ends a hold.
func (s statusAPI) Release(ctx context.Context, c *access.Caller, certSerial []byte) error {
	_, err := s.service.Release(ctx, *c, status.Act{CertSerial: certSerial})
	return err
}

// ledgerAPI is the ledger as the API shows it.
type ledgerAPI struct{ node *node }

// State returns how far the ledger is.
func (l ledgerAPI) State(ctx context.Context) (rest.LedgerState, error) {
	n := l.node
	size, err := n.store.LedgerSize(ctx)
	if err != nil {
		return rest.LedgerState{}, err
	}
	c, err := n.store.LatestCheckpoint(ctx)
	if err != nil {
		return rest.LedgerState{}, err
	}
	state := rest.LedgerState{Size: size, Checkpoint: c.Size, Note: string(c.Note), VerifierKey: n.verifierKey}
	if c.At != 0 {
		at := time.Unix(c.At, 0)
		state.CheckpointAt = &at
	}
	return state, nil
}

// Leaf returns an entry with its proof.
func (l ledgerAPI) Leaf(ctx context.Context, index int64) (rest.LedgerLeaf, error) {
	n := l.node
	leaf, err := ledger.Leaf(ctx, n.store, index)
	if err != nil {
		return rest.LedgerLeaf{}, err
	}
	out := rest.LedgerLeaf{Index: index, Entry: leaf, Proof: []string{}}
	beside, err := n.store.LedgerPrivate(ctx, index)
	if err != nil {
		return rest.LedgerLeaf{}, err
	}
	if beside != nil {
		out.Actor = beside.Value
	}
	c, err := n.store.LatestCheckpoint(ctx)
	if err != nil || index >= c.Size {
		return out, err
	}
	proof, err := ledger.InclusionProof(ctx, n.store, index, c.Size)
	if err != nil {
		return rest.LedgerLeaf{}, err
	}
	out.Size = c.Size
	for _, h := range proof {
		out.Proof = append(out.Proof, base64.StdEncoding.EncodeToString(h[:]))
	}
	return out, nil
}

// Verify checks ledger and register against each other.
func (l ledgerAPI) Verify(ctx context.Context, checkpoint []byte) (ledger.Report, error) {
	n := l.node
	o := ledger.VerifyOptions{Verifiers: n.verifiers, Now: time.Now}
	if checkpoint != nil {
		o.Outside = append(o.Outside, checkpoint)
	}
	for _, w := range n.witnesses {
		last, err := w.Last(ctx)
		if err != nil {
			return ledger.Report{}, err
		}
		if last.Size > 0 {
			o.Outside = append(o.Outside, last.Note)
		}
	}
	return ledger.Verify(ctx, n.store, o)
}

// systemAPI is the server itself as the API shows it.
type systemAPI struct{ node *node }

// State returns what the health page shows.
func (s systemAPI) State(ctx context.Context) (rest.SystemState, error) {
	n := s.node
	i, err := n.store.Installation(ctx)
	if err != nil {
		return rest.SystemState{}, err
	}
	counts, err := n.store.Counts(ctx, access.CallerOf(ctx).Scope)
	if err != nil {
		return rest.SystemState{}, err
	}
	state := rest.SystemState{
		Version: version, Organization: i.Organization, StatusURL: i.StatusURL, Node: n.name, Database: n.engine(), Issuing: "ok",
		Devices: map[string]int64{}, Certificates: map[string]int64{},
	}
	if err := n.mayIssue(); err != nil {
		state.Issuing = fault.Of(err).Error()
	}
	for k, v := range counts.Devices {
		state.Devices[k.String()] = v
	}
	for k, v := range counts.Credentials {
		state.Certificates[k.String()] = v
	}
	return state, nil
}

// AcceptClock takes the clock for right.
func (s systemAPI) AcceptClock(ctx context.Context, c *access.Caller) error {
	return s.node.clock.Accept(ctx, c.Name)
}

// Backup writes everything: the database and the folder's keys.
func (s systemAPI) Backup(ctx context.Context, c *access.Caller, w io.Writer) error {
	return s.node.backup(ctx, c.Name, w)
}

// KeySecret returns the passphrase of keys that the server opens by itself.
func (s systemAPI) KeySecret(uri string) (keystore.Secret, error) { return s.node.secret(uri) }

// RevokeAuthority revokes an issuing authority end to end.
func (s systemAPI) RevokeAuthority(ctx context.Context, c *access.Caller, session *authority.RootSession, name, reason string) error {
	if err := s.node.status.RevokeAuthority(ctx, *c, session, name, status.Reason(reason)); err != nil {
		return err
	}
	return s.node.writeAnchors(ctx)
}

// SignRootCRL signs the root's CRL and renews its responder.
func (s systemAPI) SignRootCRL(ctx context.Context, c *access.Caller, session *authority.RootSession) error {
	if _, err := session.CreateResponder(ctx, c.Name); err != nil {
		return err
	}
	return s.node.status.SignRootCRL(ctx, c.Name, session)
}

// ImportAuthority imports an authority that exists already, with or without its
// key.
func (s systemAPI) ImportAuthority(ctx context.Context, c *access.Caller, e authority.Existing) (err error) {
	if e.Secret, err = s.node.secret("file:" + e.Name); err != nil {
		return fault.Wrap(fault.KeyUnavailable, err)
	}
	if _, err := s.node.authority.Import(ctx, c.Name, e); err != nil {
		return err
	}
	return s.node.completed(ctx, c.Name)
}

// ImportCRL publishes a list that a root elsewhere has signed.
func (s systemAPI) ImportCRL(ctx context.Context, c *access.Caller, name string, der []byte) error {
	if err := s.node.status.ImportCRL(ctx, c.Name, name, der); err != nil {
		return err
	}
	return s.node.writeAnchors(ctx) // the list may have revoked an authority
}

// checkpoint serves the newest signed checkpoint.
func (s *service) checkpoint(w http.ResponseWriter, r *http.Request, _ []byte) error {
	c, err := s.node.store.LatestCheckpoint(r.Context())
	if err != nil {
		return err
	}
	if c.Note == nil {
		return fault.New(fault.EntryUnknown)
	}
	return plain(w, string(c.Note))
}

// tile serves a tile of hashes; a path never changes what it names.
func (s *service) tile(w http.ResponseWriter, r *http.Request, _ []byte) error {
	p, err := ledger.ParseTilePath("tile/" + r.PathValue("path"))
	if err != nil {
		return err
	}
	hashes, err := ledger.ReadTile(r.Context(), s.node.store, p)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(hashes) // the peer is gone
	return nil
}
