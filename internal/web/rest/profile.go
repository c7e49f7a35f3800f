package rest

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// Profile is a version of a profile as the API shows it.
type Profile struct {
	Name       string    `json:"name"`
	Version    int       `json:"version"`
	Digest     string    `json:"digest" doc:"SHA-256 of the text"`
	Author     string    `json:"author"`
	ImportedAt time.Time `json:"imported_at"`
	Usable     bool      `json:"usable" doc:"Certificates can be issued under it now"`
	Problem    string    `json:"problem,omitempty" doc:"Why not"`
	Text       string    `json:"text,omitempty" doc:"YAML"`
}

// Label is an EST label.
type Label struct {
	Name    string `json:"name"`
	Profile string `json:"profile" minLength:"1"`
	Purpose string `json:"purpose,omitempty"`
	Wrap    int    `json:"wrap,omitempty" minimum:"0" maximum:"76" doc:"Length of base64 lines in replies; 0: unbroken"`
}

func (a *API) profiles() {
	add(a, op{method: http.MethodGet, path: "/profiles", action: access.ProfileRead, summary: "List the newest version of each profile"}, a.listProfiles)
	add(a, op{method: http.MethodGet, path: "/profiles/{name}", action: access.ProfileRead, summary: "List the versions of a profile with their text"}, a.showProfile)
	add(a, op{method: http.MethodPost, path: "/profiles", action: access.ProfileManage, summary: "Import a profile as the next version of its name", everywhere: true, status: http.StatusCreated}, a.importProfile)
	add(a, op{method: http.MethodGet, path: "/labels", action: access.ProfileRead, summary: "List EST labels"}, a.listLabels)
	add(a, op{method: http.MethodPut, path: "/labels/{name}", action: access.ProfileManage, summary: "Say what an EST label means", everywhere: true}, a.setLabel)
}

func showVersion(v *authority.ProfileVersion) Profile {
	return Profile{Name: v.Name, Version: v.Version, Digest: hex.EncodeToString(v.Digest[:]), Author: v.Author, ImportedAt: v.ImportedAt}
}

func (a *API) listProfiles(ctx context.Context, _ *access.Caller, _ *nothing) (*list[Profile], error) {
	plane, err := a.cfg.Authority.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	var items []Profile
	for _, road := range plane.Roads() {
		p := showVersion(&road.Version)
		if p.Usable = road.Err() == nil; !p.Usable {
			p.Problem = fault.Of(road.Err()).Error()
		}
		items = append(items, p)
	}
	return newList(items, ""), nil
}

func (a *API) showProfile(ctx context.Context, _ *access.Caller, in *NamePath) (*list[Profile], error) {
	versions, err := a.cfg.Authority.ProfileVersions(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	items := make([]Profile, len(versions))
	for i := range versions {
		items[i] = showVersion(&versions[i])
		items[i].Text = string(versions[i].Text)
	}
	return newList(items, ""), nil
}

func (a *API) importProfile(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Text string `json:"text" minLength:"1" maxLength:"65536" doc:"YAML"`
	}
},
) (*one[Profile], error) {
	v, err := a.cfg.Authority.ImportProfile(ctx, c.Name, []byte(in.Body.Text))
	if err != nil {
		return nil, err
	}
	return &one[Profile]{showVersion(&v)}, nil
}

func (a *API) listLabels(ctx context.Context, _ *access.Caller, _ *nothing) (*list[Label], error) {
	plane, err := a.cfg.Authority.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	var items []Label
	for _, l := range plane.Labels() {
		items = append(items, Label(l))
	}
	return newList(items, ""), nil
}

func (a *API) setLabel(ctx context.Context, c *access.Caller, in *struct {
	Name string `path:"name" maxLength:"64"`
	one[Label]
},
) (*one[Label], error) {
	if in.Body.Name != in.Name {
		return nil, fault.New(fault.ParameterInvalid, "the name in the body is another than in the path")
	}
	if err := a.cfg.Authority.SetLabel(ctx, c.Name, authority.Label(in.Body)); err != nil {
		return nil, err
	}
	return &one[Label]{in.Body}, nil
}

func decodeRequest(text string) ([]byte, error) { return request.Decode([]byte(text)) }
