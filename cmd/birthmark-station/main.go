// Command birthmark-station is the line's side of a production order, on Linux and
// Windows: it enrolls as a station, provisions units itself or for a fixture or MES
// that calls it, keeps what the server could not be told, and carries batches where
// there is no link at all. It needs an outgoing connection to the server's device
// listener and nothing else.
package main

import (
	"context"
	"io"
	"os"

	"github.com/birthmark/birthmark/cmd/internal/program"
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
	program.Main(func(ctx context.Context, args []string) int {
		return run(ctx, args, &streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: program.IsTerminal(os.Stdout)})
	})
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, io *streams) int {
	p := program.Program{
		Name: "birthmark-station", Description: "Puts an identity into each unit of a production line.",
		Grammar: new(cli), Bind: []any{io}, Out: io.out, Err: io.err, Who: true,
	}
	return p.Run(ctx, args)
}
