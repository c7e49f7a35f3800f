package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/outbound/webhook"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/protocol/attest"
	"github.com/birthmark/birthmark/internal/protocol/station"
	"github.com/birthmark/birthmark/internal/web/server"
)

type serveCmd struct {
	Settings `embed:""`
}

// Run serves until the process is told to stop.
func (c *serveCmd) Run(ctx context.Context, io *streams) error {
	log, closeLog := newLogger(&c.Settings, io.err)
	defer closeLog()
	tuneRuntime()
	n, err := openNode(ctx, c.Settings, log, nodeOptions{})
	if err != nil {
		return err
	}
	return joinClose(ctx, n, n.serve(ctx, nil))
}

// tuneRuntime lets the heap, which stays small, grow to three times what lives
// before it is collected, and has twice as many threads run as there are cores:
// one that waits for the disk leaves its core to the others at once. GOGC and
// GOMAXPROCS say otherwise.
func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.NumCPU())
	}
}

// joinClose closes the node and adds what goes wrong with it.
func joinClose(ctx context.Context, n *node, err error) error {
	return errors.Join(err, n.close(context.WithoutCancel(ctx)))
}

// service is what runs while a node serves.
type service struct {
	node     *node
	registry *prometheus.Registry
	metrics  *server.Metrics
	ready    atomic.Bool
	stations *station.Handlers
	attest   *attest.Handlers

	device  server.Certificate
	console server.Certificate

	listeners []listening
}

// listening is a server with its socket.
type listening struct {
	server   *server.Server
	listener net.Listener
}

// addresses are where a node listens, once it does.
type addresses struct {
	device, console, status string
}

// stopPatience is how long requests in progress may take to end.
const stopPatience = 20 * time.Second

