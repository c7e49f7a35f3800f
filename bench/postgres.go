package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// postgres is a database server: one that was there, or one that lives as long
// as this program.
type postgres struct {
	dsn string // of a superuser
	pid int
	end func() error
}

// errNoPostgres says that column (c) stays empty.
var errNoPostgres = errors.New("PostgreSQL: not installed")

// findPostgres uses the server that tools/postgres.sh has started around this
// program, or has that script start one.
func findPostgres(ctx context.Context) (*postgres, error) {
	if os.Getenv("BENCH_POSTGRES") == "no" {
		return nil, errNoPostgres
	}
	if dsn := os.Getenv("BIRTHMARK_TEST_POSTGRES"); dsn != "" {
		pid, err := strconv.Atoi(os.Getenv("BIRTHMARK_TEST_POSTGRES_PID"))
		if err != nil {
			pid = 0 // its processor time stays unknown
		}
		return &postgres{dsn, pid, func() error { return nil }}, nil
	}
	const script = "tools/postgres.sh"
	if _, err := os.Stat(script); err != nil {
		return nil, errNoPostgres
	}
	// The shell lives until its input ends, and the server as long as the shell.
	cmd := exec.CommandContext(ctx, script, "sh", "-c", `echo "$BIRTHMARK_TEST_POSTGRES"; echo "$BIRTHMARK_TEST_POSTGRES_PID"; cat`)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.Cancel = in.Close
	cmd.WaitDelay = patience
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errNoPostgres
	}
	end := func() error { return errors.Join(in.Close(), cmd.Wait()) }
	lines := bufio.NewScanner(out)
	lines.Scan()
	dsn := strings.TrimSpace(lines.Text())
	lines.Scan()
	pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
	if dsn == "" || err != nil {
		_ = end() // there was nothing to end
		return nil, errNoPostgres
	}
	return &postgres{dsn, pid, end}, nil
}

// makeDatabase makes an empty database and returns its DSN and how to drop it.
func (p *postgres) makeDatabase(ctx context.Context) (dsn string, drop func() error, err error) {
	name := fmt.Sprintf("birthmark_bench_%d", os.Getpid())
	if err := p.do(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, err
	}
	drop = func() error { return p.do(context.WithoutCancel(ctx), "DROP DATABASE "+name+" WITH (FORCE)") }
	config, err := pgx.ParseConfig(p.dsn)
	if err != nil {
		return "", nil, errors.Join(err, drop())
	}
	return strings.Replace(p.dsn, "/"+config.Database, "/"+name, 1), drop, nil
}

func (p *postgres) do(ctx context.Context, statement string) error {
	c, err := pgx.Connect(ctx, p.dsn)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, statement)
	return errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}

func (p *postgres) settings(ctx context.Context) (string, error) {
	c, err := pgx.Connect(ctx, p.dsn)
	if err != nil {
		return "", err
	}
	var version, sync string
	err = c.QueryRow(ctx, "SELECT current_setting('server_version'), 'fsync ' || current_setting('fsync') || ', synchronous_commit ' || current_setting('synchronous_commit')").Scan(&version, &sync)
	return "PostgreSQL " + strings.Fields(version + " ?")[0] + ", " + sync, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}
