package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type siteCmd struct {
	Add  siteAddCmd  `cmd:"" help:"Add a site."`
	List siteListCmd `cmd:"" help:"List sites."`
}

type siteAddCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name of the factory."`
}

// Run adds a site.
func (c *siteAddCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, "/sites", map[string]string{"name": c.Name}, func(s *rest.Site) error {
		fmt.Fprintf(io.out, "Added %s.\n", s.Name)
		return nil
	})
}

type siteListCmd struct {
	remote `embed:""`
}

// Run lists sites.
func (c *siteListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/sites", url.Values{}, 0, []string{"NAME", "SINCE"},
		func(s *rest.Site) []string { return []string{s.Name, day(s.CreatedAt)} })
}
