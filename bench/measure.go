package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// target is a server under load.
type target struct {
	letter string
	name   string
	pid    int // of the server
	extra  int // of its database, whose processes count too; 0: none
	pprof  string
	by     *process // who asks it; nil: the load process
	order  order
	next   int // first device that has not enrolled
	stats  map[int]*series
	peak   int64
}

// series are the passes of one cell.
type series struct{ rate, p50, p99, cpu, extra, load []float64 }

// bench is a whole run.
type bench struct {
	plan    plan
	out     io.Writer
	folder  string
	load    *process
	sqlite  *installation
	pg      *installation // nil: no PostgreSQL
	pgPID   int
	targets []*target
	figures figures
	begin   time.Time
	ends    []func() error // what to undo, last first
}

// begin makes a folder and builds the server there.
func begin(ctx context.Context, p plan, out io.Writer) (*bench, error) {
	folder, err := os.MkdirTemp("", "bm-bench-") // a socket's path is short
	if err != nil {
		return nil, err
	}
	b := &bench{plan: p, out: out, folder: folder, begin: time.Now()}
	b.ends = append(b.ends, func() error { return os.RemoveAll(folder) })
	b.step("building")
	if err := build(ctx, folder, p.profiles != ""); err != nil {
		return nil, errors.Join(err, b.end())
	}
	return b, nil
}

// end undoes everything that was started.
func (b *bench) end() (err error) {
	for _, undo := range slices.Backward(b.ends) {
		err = errors.Join(err, undo())
	}
	return err
}

// startPart runs a part of this program until the end of the run.
func (b *bench) startPart(ctx context.Context, part string, args ...string) (*process, error) {
	p, err := startPart(ctx, b.folder, part, args...)
	if err == nil {
		b.ends = append(b.ends, p.stop)
	}
	return p, err
}

// step says what goes on, with the time since the start.
func (b *bench) step(format string, args ...any) {
	fmt.Fprintf(b.out, "%6.1fs  %s\n", time.Since(b.begin).Seconds(), fmt.Sprintf(format, args...))
}

// measure runs everything and prints the tables.
func measure(ctx context.Context, p plan, out io.Writer) (err error) {
	b, err := begin(ctx, p, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	if b.load, err = b.startPart(ctx, "load"); err != nil {
		return err
	}
	parts := []func(context.Context) error{b.prepare, b.serve, b.cells, b.factory, b.tpm, b.issuing, b.ocsp, b.register, b.crl}
	if p.profiles != "" {
		parts = parts[:5]
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return b.explain(err)
		}
	}
	if p.profiles != "" {
		b.enrollTable().text(out)
		b.factoryTable().text(out)
		b.factoryAims().text(out)
		b.tpmTable().text(out)
		return nil
	}
	b.print()
	return nil
}

// explain adds the last words of the processes to an error.
func (b *bench) explain(err error) error {
	logs, _ := filepath.Glob(filepath.Join(b.folder, "*", "serve.log")) // the pattern is right
	parts, _ := filepath.Glob(filepath.Join(b.folder, "*.log"))
	for _, path := range append(logs, parts...) {
		text, readErr := os.ReadFile(path)
		if readErr == nil && len(text) > 0 {
			err = fmt.Errorf("%w\n%s:\n%s", err, filepath.Base(path), lastWords(text))
		}
	}
	return err
}

// lastWords is where a Go program says why it died, or else the end.
func lastWords(log []byte) []byte {
	for _, mark := range []string{"fatal error:", "panic:", "SIGSEGV"} {
		if at := bytes.Index(log, []byte(mark)); at >= 0 {
			return log[at:min(len(log), at+4000)]
		}
	}
	return log[max(0, len(log)-1000):]
}

