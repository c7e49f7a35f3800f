package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/agent"
)

type statusCmd struct {
	Out  string `help:"Folder of key, certificate and chain." required:"" placeholder:"DIR" type:"path" env:"BIRTHMARK_AGENT_OUT"`
	JSON bool   `help:"Print JSON."`
}

// Run shows what the device has. It exits with 1 where there is no certificate that
// is good now.
func (c *statusCmd) Run(io *streams) error {
	s, err := agent.StatusOf(c.Out, time.Now())
	if err != nil {
		return err
	}
	if c.JSON {
		err = program.PrintJSON(io.out, s)
	} else {
		err = show(io, s)
	}
	if err == nil && (s.Certificate == nil || s.Certificate.Expired) {
		return program.ErrSilent
	}
	return err
}

func show(io *streams, s *agent.Status) error {
	rows := [][]string{}
	for _, one := range []struct {
		name string
		c    *agent.Credential
	}{{"certificate", s.Certificate}, {"attestation key", s.AK}} {
		if one.c == nil {
			continue
		}
		state := "good"
		switch {
		case one.c.Expired:
			state = "expired"
		case one.c.Due:
			state = "to be renewed"
		}
		rows = append(rows, []string{one.name, one.c.Subject, strings.ToUpper(one.c.CertSerial), one.c.NotAfter.Format(time.RFC3339), state})
	}
	switch {
	case s.Key == "":
		fmt.Fprintf(io.out, "%s holds no key.\n", s.Dir)
	case len(rows) == 0:
		fmt.Fprintf(io.out, "The key is in the %s; there is no certificate yet.\n", s.Key)
	default:
		fmt.Fprintf(io.out, "The key is in the %s.\n", s.Key)
		return program.PrintTable(io.out, []string{"WHAT", "SUBJECT", "SERIAL", "UNTIL", "STATE"}, rows)
	}
	return nil
}

type doctorCmd struct {
	tpmFlags `embed:""`

	Server string `help:"The server's device listener; nothing: it is not asked." placeholder:"https://HOST:PORT" env:"BIRTHMARK_AGENT_SERVER"`
	CA     string `name:"ca" help:"PEM file with the authorities to trust." placeholder:"FILE" type:"existingfile" env:"BIRTHMARK_AGENT_CA"`
	Out    string `help:"Folder of key, certificate and chain; nothing: it is not looked at." placeholder:"DIR" type:"path" env:"BIRTHMARK_AGENT_OUT"`
	JSON   bool   `help:"Print JSON."`
}

// Run looks at everything and changes nothing.
func (c *doctorCmd) Run(ctx context.Context, io *streams) error {
	config, err := c.config()
	if err != nil {
		return err
	}
	x := agent.Examination{TPM: config, Dir: c.Out, Server: c.Server, Now: time.Now}
	if c.CA != "" {
		if x.Trust, err = os.ReadFile(c.CA); err != nil {
			return err
		}
	}
	ok := true
	findings := agent.Doctor(ctx, x)
	for _, f := range findings {
		ok = ok && f.OK
		if c.JSON {
			continue
		}
		if f.OK {
			fmt.Fprintf(io.out, "ok    %-15s %s\n", f.What, f.Detail)
		} else {
			fmt.Fprintf(io.out, "FAIL  %-15s %s %s | do: %s\n", f.What, f.Code, f.Detail, f.Remedy)
		}
	}
	if c.JSON {
		if err := program.PrintJSON(io.out, map[string]any{"ok": ok, "findings": findings}); err != nil {
			return err
		}
	}
	if !ok {
		return program.ErrSilent
	}
	return nil
}
