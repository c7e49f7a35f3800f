package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type profileCmd struct {
	List   profileListCmd   `cmd:"" help:"List profiles."`
	Show   profileShowCmd   `cmd:"" help:"Print the newest text of a profile, or a preset's."`
	Import profileImportCmd `cmd:"" help:"Import a profile as the next version of its name."`
	Label  profileLabelCmd  `cmd:"" help:"EST labels: what a path's label means."`
}

type profileListCmd struct {
	remote  `embed:""`
	Presets bool `help:"List the presets of this program instead."`
}

// Run lists profiles.
func (c *profileListCmd) Run(ctx context.Context, io *streams) error {
	if c.Presets {
		for _, name := range profile.Presets() {
			fmt.Fprintln(io.out, name)
		}
		return nil
	}
	return listAll(ctx, &c.remote, io, "/profiles", url.Values{}, 0, []string{"NAME", "VERSION", "USABLE", "IMPORTED", "AUTHOR"},
		func(p *rest.Profile) []string {
			usable := "yes"
			if !p.Usable {
				usable = p.Problem
			}
			return []string{p.Name, fmt.Sprint(p.Version), usable, day(p.ImportedAt), p.Author}
		})
}

type profileShowCmd struct {
	remote  `embed:""`
	Name    string `arg:"" help:"Name of the profile."`
	Version int    `help:"Version (default: the newest)."`
	Preset  bool   `help:"Print the preset of this program instead."`
}

// Run prints a profile's text.
func (c *profileShowCmd) Run(ctx context.Context, io *streams) error {
	if c.Preset {
		text, ok := profile.Preset(c.Name)
		if !ok {
			return fault.New(fault.ProfileUnknown, c.Name)
		}
		_, err := io.out.Write(text)
		return err
	}
	return call(ctx, &c.remote, io, http.MethodGet, "/profiles/"+url.PathEscape(c.Name), nil, func(l *listing[rest.Profile]) error {
		for i := len(l.Items) - 1; i >= 0; i-- {
			if c.Version == 0 || l.Items[i].Version == c.Version {
				_, err := fmt.Fprint(io.out, l.Items[i].Text)
				return err
			}
		}
		return fault.New(fault.ProfileUnknown, c.Name, "version", c.Version)
	})
}

type profileImportCmd struct {
	remote `embed:""`
	File   string `arg:"" help:"YAML file (- for standard input)."`
}

// Run imports a profile.
func (c *profileImportCmd) Run(ctx context.Context, io *streams) error {
	text, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	return call(ctx, &c.remote, io, http.MethodPost, "/profiles", map[string]string{"text": string(text)}, func(p *rest.Profile) error {
		fmt.Fprintf(io.out, "%s is now version %d.\n", p.Name, p.Version)
		return nil
	})
}

type profileLabelCmd struct {
	List profileLabelListCmd `cmd:"" help:"List labels."`
	Set  profileLabelSetCmd  `cmd:"" help:"Say what a label means."`
}

type profileLabelListCmd struct {
	remote `embed:""`
}

// Run lists labels.
func (c *profileLabelListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/labels", url.Values{}, 0, []string{"LABEL", "PROFILE", "PURPOSE", "WRAP"},
		func(l *rest.Label) []string { return []string{l.Name, l.Profile, l.Purpose, fmt.Sprint(l.Wrap)} })
}

type profileLabelSetCmd struct {
	remote  `embed:""`
	Name    string `arg:"" help:"Label, as in the EST path."`
	Profile string `help:"Profile." required:""`
	Purpose string `help:"Purpose, if not the profile's own."`
	Wrap    int    `help:"Length of base64 lines in replies; 0: unbroken."`
}

// Run sets a label.
func (c *profileLabelSetCmd) Run(ctx context.Context, io *streams) error {
	in := rest.Label{Name: c.Name, Profile: c.Profile, Purpose: c.Purpose, Wrap: c.Wrap}
	return call(ctx, &c.remote, io, http.MethodPut, "/labels/"+url.PathEscape(c.Name), in, func(l *rest.Label) error {
		fmt.Fprintf(io.out, "Label %s means profile %s.\n", l.Name, l.Profile)
		return nil
	})
}
