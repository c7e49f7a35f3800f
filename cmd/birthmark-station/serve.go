package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/loopback"
	"github.com/birthmark/birthmark/internal/fault"
)

type serveCmd struct {
	stateFlags `embed:""`
	lineFlags  `embed:""`

	Listen    string `help:"Loopback address." default:"127.0.0.1:7443" env:"BIRTHMARK_STATION_LISTEN"`
	TokenFile string `help:"File with the token that callers show; made if it is not there." required:"" env:"BIRTHMARK_STATION_TOKEN_FILE" type:"path"`
	Order     string `help:"Production order for requests that name none." env:"BIRTHMARK_STATION_ORDER"`
	Ahead     int    `help:"How many nonces are drawn at a time." default:"32"`
}

// drainTime is how long units may still be at work when the station stops.
const drainTime = time.Minute

// Run answers requests until it is told to stop.
func (c *serveCmd) Run(ctx context.Context, io *streams) error {
	if err := loopback.CheckListen(c.Listen); err != nil {
		return err
	}
	token, err := readToken(c.TokenFile)
	if err != nil {
		return err
	}
	o, err := c.open()
	if err != nil {
		return err
	}
	defer o.close()
	l, adapter, err := c.line(o, c.Ahead)
	if err != nil {
		return err
	}
	defer adapter.Close()
	h, err := loopback.New(loopback.Config{
		Line: l, Queue: o.queue, Token: token, Order: c.Order, Who: o.home.Settings(),
		Logger: slog.New(slog.NewTextHandler(io.err, nil)),
		Passed: func(ctx context.Context, unit *station.Outcome) error { return c.label(ctx, l, unit) },
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(io.out, "Station %s answers on http://%s.\n", o.home.Settings().Station, listener.Addr())
	go l.Run(ctx)
	go o.keepCertificate(ctx, io)
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		stopped <- s.Shutdown(drain)
	}()
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// readToken returns the token of a file, which is made with a fresh one if it is
// not there. What everybody on the computer may read is no token.
func readToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 { // there, modes say nothing
			return "", fault.New(fault.ParameterInvalid, path, "is open to everybody: chmod o= it, or remove it for a fresh token")
		}
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	secret := make([]byte, 24)
	_, _ = rand.Read(secret) // never fails
	token := base64.RawURLEncoding.EncodeToString(secret)
	return token, durable.WriteFile(path, []byte(token+"\n"))
}