// serve runs listeners and jobs until ctx ends. started, if not nil, is called
// once everything answers.
func (n *node) serve(ctx context.Context, started func(addresses)) error {
	if err := n.start(ctx); err != nil {
		return err
	}
	s := &service{node: n, registry: prometheus.NewRegistry()}
	var err error
	if s.metrics, err = server.NewMetrics(s.registry); err != nil {
		return err
	}
	if err := s.registerMetrics(); err != nil {
		return err
	}
	if err := s.openStations(); err != nil {
		return err
	}
	if err := s.openAttest(); err != nil {
		return err
	}
	if err := s.renewServerCertificates(ctx); err != nil {
		return err
	}
	at, err := s.listen()
	if err != nil {
		return err
	}
	defer os.Remove(n.folder.socket())
	// The ledger is read before anyone is told to come: issuing waits for it.
	// What is wrong with it stops issuing, not the server.
	if err := n.sequencer.Step(ctx); err != nil {
		n.log.Error("the ledger cannot be continued; nothing will be issued", "error", err)
	}
	jobs, stopJobs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopJobs()
	var group errgroup.Group
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for _, job := range s.jobs() {
		group.Go(func() error {
			err := job(jobs)
			if err != nil && jobs.Err() == nil {
				fail(err)
				return err
			}
			return nil
		})
	}
	for _, l := range s.listeners {
		group.Go(func() error {
			err := l.server.Serve(l.listener)
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	s.ready.Store(true)
	notifySystemd("READY=1")
	n.log.Info("serving", "device", at.device, "console", at.console, "status", at.status, "node", n.name)
	if started != nil {
		started(at)
	}
	<-failed.Done()
	s.ready.Store(false)
	notifySystemd("STOPPING=1")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	for _, l := range s.listeners {
		err = errors.Join(err, l.server.Shutdown(stop))
	}
	stopJobs()
	return errors.Join(err, group.Wait(), n.lastCheckpoint(stop))
}

// start loads what serving needs: the control plane with its keys, the ledger's
// key.
func (n *node) start(ctx context.Context) error {
	i, err := n.store.Installation(ctx)
	if err != nil {
		return err
	}
	if n.settings.PassphraseFile == "" && !i.Quickstart {
		n.log.Warn("the passphrase of the server's keys lies beside them; name a --passphrase-file elsewhere", "file", n.folder.passphrase())
	}
	if err := n.startLedger(ctx); err != nil {
		return err
	}
	if err := n.openFeed(ctx); err != nil {
		return err
	}
	if err := n.authority.Start(ctx); err != nil {
		return err
	}
	if err := n.openLine(ctx); err != nil {
		return err
	}
	n.feed.Subscribe(webhook.FollowedClasses, n.line.webhooks.Follow)
	return nil
}

// openFeed has the caches follow what is committed, here and on other nodes. It
// begins before they load.
func (n *node) openFeed(ctx context.Context) (err error) {
	n.feed, err = ledger.OpenFeed(ctx, ledger.FeedConfig{Store: n.store, Changed: n.store.Changed, Now: time.Now, Logger: n.log})
	if err != nil {
		return err
	}
	n.feed.Subscribe(authority.FollowedClasses, n.authority.Follow)
	n.feed.Subscribe(access.FollowedClasses, n.access.Follow)
	n.feed.Subscribe(status.FollowedClasses, n.status.Follow)
	return nil
}

// openStations makes the operations of stations, with a counter of what they
// refuse.
func (s *service) openStations() (err error) {
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "birthmark_station_refusals_total", Help: "Sessions and items of stations that were refused, by code.",
	}, []string{"code"})
	if err := s.registry.Register(refusals); err != nil {
		return err
	}
	s.stations, err = s.node.stationHandlers(func(c fault.Code) { refusals.WithLabelValues(c.String()).Inc() })
	return err
}

// openAttest makes the operations of devices with a TPM, and counts refused
// evidence as the record tells of it, of stations too and whichever node refused.
func (s *service) openAttest() (err error) {
	if s.attest, err = attest.New(attest.Config{Enroller: s.node.enroller, Logger: s.node.log}); err != nil {
		return err
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "birthmark_evidence_refused_total", Help: "Evidence of hardware that was refused since this node began, on all nodes, by code.",
	}, []string{"code"})
	if err := s.registry.Register(refused); err != nil {
		return err
	}
	class := ledger.ClassOf(ledger.EvidenceRefused)
	s.node.feed.Subscribe(class, func(_ context.Context, b ledger.Batch) error {
		for _, p := range b.Each(class) {
			if e, ok := p.Body.(*ledger.RefusedEvidence); ok {
				refused.WithLabelValues(e.Code).Inc()
			}
		}
		return nil
	})
	return nil
}

// listen opens all sockets before anything is served, so that a taken address
// stops the start.
func (s *service) listen() (at addresses, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, l := range s.listeners {
			err = errors.Join(err, l.listener.Close())
		}
	}()
	set := &s.node.settings
	proxies, err := set.proxies()
	if err != nil {
		return at, err
	}
	if at.device, err = s.open("tcp", set.DeviceListen, server.Config{
		Name: "device", Routes: s.deviceRoutes(), TLS: server.DeviceTLS(&s.device), ProxyFrom: proxies, Limits: server.DefaultLimits(),
	}); err != nil {
		return at, err
	}
	if at.status, err = s.open("tcp", set.StatusListen, server.Config{
		Name: "status", Routes: s.statusRoutes(), ProxyFrom: proxies, Limits: server.DefaultLimits(),
	}); err != nil {
		return at, err
	}
	var consoleTLS *tls.Config
	if !loopback(set.ConsoleListen) {
		consoleTLS = server.ConsoleTLS(&s.console)
	}
	routes, err := s.consoleRoutes(false)
	if err != nil {
		return at, err
	}
	if at.console, err = s.open("tcp", set.ConsoleListen, server.Config{Name: "console", Routes: routes, TLS: consoleTLS, Authenticate: s.byToken, Limits: consoleLimits()}); err != nil {
		return at, err
	}
	if routes, err = s.consoleRoutes(true); err != nil {
		return at, err
	}
	return at, s.listenLocal(routes)
}

func consoleLimits() server.Limits {
	l := server.DefaultLimits()
	l.Connections, l.BodyTimeout = 256, 2*time.Minute
	return l
}

