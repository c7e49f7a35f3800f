package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type stationCmd struct {
	Add     stationAddCmd     `cmd:"" help:"Add a station; prints its one-time code."`
	List    stationListCmd    `cmd:"" help:"List stations."`
	Show    stationShowCmd    `cmd:"" help:"Show a station."`
	Code    stationCodeCmd    `cmd:"" help:"Make a new one-time code, also to replace a station's computer."`
	Suspend stationSuspendCmd `cmd:"" help:"Suspend a station: from now on it gets nothing."`
	Resume  stationResumeCmd  `cmd:"" help:"Resume a suspended station."`
	Retire  stationRetireCmd  `cmd:"" help:"Retire a station for good."`
}

func stationPath(name string) string { return "/stations/" + url.PathEscape(name) }

// printStationCode shows a one-time code and what to do with it.
func printStationCode(io *streams, done string) func(*rest.StationWithCode) error {
	return func(s *rest.StationWithCode) error {
		fmt.Fprintf(io.out, "%s %s at %s.\n", done, s.Name, s.Site)
		until := ""
		if s.CodeExpiresAt != nil {
			until = ", valid until " + day(*s.CodeExpiresAt)
		}
		fmt.Fprintf(io.out, "One-time code, shown once%s: %s\n", until, s.Code)
		return nil
	}
}

type stationAddCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the station."`
	Site   string `help:"Site where it stands." required:""`
}

// Run adds a station.
func (c *stationAddCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]string{"name": c.Name, "site": c.Site}
	return call(ctx, &c.remote, io, http.MethodPost, "/stations", in, printStationCode(io, "Added"))
}

type stationListCmd struct {
	remote `embed:""`
	Site   string `help:"Only this site."`
}

// Run lists stations.
func (c *stationListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/stations", query("site", c.Site), 0, []string{"NAME", "SITE", "STATE", "CERTIFICATE UNTIL", "CODE"},
		func(s *rest.Station) []string {
			return []string{s.Name, s.Site, s.State, cmp.Or(moment(s.NotAfter), "not enrolled"), s.Code}
		})
}

type stationShowCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the station."`
}

// Run shows a station.
func (c *stationShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, stationPath(c.Name), nil, func(s *rest.Station) error {
		fmt.Fprintf(io.out, "%s  at %s  %s\n", s.Name, s.Site, s.State)
		return printFields(io.out, [][2]string{
			{"certificate", cmp.Or(s.Certificate, "none: it has not enrolled yet")},
			{"valid until", moment(s.NotAfter)},
			{"one-time code", s.Code},
			{"code until", moment(s.CodeExpiresAt)},
			{"added", day(s.CreatedAt)},
			{"changed", day(s.ChangedAt)},
		})
	})
}

type stationCodeCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the station."`
}

// Run makes a new code; the old one is dead.
func (c *stationCodeCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, stationPath(c.Name)+"/code", nil, printStationCode(io, "New code for"))
}

// stationFlags are what every act on a station's state needs.
type stationFlags struct {
	Name   string `arg:"" help:"Name of the station."`
	Reason string `help:"Reason."`
}

func (f *stationFlags) act(ctx context.Context, r *remote, io *streams, act string) error {
	in := map[string]string{"reason": f.Reason}
	return call(ctx, r, io, http.MethodPost, stationPath(f.Name)+"/"+act, in, func(s *rest.Station) error {
		fmt.Fprintf(io.out, "%s is %s.\n", s.Name, s.State)
		return nil
	})
}

type stationSuspendCmd struct {
	remote       `embed:""`
	stationFlags `embed:""`
}

// Run suspends a station.
func (c *stationSuspendCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "suspension")
}

type stationResumeCmd struct {
	remote       `embed:""`
	stationFlags `embed:""`
}

// Run resumes a station.
func (c *stationResumeCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "resumption")
}

type stationRetireCmd struct {
	remote       `embed:""`
	stationFlags `embed:""`
}

// Run retires a station.
func (c *stationRetireCmd) Run(ctx context.Context, io *streams) error {
	return c.act(ctx, &c.remote, io, "retirement")
}
