package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Webhook is where events are sent.
type Webhook struct {
	Name      string    `json:"name" maxLength:"64" readOnly:"true"`
	URL       string    `json:"url"`
	Events    []string  `json:"events" doc:"Kinds; empty: all"`
	Cursor    int64     `json:"cursor" doc:"Ledger index of the next entry to look at"`
	Disabled  bool      `json:"disabled"`
	Failure   string    `json:"failure,omitempty" doc:"The newest failure; absent while events are delivered"`
	CreatedAt time.Time `json:"created_at"`
	ChangedAt time.Time `json:"changed_at"`
	Secret    string    `json:"secret,omitempty" doc:"Key of the signature; shown when it was made"`
}

func (a *API) webhooks() {
	manage := access.WebhookManage
	add(a, op{method: http.MethodGet, path: "/webhooks", action: manage, summary: "List webhooks", everywhere: true}, a.listWebhooks)
	add(a, op{method: http.MethodPut, path: "/webhooks/{name}", action: manage, summary: "Add or change a webhook; a new secret is shown once", everywhere: true}, a.setWebhook)
	add(a, op{method: http.MethodDelete, path: "/webhooks/{name}", action: manage, summary: "Remove a webhook", everywhere: true, status: http.StatusNoContent}, a.removeWebhook)
	add(a, op{method: http.MethodPost, path: "/webhooks/{name}/replay", action: manage, summary: "Send everything again from a ledger index on", everywhere: true, status: http.StatusNoContent}, a.replayWebhook)
}

func showWebhook(w *factory.Webhook) Webhook {
	out := Webhook{
		Name: w.Name, URL: w.URL, Events: w.Events, Cursor: w.Cursor, Disabled: w.Disabled, Failure: w.Failure,
		CreatedAt: w.CreatedAt, ChangedAt: w.ChangedAt,
	}
	if out.Events == nil {
		out.Events = []string{}
	}
	return out
}

func (a *API) listWebhooks(ctx context.Context, c *access.Caller, _ *nothing) (*list[Webhook], error) {
	rows, err := a.cfg.Factory.Webhooks(ctx, *c)
	if err != nil {
		return nil, err
	}
	items := make([]Webhook, len(rows))
	for i := range rows {
		items[i] = showWebhook(&rows[i])
	}
	return newList(items, ""), nil
}

func (a *API) setWebhook(ctx context.Context, c *access.Caller, in *struct {
	NamePath
	Body struct {
		URL      string   `json:"url" minLength:"1" maxLength:"2000" format:"uri" doc:"https, and no private address, unless the server's settings allow the host"`
		Events   []string `json:"events,omitempty" maxItems:"32" doc:"Kinds; absent: all"`
		Secret   string   `json:"secret,omitempty" maxLength:"256" doc:"Key of the signature; absent: a new webhook gets one, a known one keeps its own"`
		Disabled bool     `json:"disabled,omitempty"`
	}
},
) (*one[Webhook], error) {
	if err := a.cfg.MayReach(in.Body.URL); err != nil {
		return nil, err
	}
	w, secret, err := a.cfg.Factory.SetWebhook(ctx, *c, factory.Webhook{
		Name: in.Name, URL: in.Body.URL, Events: in.Body.Events, Disabled: in.Body.Disabled, Secret: []byte(in.Body.Secret),
	})
	if err != nil {
		return nil, err
	}
	out := showWebhook(&w)
	out.Secret = secret
	return &one[Webhook]{out}, nil
}

func (a *API) removeWebhook(ctx context.Context, c *access.Caller, in *NamePath) (*nothing, error) {
	return nil, a.cfg.Factory.RemoveWebhook(ctx, *c, in.Name)
}

func (a *API) replayWebhook(ctx context.Context, c *access.Caller, in *struct {
	NamePath
	Body struct {
		From int64 `json:"from" minimum:"0" doc:"Ledger index"`
	}
},
) (*nothing, error) {
	return nil, a.cfg.Factory.ReplayWebhook(ctx, *c, in.Name, in.Body.From)
}
