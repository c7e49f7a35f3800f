package rest_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/store"
	"github.com/birthmark/birthmark/internal/web/rest"
	"github.com/birthmark/birthmark/internal/web/server"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// world is an installation with its API on two listeners: for the network, and
// for this machine, where the header "User" stands for the peer's name.
type world struct {
	*webtest.World
	api            *rest.API
	network, local *webtest.Listener
	system         *system
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	w.World = webtest.NewWorld(t, webtest.Config{Open: func(path string, now func() time.Time) (webtest.Store, func() error, error) {
		s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "test", Now: now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}})
	w.system = &system{world: w}
	var err error
	w.api, err = rest.New(rest.Config{
		Register: w.Register, Devices: w.Store, Authority: w.Authority, Access: w.Access, Status: statusAPI{w.Status},
		Ledger: ledgerAPI{}, System: w.system, Version: "test", Now: w.Now,
		Factory: w.Factory, Attest: w.Attest, Batches: batches{}, MayReach: mayReach, Spool: t.TempDir(),
	})
	must(t, err)
	must(t, w.Access.Bootstrap(t.Context(), "alice"))
	w.network = w.listen(t, false, func(r *http.Request) (*access.Caller, error) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			return nil, fault.New(fault.NotAuthenticated)
		}
		c, err := w.Access.Authenticate(r.Context(), token)
		return &c, err
	})
	w.local = w.listen(t, true, func(r *http.Request) (*access.Caller, error) {
		c, err := w.Access.LocalCaller(r.Context(), r.Header.Get("User"))
		return &c, err
	})
	return w
}

func (w *world) listen(t testing.TB, local bool, who func(*http.Request) (*access.Caller, error)) *webtest.Listener {
	t.Helper()
	routes, err := w.api.Routes(local)
	must(t, err)
	return webtest.Listen(t, server.Config{Name: "api", Routes: routes, Limits: server.DefaultLimits(), Authenticate: who})
}

// token makes an API token of alice's.
func (w *world) token(t testing.TB, scope access.Scope, actions ...access.Action) string {
	t.Helper()
	alice, err := w.Access.LocalCaller(t.Context(), "alice")
	must(t, err)
	_, text, err := w.Access.CreateToken(t.Context(), alice, access.Token{
		Name: "test", Actions: actions, All: scope.SeesEverything(), Products: scope.Products(), ExpiresAt: w.Now().Add(time.Hour),
	})
	must(t, err)
	return text
}

// batches stands for the road that a batch goes.
type batches struct{}

func (batches) IssueBatch(_ context.Context, orderNumber string, bundle []byte) ([]byte, error) {
	if len(bundle) == 0 {
		return nil, fault.New(fault.BundleInvalid, "it is empty")
	}
	return json.Marshal(map[string]any{"order": orderNumber, "octets": len(bundle)})
}

func mayReach(url string) error {
	if !strings.HasPrefix(url, "https://") {
		return fault.New(fault.WebhookInvalid, "only https")
	}
	return nil
}

type statusAPI struct{ *status.Service }

func (s statusAPI) Revoke(ctx context.Context, c *access.Caller, certSerial []byte, reason string) error {
	_, err := s.Service.Revoke(ctx, *c, status.Act{CertSerial: certSerial, Reason: status.Reason(reason)})
	return err
}

func (s statusAPI) Hold(ctx context.Context, c *access.Caller, certSerial []byte) error {
	_, err := s.Service.Hold(ctx, *c, status.Act{CertSerial: certSerial})
	return err
}

func (s statusAPI) Release(ctx context.Context, c *access.Caller, certSerial []byte) error {
	_, err := s.Service.Release(ctx, *c, status.Act{CertSerial: certSerial})
	return err
}

// ledgerAPI stands for a ledger of three entries.
type ledgerAPI struct{}

func (ledgerAPI) State(context.Context) (rest.LedgerState, error) {
	return rest.LedgerState{Size: 3, VerifierKey: "key"}, nil
}

func (ledgerAPI) Leaf(_ context.Context, index int64) (rest.LedgerLeaf, error) {
	if index > 2 {
		return rest.LedgerLeaf{}, fault.New(fault.EntryUnknown)
	}
	return rest.LedgerLeaf{Index: index, Entry: json.RawMessage(`{}`), Proof: []string{}}, nil
}

func (ledgerAPI) Verify(_ context.Context, checkpoint []byte) (ledger.Report, error) {
	if string(checkpoint) == "forged" {
		return ledger.Report{}, fault.New(fault.LedgerRolledBack)
	}
	return ledger.Report{}, nil
}

// system stands for the server itself; what it is asked to back up is in parts
// that may fail.
type system struct {
	world *world
	parts []string
	fail  error
}

func (s *system) State(ctx context.Context) (rest.SystemState, error) {
	if s.fail != nil {
		return rest.SystemState{}, s.fail
	}
	return rest.SystemState{Version: "test", Node: access.CallerOf(ctx).Name, Devices: map[string]int64{}, Certificates: map[string]int64{}}, nil
}

func (s *system) AcceptClock(context.Context, *access.Caller) error { return nil }

func (s *system) Backup(_ context.Context, _ *access.Caller, w io.Writer) error {
	for _, p := range s.parts {
		if _, err := io.WriteString(w, p); err != nil {
			return err
		}
	}
	return s.fail
}

func (s *system) KeySecret(string) (keystore.Secret, error) { return keystore.Secret("issuing"), nil }

func (s *system) RevokeAuthority(ctx context.Context, c *access.Caller, session *authority.RootSession, name, reason string) error {
	return s.world.Status.RevokeAuthority(ctx, *c, session, name, status.Reason(reason))
}

func (s *system) SignRootCRL(ctx context.Context, c *access.Caller, session *authority.RootSession) error {
	return s.world.Status.SignRootCRL(ctx, c.Name, session)
}

func (s *system) ImportAuthority(context.Context, *access.Caller, authority.Existing) error {
	return errors.New("disk17: the key of the mint")
}

func (s *system) ImportCRL(ctx context.Context, c *access.Caller, name string, der []byte) error {
	return s.world.Status.ImportCRL(ctx, c.Name, name, der)
}

// enrolled SERIAL: ${SERIAL} is its certificate's serial.
func (w *world) actEnrolled(t *testing.T, s *webtest.Script, args []string) {
	product := "sensor"
	if len(args) > 1 {
		product = args[1]
	}
	cert := w.Enrolled(t, product, args[0])
	text := strings.ToUpper(cert.Leaf.SerialNumber.Text(16))
	s.Vars[args[0]] = strings.Repeat("0", len(text)%2) + text
}

// devices COUNT
func (w *world) actDevices(t *testing.T, _ *webtest.Script, args []string) {
	n, err := strconv.Atoi(args[0])
	must(t, err)
	for i := range n {
		w.Device(t, "sensor", "PAGE-"+strconv.Itoa(i))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
