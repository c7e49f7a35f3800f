package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Site is a factory as the API shows it.
type Site struct {
	Name      string    `json:"name" minLength:"1" maxLength:"64"`
	CreatedAt time.Time `json:"created_at,omitzero" readOnly:"true"`
}

func (a *API) sites() {
	add(a, op{method: http.MethodGet, path: "/sites", action: access.FactoryRead, summary: "List sites"}, a.listSites)
	add(a, op{method: http.MethodPost, path: "/sites", action: access.StationManage, summary: "Add a site", status: http.StatusCreated}, a.addSite)
}

func (a *API) listSites(ctx context.Context, c *access.Caller, _ *nothing) (*list[Site], error) {
	rows, err := a.cfg.Factory.Sites(ctx, *c)
	if err != nil {
		return nil, err
	}
	items := make([]Site, len(rows))
	for i := range rows {
		items[i] = showSite(&rows[i])
	}
	return newList(items, ""), nil
}

func (a *API) addSite(ctx context.Context, c *access.Caller, in *one[Site]) (*one[Site], error) {
	row, err := a.cfg.Factory.AddSite(ctx, *c, in.Body.Name)
	if err != nil {
		return nil, err
	}
	return &one[Site]{showSite(&row)}, nil
}

func showSite(s *factory.Site) Site { return Site{Name: s.Name, CreatedAt: s.CreatedAt} }