// loopback reports whether only this machine can reach an address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *service) open(network, address string, c server.Config) (string, error) {
	c.Logger, c.Metrics, c.Now = s.node.log, s.metrics, time.Now
	srv, err := server.New(c)
	if err != nil {
		return "", err
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return "", fault.Wrap(fault.ConfigInvalid, err, c.Name, "listener")
	}
	s.listeners = append(s.listeners, listening{srv, l})
	return l.Addr().String(), nil
}

// listenLocal opens the socket for commands on this machine. Its path is short,
// since systems allow about a hundred characters, and is written into the data
// folder.
func (s *service) listenLocal(routes []server.Route) error {
	dir, err := os.MkdirTemp(os.Getenv("XDG_RUNTIME_DIR"), "birthmark-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "birthmark-"); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "socket")
	_, err = s.open("unix", path, server.Config{
		Name: "local", Routes: routes, Authenticate: s.byPeer, ConnContext: server.PeerContext, Limits: consoleLimits(),
	})
	if err != nil {
		return err
	}
	return writeFile(s.node.folder.socket(), []byte(path+"\n"), 0o600)
}

// byToken finds the caller behind an API token.
func (s *service) byToken(r *http.Request) (*access.Caller, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, fault.New(fault.NotAuthenticated)
	}
	c, err := s.node.access.Authenticate(r.Context(), token)
	return &c, err
}

// byPeer finds the local user at the other end of the socket.
func (s *service) byPeer(r *http.Request) (*access.Caller, error) {
	name, ok := server.PeerUser(r.Context())
	if !ok {
		return s.byToken(r)
	}
	c, err := s.node.access.LocalCaller(r.Context(), name)
	return &c, err
}

// renewServerCertificates puts certificates that have at least a third of their
// life left into the listeners.
func (s *service) renewServerCertificates(ctx context.Context) error {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, s.node.settings.Hosts...)
	for listener, slot := range map[string]*server.Certificate{"device": &s.device, "console": &s.console} {
		p, err := s.node.authority.Server(ctx, listener, hosts, profile.KeyType(s.node.settings.ServerKey))
		if err != nil {
			return fmt.Errorf("certificate of the %s listener: %w", listener, err)
		}
		slot.Set(&tls.Certificate{Certificate: p.Chain, PrivateKey: p.Key, Leaf: p.X509})
	}
	return nil
}

// jobs are what runs beside the listeners. A job that ends with an error stops
// the server.
func (s *service) jobs() []func(context.Context) error {
	n := s.node
	return []func(context.Context) error{
		n.sequencer.Run,
		n.feed.Run,
		n.status.Run,
		n.line.factory.Run,
		n.line.webhooks.Run,
		func(ctx context.Context) error { return every(ctx, 5*time.Second, n.saveClock) },
		func(ctx context.Context) error { return every(ctx, time.Hour, s.renew) },
		func(ctx context.Context) error { return every(ctx, 5*time.Minute, n.pruneTickets) },
	}
}

// every calls fn again and again until ctx ends; what fails is fn's to log.
func every(ctx context.Context, pause time.Duration, fn func(context.Context)) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			fn(ctx)
		}
	}
}

func (n *node) saveClock(ctx context.Context) {
	if err := n.clock.MayIssue(); err != nil {
		n.log.Error("issuing has stopped", "fault", fault.Of(err).Code.String(), "error", err)
	}
	if err := n.clock.Save(ctx); err != nil {
		n.log.Warn("the clock's mark could not be saved", "error", err)
	}
}

// pruneTickets forgets challenges that nobody can answer any more.
func (n *node) pruneTickets(ctx context.Context) {
	if err := n.line.attest.Prune(ctx); err != nil {
		n.log.Warn("spent challenges could not be forgotten", "error", err)
	}
}

func (s *service) renew(ctx context.Context) {
	if err := s.renewServerCertificates(ctx); err != nil {
		s.node.log.Error("the server's own certificates could not be renewed", "error", err)
	}
}

// notifySystemd tells the service manager how far the server is
// (sd_notify(3)).
func notifySystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state)) // the service manager is gone: nobody waits for the word
}
