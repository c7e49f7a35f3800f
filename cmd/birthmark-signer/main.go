// Command birthmark-signer holds the keys of our authorities in a process of its
// own: in an HSM (PKCS #11), in a TPM, or in encrypted files. The server asks it
// over a Unix socket to sign certificates, CRLs and OCSP answers; it reads each
// and signs only what the key's bounds in its configuration allow, and what it
// signs is in its journal first. See docs/operate/hsm.md.
//
// PKCS #11 needs a C library, so it is there only in builds with the tag pkcs11
// and cgo.
package main

import (
	"context"
	"io"
	"os"

	"github.com/birthmark/birthmark/cmd/internal/program"
)

// cli is the grammar.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Sign for those who may ask, until the process is told to stop."`
	Doctor  doctorCmd  `cmd:"" help:"Say in plain words what is wrong with configuration, token, keys, journal and socket."`
	Key     keyCmd     `cmd:"" help:"Keys: list, make, request a certificate, bind to it."`
	Journal journalCmd `cmd:"" help:"Check and print the record of what was signed."`
	Version versionCmd `cmd:"" help:"Print version and build."`
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	program.Main(func(ctx context.Context, args []string) int {
		return run(ctx, args, &streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	})
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, io *streams) int {
	p := program.Program{
		Name: "birthmark-signer", Description: "Holds the keys of Birthmark's authorities and reads what it signs.",
		Grammar: new(cli), Bind: []any{io}, Out: io.out, Err: io.err,
	}
	return p.Run(ctx, args)
}
