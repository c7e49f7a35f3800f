// Package program is what all of our commands share: how a command line becomes a
// call, how a refusal is told to a person, the exit codes, and how a build says what
// it was made from.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode"

	"github.com/alecthomas/kong"

	"github.com/birthmark/birthmark/internal/fault"
)

// Exit codes, as in docs/architecture.md.
const (
	ExitDone    = 0
	ExitRefused = 1
	ExitUsage   = 2
)

// ErrSilent says that a command has printed all there is to say.
var ErrSilent = errors.New("refused")

// Program is one of our commands.
type Program struct {
	Name        string
	Description string // a sentence
	Grammar     any    // pointer to the struct that kong fills; its commands have a method Run
	Bind        []any  // what those methods may ask for besides the context
	Out, Err    io.Writer
	// Who adds to every refusal who may do what it asks for: for people at a line.
	Who bool
}

// Main runs the program until it ends or is interrupted, and ends the process.
func Main(run func(ctx context.Context, args []string) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// exit ends Run early, after kong printed help.
type exit struct{ code int }

// Run executes one command line and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) (code int) {
	parser, err := kong.New(p.Grammar,
		kong.Name(p.Name), kong.Description(p.Description),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(p.Out, p.Err), kong.Exit(func(code int) { panic(exit{code}) }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(p.Bind...),
	)
	if err != nil {
		fmt.Fprintf(p.Err, "%s: %v\n", p.Name, err)
		return ExitUsage
	}
	defer func() {
		if v := recover(); v != nil {
			e, ok := v.(exit)
			if !ok {
				panic(v)
			}
			code = e.code
		}
	}()
	parsed, err := parser.Parse(args)
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok {
			p.refuse(f)
			return ExitUsage
		}
		fmt.Fprintf(p.Err, "%s: %v\nTry %s --help.\n", p.Name, err, p.Name)
		return ExitUsage
	}
	if err := parsed.Run(); err != nil {
		return p.report(err)
	}
	return ExitDone
}

// report tells a person why nothing came of it.
func (p *Program) report(err error) int {
	if errors.Is(err, ErrSilent) {
		return ExitRefused
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		fmt.Fprintf(p.Err, "%s: %s\n", p.Name, Plain(err.Error()))
		return ExitRefused
	}
	p.refuse(f)
	if p.Who && f.Code == fault.ParameterInvalid {
		return ExitUsage
	}
	return ExitRefused
}

// Plain replaces what a terminal would take for a command: a name in somebody's
// file must not rewrite what stands on the screen.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// refuse prints a refusal as a person needs it: what was refused, the code, what to
// do, who may do it.
func (p *Program) refuse(f *fault.Error) {
	fmt.Fprintf(p.Err, "%s: %s", p.Name, f.Message)
	if f.Detail != "" {
		fmt.Fprintf(p.Err, ": %s", Plain(f.Detail))
	}
	fmt.Fprintf(p.Err, " (%s)\n", f.Code)
	if cause := errors.Unwrap(f); cause != nil {
		fmt.Fprintf(p.Err, "  cause: %s\n", Plain(cause.Error()))
	}
	fmt.Fprintf(p.Err, "  %s\n", f.Remedy)
	if p.Who {
		fmt.Fprintf(p.Err, "  who: %s\n", f.Code.Who())
	}
}
