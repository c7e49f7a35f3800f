// Package folder reaches devices through a hot folder, for fixtures that can
// neither start a program nor speak a protocol but read and write files. Each
// step is a file NEST.NUMBER.call.json, put in place in one piece; the fixture
// answers with NEST.NUMBER.answer.json, which it too must rename into place once
// it is complete. Calls and answers are those of package fixture. The station
// takes both files away.
package folder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
)

// Config says which folder.
type Config struct {
	Dir string
	// StepTime is how long one step may take; 0: a minute.
	StepTime time.Duration
	// Every is how often the folder is looked at; 0: 20 ms.
	Every time.Duration
}

// Adapter uses one folder for all nests.
type Adapter struct{ c Config }

// New returns an adapter.
func New(c Config) (*Adapter, error) {
	if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
		return nil, fault.Wrap(fault.ParameterInvalid, err, "the adapter dir needs a folder")
	}
	if c.StepTime <= 0 {
		c.StepTime = time.Minute
	}
	if c.Every <= 0 {
		c.Every = 20 * time.Millisecond
	}
	return &Adapter{c}, nil
}

// Close has nothing to let go of.
func (a *Adapter) Close() error { return nil }

// Open clears what an earlier unit left for the nest.
func (a *Adapter) Open(ctx context.Context, job fixture.Job) (fixture.Unit, error) {
	nest := job.Nest
	if nest == "" {
		nest = "nest"
	}
	if strings.ContainsFunc(nest, func(r rune) bool { return !nestRune(r) }) {
		return nil, fault.New(fault.ParameterInvalid, "a nest of the adapter dir is named with letters, digits, - and _")
	}
	for _, kind := range []string{"call", "answer"} {
		stale, err := filepath.Glob(filepath.Join(globEscape(a.c.Dir), nest+".*."+kind+".json"))
		if err != nil {
			return nil, err
		}
		for _, one := range stale {
			_ = os.Remove(one) // one that stays is refused by its number
		}
	}
	return fixture.Over(ctx, &talk{c: a.c, nest: nest}, job), nil
}

func nestRune(r rune) bool {
	return r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// globEscape makes a path a pattern that means only itself.
func globEscape(path string) string {
	return strings.NewReplacer(`[`, `[[]`, `*`, `[*]`, `?`, `[?]`).Replace(path)
}

// talk is the exchange about one unit.
type talk struct {
	c    Config
	nest string
}

func (t *talk) path(number int, kind string) string {
	return filepath.Join(t.c.Dir, fmt.Sprintf("%s.%04d.%s.json", t.nest, number, kind))
}

// Call implements fixture.Caller.
func (t *talk) Call(ctx context.Context, c *fixture.Call) (*fixture.Answer, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	call, answer := t.path(c.Number, "call"), t.path(c.Number, "answer")
	if err := durable.WriteFile(call, append(text, '\n')); err != nil {
		return nil, fault.Wrap(fault.FixtureFailed, err, "the folder does not take a call")
	}
	if c.Step == fixture.StepClose {
		return &fixture.Answer{}, nil // it stays for the fixture until the next unit comes
	}
	defer func() { _ = errors.Join(os.Remove(call), os.Remove(answer)) }()
	ctx, cancel := context.WithTimeout(ctx, t.c.StepTime)
	defer cancel()
	ticker := time.NewTicker(t.c.Every)
	defer ticker.Stop()
	for {
		text, err := readFile(answer)
		if err == nil {
			return fixture.ParseAnswer(text, c.Number)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Wrap(fault.FixtureFailed, err, "the answer cannot be read")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fault.New(fault.FixtureFailed, "step", c.Step, "took too long")
		}
	}
}

// readFile reads an answer and no more than one.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, fixture.MaxAnswer+1))
}

// Close implements fixture.Caller.
func (t *talk) Close() error { return nil }
