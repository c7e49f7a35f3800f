// Command birthmark-station is the line's side of a production order, on Linux and
// Windows: it enrolls as a station, provisions units itself or for a fixture or MES
// that calls it, keeps what the server could not be told, and carries batches where
// there is no link at all. It needs an outgoing connection to the server's device
// listener and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/birthmark/birthmark/internal/fault"
)

// cli is the grammar.
type cli struct {
	Enroll    enrollCmd    `cmd:"" help:"Enroll this computer as a station with a one-time code."`
	Check     checkCmd     `cmd:"" help:"Before the shift: say what would stop it."`
	Status    statusCmd    `cmd:"" help:"What the station may do now."`
	Unit      unitCmd      `cmd:"" help:"Provision one unit: for a fixture that calls a program."`
	Serve     serveCmd     `cmd:"" help:"Provision units on request over HTTP on this computer: for a fixture or MES that stays."`
	Provision provisionCmd `cmd:"" help:"Provision units one after the other in several nests: our own loop."`
	Scrap     scrapCmd     `cmd:"" help:"End a unit: its identity is revoked."`
	Queue     queueCmd     `cmd:"" help:"What waits for the server."`
	Nonces    noncesCmd    `cmd:"" help:"Draw a block of nonces for a batch without a link."`
	Collect   collectCmd   `cmd:"" help:"Collect requests and proofs of units without a link."`
	Apply     applyCmd     `cmd:"" help:"Write the certificates of a batch's reply into the devices."`
	Label     labelCmd     `cmd:"" help:"Draw the label of a device."`
	Chips     chipsCmd     `cmd:"" help:"List simulated chips, for a manifest." hidden:""`
	Version   versionCmd   `cmd:"" help:"Print version and build."`
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // out is a terminal
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], &streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdout)}))
}

// Exit codes, as in docs/architecture.md.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, io *streams) (code int) {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("birthmark-station"),
		kong.Description("Puts an identity into each unit of a production line."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(io.out, io.err), kong.Exit(func(code int) { exited = code; panic(exit{}) }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io),
		kong.DefaultEnvars(""),
	)
	if err != nil {
		fmt.Fprintln(io.err, "birthmark-station:", err)
		return exitUsage
	}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(exit); !ok {
				panic(p)
			}
			code = exited
		}
	}()
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(io.err, "birthmark-station: %v\nTry birthmark-station --help.\n", err)
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		return report(io, err)
	}
	return exitDone
}

// exit ends run early, after kong printed help.
type exit struct{}

// errSilent says that the command has printed all there is to say.
var errSilent = errors.New("refused")

// report prints an error as a person needs it: what was refused, the code, what
// to do, who may do it.
func report(io *streams, err error) int {
	if errors.Is(err, errSilent) {
		return exitRefused
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		fmt.Fprintln(io.err, "birthmark-station:", err)
		return exitRefused
	}
	fmt.Fprintf(io.err, "birthmark-station: %s", f.Message)
	if f.Detail != "" {
		fmt.Fprintf(io.err, ": %s", f.Detail)
	}
	fmt.Fprintf(io.err, " (%s)\n", f.Code)
	if cause := errors.Unwrap(f); cause != nil {
		fmt.Fprintf(io.err, "  cause: %v\n", cause)
	}
	fmt.Fprintf(io.err, "  %s\n  who: %s\n", f.Remedy, f.Code.Who())
	if f.Code == fault.ParameterInvalid {
		return exitUsage
	}
	return exitRefused
}
