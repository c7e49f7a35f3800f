package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type webhookCmd struct {
	Add    webhookAddCmd    `cmd:"" help:"Add or change a webhook; prints the key of its signatures once."`
	List   webhookListCmd   `cmd:"" help:"List webhooks."`
	Remove webhookRemoveCmd `cmd:"" help:"Remove a webhook."`
	Replay webhookReplayCmd `cmd:"" help:"Send everything again from a place in the record on."`
}

func webhookPath(name string) string { return "/webhooks/" + url.PathEscape(name) }

type webhookAddCmd struct {
	remote     `embed:""`
	Name       string   `arg:"" help:"Name."`
	URL        string   `help:"Where events are sent." required:""`
	Event      []string `help:"Kinds of events; left out: all. alarm.raised, alarm.changed, unit.confirmed, unit.failed, unit.scrapped, order.changed." sep:","`
	SecretFile string   `help:"File with the key of the signatures (- for standard input); left out: we make one." placeholder:"FILE"`
	Disabled   bool     `help:"Send nothing for now."`
}

// Run adds a webhook or changes the one with its name.
func (c *webhookAddCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]any{"url": c.URL, "disabled": c.Disabled}
	if len(c.Event) > 0 {
		in["events"] = c.Event
	}
	if c.SecretFile != "" {
		text, err := fileText(io, c.SecretFile)
		if err != nil {
			return err
		}
		in["secret"] = strings.TrimRight(string(text), "\r\n")
	}
	return call(ctx, &c.remote, io, http.MethodPut, webhookPath(c.Name), in, func(w *rest.Webhook) error {
		fmt.Fprintf(io.out, "%s is sent %s from ledger entry %d on.\n", w.URL, cmp.Or(strings.Join(w.Events, ", "), "all events"), w.Cursor)
		if w.Secret != "" {
			fmt.Fprintf(io.out, "Key of the signatures, shown once: %s\n", w.Secret)
		}
		return nil
	})
}

type webhookListCmd struct {
	remote `embed:""`
}

// Run lists webhooks.
func (c *webhookListCmd) Run(ctx context.Context, io *streams) error {
	header := []string{"NAME", "URL", "EVENTS", "NEXT ENTRY", "STATE"}
	return listAll(ctx, &c.remote, io, "/webhooks", url.Values{}, 0, header, func(w *rest.Webhook) []string {
		state := cmp.Or(w.Failure, "delivered")
		if w.Disabled {
			state = "disabled"
		}
		return []string{w.Name, w.URL, cmp.Or(strings.Join(w.Events, ","), "all"), fmt.Sprint(w.Cursor), state}
	})
}

type webhookRemoveCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name."`
}

// Run removes a webhook.
func (c *webhookRemoveCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodDelete, webhookPath(c.Name), nil, func(*struct{}) error {
		fmt.Fprintf(io.out, "Removed %s.\n", c.Name)
		return nil
	})
}

type webhookReplayCmd struct {
	remote `embed:""`
	Name   string `arg:"" help:"Name."`
	From   int64  `help:"Ledger index of the first entry." required:""`
}

// Run replays events.
func (c *webhookReplayCmd) Run(ctx context.Context, io *streams) error {
	in := map[string]int64{"from": c.From}
	return call(ctx, &c.remote, io, http.MethodPost, webhookPath(c.Name)+"/replay", in, func(*struct{}) error {
		fmt.Fprintf(io.out, "%s is sent everything again from ledger entry %d on.\n", c.Name, c.From)
		return nil
	})
}
