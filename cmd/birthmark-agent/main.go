// Command birthmark-agent is the device's side of Birthmark: it makes a key in the
// device's TPM (or in a file where there is none), proves it to the server, keeps
// key and certificate where other programs use them, and renews in time. It needs
// an outgoing connection to the server's device listener and carries no code of
// the server.
package main

import (
	"context"
	"io"
	"os"

	"github.com/birthmark/birthmark/cmd/internal/program"
)

// cli is the grammar.
type cli struct {
	Enroll  enrollCmd  `cmd:"" help:"Get the device's certificate, or renew it when it is due; else do nothing."`
	Status  statusCmd  `cmd:"" help:"What the device has."`
	Doctor  doctorCmd  `cmd:"" help:"Look at everything that an enrollment needs, and say in plain words what is wrong."`
	EK      ekCmd      `cmd:"" name:"ek" help:"The TPM's endorsement key, also as a line for a list of them."`
	Version versionCmd `cmd:"" help:"Print version and build."`
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }

func main() {
	program.Main(func(ctx context.Context, args []string) int {
		return run(ctx, args, &streams{out: os.Stdout, err: os.Stderr})
	})
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, io *streams) int {
	p := program.Program{
		Name: "birthmark-agent", Description: "Gives this device its identity, and keeps it current.",
		Grammar: new(cli), Bind: []any{io}, Out: io.out, Err: io.err,
	}
	return p.Run(ctx, args)
}

// version is set by the release build.
var version = "development"

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// Run prints what this binary was built from.
func (c *versionCmd) Run(io *streams) error {
	return program.PrintBuild(io.out, "birthmark-agent", version, c.JSON)
}
