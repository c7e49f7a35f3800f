// Command birthmark is the server and the operator's command line. A command
// talks to the running server through its local socket (or to another one with
// --server and a token); if nobody serves the data folder it takes the folder's
// lock and does the work itself, by the same routes.
package main

import (
	"context"
	"io"
	"os"

	"github.com/birthmark/birthmark/cmd/internal/program"
)

// cli is the grammar: nouns, then verbs.
type cli struct {
	Config configFlag `help:"YAML file with settings; see docs/operate." placeholder:"FILE" env:"BIRTHMARK_CONFIG"`

	Quickstart quickstartCmd `cmd:"" help:"A whole PKI with simulated devices in one command."`
	Init       initCmd       `cmd:"" help:"Make a data folder: authorities, profiles, first operator."`
	Serve      serveCmd      `cmd:"" help:"Run the server."`

	Authority   authorityCmd   `cmd:"" help:"Certificate authorities."`
	Ceremony    ceremonyCmd    `cmd:"" help:"Key ceremonies: a root of your own, on a machine without network."`
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
	TPM         tpmCmd         `cmd:"" name:"tpm" help:"TPMs: whose are genuine, which firmware is accepted."`
	Evidence    evidenceCmd    `cmd:"" help:"What hardware proved, and what it can prove."`
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
	program.Main(func(ctx context.Context, args []string) int {
		return run(ctx, args, &streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: program.IsTerminal(os.Stdout)})
	})
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, io *streams) int {
	p := program.Program{
		Name: "birthmark", Description: "Gives every device an unforgeable identity, and keeps it true.",
		Grammar: new(cli), Bind: []any{io}, Out: io.out, Err: io.err,
	}
	return p.Run(ctx, args)
}

// errSilent says that the command has printed all there is to say.
var errSilent = program.ErrSilent
