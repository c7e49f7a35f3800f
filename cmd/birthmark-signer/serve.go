package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/signer"
)

// configured is what every command needs.
type configured struct {
	Config string `help:"YAML file; see docs/operate/hsm.md." default:"/etc/birthmark/signer.yaml" placeholder:"FILE" env:"BIRTHMARK_SIGNER_CONFIG" type:"path"`
}

func (s *Settings) journal() string { return filepath.Join(s.State, "journal") }

type serveCmd struct {
	configured `embed:""`
	LogFormat  string `help:"Form of log lines." default:"text" enum:"text,json"`
}

// Run signs until the process is told to stop.
func (c *serveCmd) Run(ctx context.Context, io *streams) error {
	s, err := readSettings(c.Config)
	if err != nil {
		return err
	}
	var handler slog.Handler = slog.NewTextHandler(io.err, nil)
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(io.err, nil)
	}
	log := slog.New(handler)
	if err := hideMemory(); err != nil {
		log.Warn("other processes of this user can read this one's memory", "error", err)
	}
	users, err := uids("users", s.Users)
	if err != nil {
		return err
	}
	if len(users) == 0 {
		return invalid("users: nobody may ask")
	}
	b := newBackends(s, io)
	defer b.close()
	engine, journal, err := s.engine(ctx, b, log)
	for fault.Has(err, fault.TokenPIN) {
		// A service manager that started it again and again would lock the token.
		log.Error("the PIN was refused; correct it and send SIGHUP", "error", err)
		notifySystemd("READY=1\nSTATUS=the PIN was refused; correct it and reload")
		if !awaitHangup(ctx) {
			return err
		}
		b.retry()
		engine, journal, err = s.engine(ctx, b, log)
	}
	if err != nil {
		return err
	}
	server, err := signer.NewServer(signer.ServerConfig{Engine: engine, UIDs: users, Peer: signer.PeerUID, Now: time.Now, Logger: log})
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	l, err := s.listen(ctx)
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	defer onHangup(func() {
		log.Info("refused PINs may be tried once more")
		b.retry()
	})()
	log.Info("signing", "socket", s.Socket, "keys", len(s.Keys))
	notifySystemd("READY=1\nSTATUS=signing")
	err = server.Serve(ctx, l)
	notifySystemd("STOPPING=1")
	return errors.Join(err, journal.Close())
}

// engine opens the journal and all keys.
func (s *Settings) engine(ctx context.Context, b *backends, log *slog.Logger) (*signer.Engine, *signer.Journal, error) {
	var keys []signer.KeyConfig
	for i := range s.Keys {
		k := &s.Keys[i]
		backend, err := b.open(ctx, k)
		if err != nil {
			return nil, nil, about(k, err)
		}
		c, err := s.keyConfig(k, backend)
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, c)
	}
	journal, err := signer.OpenJournal(signer.JournalConfig{Dir: s.journal(), Logger: log})
	if err != nil {
		return nil, nil, err
	}
	engine, err := signer.New(signer.Config{Keys: keys, Journal: journal, Now: time.Now, Logger: log})
	if err != nil {
		return nil, nil, errors.Join(err, journal.Close())
	}
	return engine, journal, nil
}

// about says which key a fault is about.
func about(k *KeySettings, err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return err
	}
	return fault.Wrap(f.Code, f.Unwrap(), "key", k.Name+":", f.Detail)
}

// listen opens the socket with its rights. A socket that nobody answers at is
// one that a crash left behind.
func (s *Settings) listen(ctx context.Context) (net.Listener, error) {
	if c, err := new(net.Dialer).DialContext(ctx, "unix", s.Socket); err == nil {
		_ = c.Close() // it was only to see whether somebody answers
		return nil, invalid("socket:", s.Socket, "is in use by another signer")
	}
	if info, err := os.Lstat(s.Socket); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, invalid("socket:", s.Socket, "is there and is no socket")
	}
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.Wrap(fault.SignerConfig, err, "socket:", s.Socket)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", s.Socket)
	if err != nil {
		return nil, fault.Wrap(fault.SignerConfig, err, "socket:", s.Socket)
	}
	mode, err := strconv.ParseUint(s.SocketMode, 8, 32)
	if err == nil {
		err = os.Chmod(s.Socket, os.FileMode(mode))
	}
	if err == nil && s.SocketGroup != "" {
		err = s.changeGroup()
	}
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.SignerConfig, err, "socket_group:", s.SocketGroup), l.Close())
	}
	return l, nil
}

func (s *Settings) changeGroup() error {
	id := s.SocketGroup
	if g, err := user.LookupGroup(id); err == nil {
		id = g.Gid
	}
	gid, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	return os.Chown(s.Socket, -1, gid)
}

// onHangup calls act at each SIGHUP until the function that it returns is
// called.
func onHangup(act func()) (stop func()) {
	hangups := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-hangups:
				act()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
	}
}

// awaitHangup waits for SIGHUP; false means that the process is told to stop.
func awaitHangup(ctx context.Context) bool {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	select {
	case <-hangups:
		return true
	case <-ctx.Done():
		return false
	}
}

// notifySystemd tells the service manager how far this process is, if there is
// one.
func notifySystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	_, _ = c.Write([]byte(state)) // nothing depends on it
	_ = c.Close()
}
