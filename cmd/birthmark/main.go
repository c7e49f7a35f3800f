// Command birthmark is the server and the operator's command line. A command
// talks to the running server through its local socket (or to another one with
// --server and a token); if nobody serves the data folder it takes the folder's
// lock and does the work itself, by the same routes.
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

// cli is the grammar: nouns, then verbs.
type cli struct {
	Config configFlag `help:"YAML file with settings; see docs/operate." placeholder:"FILE" env:"BIRTHMARK_CONFIG"`

	Quickstart quickstartCmd `cmd:"" help:"A whole PKI with simulated devices in one command."`
	Init       initCmd       `cmd:"" help:"Make a data folder: authorities, profiles, first operator."`
	Serve      serveCmd      `cmd:"" help:"Run the server."`

	Authority   authorityCmd   `cmd:"" help:"Certificate authorities."`
	Profile     profileCmd     `cmd:"" help:"Profiles: what certificates may contain."`
	Product     productCmd     `cmd:"" help:"Products: models that are made."`
	Manifest    manifestCmd    `cmd:"" help:"Chip makers' lists of chips."`
	Signer      signerCmd      `cmd:"" help:"Whose manifests are believed."`
	Chip        chipCmd        `cmd:"" help:"Chips that manifests list."`
	Site        siteCmd        `cmd:"" help:"Sites: factories."`
	Station     stationCmd     `cmd:"" help:"Stations on the lines of a site."`
	Order       orderCmd       `cmd:"" help:"Production orders and their accounts."`
	KPI         kpiCmd         `cmd:"" name:"kpi" help:"Yield, rates, times and causes of failures."`
	Alarm       alarmCmd       `cmd:"" help:"What a person must look at."`
	Webhook     webhookCmd     `cmd:"" help:"Where events are sent."`
	Device      deviceCmd      `cmd:"" help:"Devices."`
	Certificate certificateCmd `cmd:"" help:"Certificates: list, revoke, verify and lint."`
	Approval    approvalCmd    `cmd:"" help:"Acts that wait for a second operator."`
	Token       tokenCmd       `cmd:"" help:"API tokens."`
	Operator    operatorCmd    `cmd:"" help:"Operators and their roles."`
	Ledger      ledgerCmd      `cmd:"" help:"The record of all acts."`
	Clock       clockCmd       `cmd:"" help:"The clock's guard."`
	Backup      backupCmd      `cmd:"" help:"Write a backup."`
	Restore     restoreCmd     `cmd:"" help:"Make a data folder from a backup."`

	Explain explainCmd `cmd:"" help:"Say what a code such as BM-2014 means and what to do."`
	Version versionCmd `cmd:"" help:"Print version and build."`
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
		kong.Name("birthmark"),
		kong.Description("Gives every device an unforgeable identity, and keeps it true."),
		kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(io.out, io.err), kong.Exit(func(code int) { exited = code; panic(exit{}) }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io),
		kong.DefaultEnvars(""),
	)
	if err != nil {
		fmt.Fprintln(io.err, "birthmark:", err)
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
		if f, ok := errors.AsType[*fault.Error](err); ok {
			printFault(io.err, f)
			return exitUsage
		}
		fmt.Fprintf(io.err, "birthmark: %v\nTry birthmark --help.\n", err)
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		return report(io, err)
	}
	return exitDone
}

// exit ends run early, after kong printed help.
type exit struct{}

// report prints an error as a person needs it: what was refused, the code, what
// to do.
func report(io *streams, err error) int {
	if errors.Is(err, errSilent) {
		return exitRefused
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		printFault(io.err, f)
		return exitRefused
	}
	fmt.Fprintln(io.err, "birthmark:", err)
	return exitRefused
}

// errSilent says that the command has printed all there is to say.
var errSilent = errors.New("refused")

func printFault(w io.Writer, f *fault.Error) {
	fmt.Fprintf(w, "birthmark: %s", f.Message)
	if f.Detail != "" {
		fmt.Fprintf(w, ": %s", f.Detail)
	}
	fmt.Fprintf(w, " (%s)\n", f.Code)
	if cause := errors.Unwrap(f); cause != nil {
		fmt.Fprintf(w, "  cause: %v\n", cause)
	}
	fmt.Fprintf(w, "  %s\n", f.Remedy)
}