// prepare makes and seeds the installations, both at a time.
func (b *bench) prepare(ctx context.Context) error {
	binary := filepath.Join(b.folder, "birthmark")
	b.sqlite = &installation{binary: binary, data: filepath.Join(b.folder, "sqlite")}
	b.sqlite.database = "sqlite:" + filepath.Join(b.sqlite.data, "birthmark.db")
	if err := b.preparePostgres(ctx, binary); err != nil {
		return err
	}
	b.step("%d devices with certificates, %d without, in each database", b.plan.stored, b.plan.spare)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.seedSQLite(ctx) })
	if b.pg != nil {
		group.Go(func() error { return b.pg.make(ctx, b.plan) })
	}
	return group.Wait()
}

// preparePostgres makes an empty database, if there is a server for it.
func (b *bench) preparePostgres(ctx context.Context, binary string) error {
	server, err := findPostgres(ctx)
	if errors.Is(err, errNoPostgres) {
		b.step("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	b.ends = append(b.ends, server.end)
	if b.figures.postgres, err = server.settings(ctx); err != nil {
		return err
	}
	dsn, drop, err := server.makeDatabase(ctx)
	if err != nil {
		return err
	}
	b.ends = append(b.ends, drop)
	b.step("%s", b.figures.postgres)
	b.pg, b.pgPID = &installation{binary: binary, data: filepath.Join(b.folder, "postgres"), database: dsn}, server.pid
	return nil
}

func (i *installation) make(ctx context.Context, p plan) error {
	if err := i.install(ctx); err != nil {
		return err
	}
	if err := i.seed(ctx, p); err != nil {
		return err
	}
	// Any command that finds no server hashes what the ledger is behind, so
	// that the servers do not begin with a million entries.
	if err := i.command(ctx, "product", "list"); err != nil {
		return err
	}
	return i.readAuthorities(ctx)
}

// seedSQLite makes the folder, or copies the one that an earlier run kept.
func (b *bench) seedSQLite(ctx context.Context) error {
	if b.plan.keep == "" {
		return b.sqlite.make(ctx, b.plan)
	}
	kept := filepath.Join(b.plan.keep, fmt.Sprintf("sqlite-%d-%d", b.plan.stored, b.plan.spare))
	if _, err := os.Stat(kept); err != nil {
		if err := b.sqlite.make(ctx, b.plan); err != nil {
			return err
		}
		return copyFolder(ctx, b.sqlite.data, kept)
	}
	if err := copyFolder(ctx, kept, b.sqlite.data); err != nil {
		return err
	}
	return b.sqlite.readAuthorities(ctx)
}

// copyFolder copies with modes, without which the server refuses its keys.
func copyFolder(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if text, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the seeded folder: %w\n%s", err, text)
	}
	return nil
}

// serve starts the servers and lets them catch up.
func (b *bench) serve(ctx context.Context) error {
	b.step("starting the servers")
	first := b.plan.stored + 1
	var at listening
	p, err := b.startPart(ctx, "ideal")
	if err != nil {
		return err
	}
	if err := p.read(&at); err != nil {
		return err
	}
	b.targets = append(b.targets, &target{letter: "a", name: "bare x509.CreateCertificate", pid: p.pid(), next: first, order: order{
		Address: at.Address, Anchors: at.Issuer, Issuer: at.Issuer,
	}})
	for _, i := range []*installation{b.sqlite, b.pg} {
		if i == nil {
			continue
		}
		if _, err := i.start(ctx); err != nil {
			return err
		}
		b.ends = append(b.ends, i.stop)
		if err := i.settle(ctx); err != nil {
			return err
		}
		t := &target{letter: "b", name: "Birthmark, SQLite", pid: i.server.pid(), pprof: i.pprof, next: first, order: order{
			Address: i.device, Anchors: i.root, Issuer: i.issuer, Strict: true,
		}}
		if i == b.pg {
			t.letter, t.name, t.extra = "c", "Birthmark, PostgreSQL", b.pgPID
		}
		b.targets = append(b.targets, t)
	}
	return nil
}

// expected is a rate that no server here reaches, for how many requests are
// made in advance.
func expected(clients int) float64 {
	if clients == 1 {
		return 4_000
	}
	return 11_000
}

// cells measures every number of clients against every server, in turns.
func (b *bench) cells(ctx context.Context) error {
	for pass := range b.plan.passes {
		for _, clients := range b.plan.clients {
			if err := b.makeRequests(clients, b.targets...); err != nil {
				return err
			}
			for i := range b.targets {
				// Whoever begins has a slight disadvantage: take turns.
				t := b.targets[(i+pass)%len(b.targets)]
				if err := b.cell(ctx, t, clients); err != nil {
					return fmt.Errorf("(%s) with %d clients: %w", t.letter, clients, err)
				}
			}
		}
	}
	for _, t := range b.targets {
		var err error
		if t.peak, err = memory(t.pid, "VmHWM"); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// makeRequests has the load process make requests for the next round, as the
// servers have used them.
func (b *bench) makeRequests(clients int, targets ...*target) error {
	first, last := targets[0].next, 0
	for _, t := range targets {
		first, last = min(first, t.next), max(last, t.next)
	}
	last += int(expected(clients) * b.plan.cell.Seconds())
	var c cell
	if err := b.load.ask(order{Do: "make", First: first, Last: min(last, b.plan.stored+b.plan.spare)}, &c); err != nil {
		return err
	}
	return c.err()
}

func (c *cell) err() error {
	if c.Error != "" {
		return errors.New(c.Error)
	}
	return nil
}

// spent is processor time up to now.
type spent struct{ server, extra, load time.Duration }

func (s spent) minus(before spent) spent {
	return spent{s.server - before.server, s.extra - before.extra, s.load - before.load}
}

func per1000(d time.Duration, done int) float64 { return d.Seconds() * 1000 / float64(done) }

func (b *bench) spent(t *target) (s spent, err error) {
	if s.server, err = processCPU(t.pid); err != nil {
		return s, err
	}
	if t.extra != 0 {
		if s.extra, err = treeCPU(t.extra); err != nil {
			return s, err
		}
	}
	s.load, err = processCPU(cmp.Or(t.by, b.load).pid())
	return s, err
}

// cell is one pass: connect, then run, with processor times read around the
// run.
func (b *bench) cell(ctx context.Context, t *target, clients int) error {
	c, s, err := b.run(ctx, t, clients, b.plan.cell)
	if err != nil {
		return err
	}
	t.next = c.Next
	if t.stats == nil {
		t.stats = map[int]*series{}
	}
	if t.stats[clients] == nil {
		t.stats[clients] = &series{}
	}
	t.stats[clients].add(&c, s)
	short := ""
	if c.Short {
		short = ", devices ran out"
	}
	b.step("(%s) %2d clients: %6.0f/s, p50 %.2f ms, p99 %.2f ms, %.3f s per 1,000; %d refused, %d verified%s", t.letter, clients,
		float64(c.Done)/c.Took.Seconds(), ms(c.P50), ms(c.P99), per1000(s.server, c.Done), c.Refused, c.Checked, short)
	return nil
}

func (b *bench) run(ctx context.Context, t *target, clients int, d time.Duration) (c cell, s spent, err error) {
	o := t.order
	o.Do, o.Clients = "connect", clients
	if err := errors.Join(b.load.ask(o, &c), c.err()); err != nil {
		return c, s, err
	}
	before, err := b.spent(t)
	if err != nil {
		return c, s, err
	}
	profiled := b.profile(ctx, t, clients)
	o.Do, o.For, o.From = "run", d, t.next
	if err := errors.Join(b.load.ask(o, &c), profiled(), c.err()); err != nil {
		return c, s, err
	}
	after, err := b.spent(t)
	return c, after.minus(before), err
}

func (s *series) add(c *cell, used spent) {
	per := func(d time.Duration) float64 { return per1000(d, c.Done) }
	s.rate = append(s.rate, float64(c.Done)/c.Took.Seconds())
	s.p50, s.p99 = append(s.p50, ms(c.P50)), append(s.p99, ms(c.P99))
	s.cpu, s.extra, s.load = append(s.cpu, per(used.server)), append(s.extra, per(used.extra)), append(s.load, per(used.load))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
