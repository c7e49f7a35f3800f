// Command bench measures what docs/performance.md states: how many certificates
// a second the server issues over EST with everything switched on, beside a bare
// Go server that stores nothing, in one run on one machine. Servers and load are
// processes of their own; rates come from passes that take turns, and what is
// said of processor time and memory is read from the kernel. Everything listens
// on loopback and lives in a temporary folder.
//
//	go run ./bench                 a million devices, some fifteen minutes
//	BENCH_QUICK=1 go run ./bench   fifty thousand, under a minute
//
// BENCH_KEEP=FOLDER keeps the seeded SQLite folder there for the next run,
// BENCH_PROFILE=FOLDER profiles the servers under enrollment and stops there,
// BENCH_POSTGRES=no leaves PostgreSQL out, BENCH_CHIPS=N imports a manifest of N
// chips in the short form, too.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// plan is how much is measured.
type plan struct {
	quick   bool
	stored  int           // devices and certificates that are there already
	spare   int           // registered devices that can enroll
	clients []int         // one cell each
	cell    time.Duration // length of a pass of a cell
	passes  int           // of each cell and server, in turns
	revoked int           // entries of the CRL
	chips   int           // of the manifest that is imported while devices enroll; 0: it is left out
	keep    string        // folder for the seeded data, or empty

	profiles string // folder for profiles of the servers; then only enrollment is measured
}

func newPlan() (plan, error) {
	p := plan{
		stored: 1_000_000, spare: 500_000, clients: []int{1, 16, 64}, cell: 5 * time.Second, passes: 3,
		revoked: 1_000_000, chips: 1_000_000, keep: os.Getenv("BENCH_KEEP"), profiles: os.Getenv("BENCH_PROFILE"),
	}
	if os.Getenv("BENCH_QUICK") != "" {
		p.quick = true
		p.stored, p.spare, p.cell, p.passes, p.revoked, p.chips = 50_000, 40_000, 1500*time.Millisecond, 1, 50_000, 0
	}
	if p.profiles != "" {
		p.spare, p.cell, p.passes, p.clients = 100_000, 5*time.Second, 1, []int{1, 64}
	}
	if text := os.Getenv("BENCH_CHIPS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return p, fmt.Errorf("BENCH_CHIPS is a number of chips, not %q", text)
		}
		p.chips = n
	}
	return p, nil
}

// parts are the roles in which this program starts itself.
var parts = map[string]func(context.Context, []string) error{
	"line":      func(ctx context.Context, _ []string) error { return runLine(ctx, os.Stdin, os.Stdout) },
	"load":      func(ctx context.Context, _ []string) error { return runLoad(ctx, os.Stdin, os.Stdout) },
	"ideal":     func(ctx context.Context, _ []string) error { return runIdeal(ctx, os.Stdin, os.Stdout) },
	"tpm":       func(ctx context.Context, _ []string) error { return runTPMs(ctx, os.Stdin, os.Stdout) },
	"presigned": func(ctx context.Context, _ []string) error { return runPresigned(ctx, os.Stdin, os.Stdout) },
	"crl":       runCRL,
	"swtpms":    func(ctx context.Context, _ []string) error { return runSwtpms(ctx, os.Stdout) },
	"signers":   func(ctx context.Context, _ []string) error { return runSigners(ctx, os.Stdout) },
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 {
		part, ok := parts[args[0]]
		if !ok {
			return fmt.Errorf("there is no part %q; run it without arguments", args[0])
		}
		return part(ctx, args[1:])
	}
	if _, err := processCPU(os.Getpid()); err != nil {
		return fmt.Errorf("processor times are read from /proc, as Linux has it: %w", err)
	}
	p, err := newPlan()
	if err != nil {
		return err
	}
	return measure(ctx, p, out)
}
