// Package program reaches devices through a program of the line's own: it is
// started once for each unit, reads calls from its standard input, one JSON object
// to a line, and writes an answer for each to its standard output (package
// fixture has both). What it writes to standard error is shown when it fails.
// docs/operate/station.md has a sample in shell.
package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/fault"
)

// Config says which program.
type Config struct {
	Command []string // path and arguments; started as it is, by no shell
	// StepTime is how long one step may take; 0: a minute.
	StepTime time.Duration
}

// Adapter starts the program for each unit.
type Adapter struct{ c Config }

// New returns an adapter.
func New(c Config) (*Adapter, error) {
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, fault.New(fault.ParameterInvalid, "the adapter exec needs a program to start")
	}
	if c.StepTime <= 0 {
		c.StepTime = time.Minute
	}
	return &Adapter{c}, nil
}

// Close has nothing to let go of: programs end with their units.
func (a *Adapter) Close() error { return nil }

// Open starts the program.
func (a *Adapter) Open(ctx context.Context, job fixture.Job) (fixture.Unit, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &process{stepTime: a.c.StepTime, cancel: cancel}
	p.command = exec.CommandContext(running, a.c.Command[0], a.c.Command[1:]...)
	p.command.Env = append(os.Environ(), "BIRTHMARK_NEST="+job.Nest, "BIRTHMARK_ORDER="+job.Order, "BIRTHMARK_SERIAL="+job.DeviceSerial)
	p.command.Stderr = &p.complaint
	// A child of the program may hold its output open: it is not waited for.
	p.command.WaitDelay = time.Second
	in, inErr := p.command.StdinPipe()
	out, outErr := p.command.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		cancel()
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		cancel()
		return nil, fault.Wrap(fault.FixtureFailed, err, "the fixture's program does not start:", err)
	}
	p.in = in
	p.lines = make(chan []byte)
	p.ended = make(chan struct{})
	go p.read(running, out)
	return fixture.Over(ctx, p, job), nil
}

// process is the program at work on one unit.
type process struct {
	command   *exec.Cmd
	cancel    context.CancelFunc
	stepTime  time.Duration
	in        io.WriteCloser
	lines     chan []byte
	ended     chan struct{} // closed when the program has ended, with all that it complained
	complaint tail
}

func (p *process) read(ctx context.Context, out io.Reader) {
	defer close(p.ended)
	defer func() { _ = p.command.Wait() }() // how it ends matters to nobody: its answers count
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, fixture.MaxAnswer+1)
	for lines.Scan() {
		select {
		case p.lines <- bytes.Clone(lines.Bytes()):
		case <-ctx.Done():
			return
		}
	}
	if lines.Err() != nil {
		p.cancel() // a line without end
	}
}

// Call implements fixture.Caller.
func (p *process) Call(ctx context.Context, c *fixture.Call) (*fixture.Answer, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.stepTime)
	defer cancel()
	// A program that does not read must not hold the line: the pipe is closed under
	// the write.
	stop := context.AfterFunc(ctx, func() { _ = p.in.Close() })
	defer stop()
	if _, err := p.in.Write(append(text, '\n')); err != nil {
		return nil, p.failed(ctx, c.Step)
	}
	select {
	case line := <-p.lines:
		return fixture.ParseAnswer(line, c.Number)
	case <-p.ended:
		return nil, p.failed(ctx, c.Step)
	case <-ctx.Done():
		return nil, p.failed(ctx, c.Step)
	}
}

func (p *process) failed(ctx context.Context, step string) error {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return fault.New(fault.FixtureFailed, "step", step, "took too long")
	}
	return fault.New(fault.FixtureFailed, "the fixture's program ended at step", step+p.complaint.String())
}

// closeTime is how long a program may take to end on its own.
const closeTime = 5 * time.Second

// Close implements fixture.Caller.
func (p *process) Close() error {
	_ = p.in.Close()
	late := time.AfterFunc(closeTime, p.cancel)
	defer late.Stop()
	defer p.cancel()
	for {
		select {
		case <-p.lines: // said after the end
			continue
		case <-p.ended:
		}
		return nil
	}
}

// tail keeps the last of what was written to it.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const tailLen = 200

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = append(t.text[:0], t.text[max(0, len(t.text)-tailLen):]...)
	return len(b), nil
}

// String returns the last line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.text)
	if len(text) == 0 {
		return ""
	}
	return ": " + fixture.Printable(string(text[bytes.LastIndexByte(text, '\n')+1:]))
}
