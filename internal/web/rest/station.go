package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Station is a station as the API shows it.
type Station struct {
	Name          string     `json:"name"`
	Site          string     `json:"site"`
	State         string     `json:"state" enum:"active,suspended,retired"`
	Code          string     `json:"one_time_code" enum:"none,ready,spent,expired"`
	CodeExpiresAt *time.Time `json:"code_expires_at,omitempty"`
	Certificate   string     `json:"certificate,omitempty" doc:"Serial of its certificate; absent until it enrolled"`
	NotAfter      *time.Time `json:"certificate_not_after,omitempty"`
	CreatedAt     time.Time  `json:"created_at"`
	ChangedAt     time.Time  `json:"changed_at"`
}

// StationWithCode is a station with the code that its computer enrolls with.
type StationWithCode struct {
	Station
	Code string `json:"code" doc:"One-time code; shown once"`
}

func (a *API) stations() {
	add(a, op{method: http.MethodGet, path: "/stations", action: access.FactoryRead, summary: "List stations"}, a.listStations)
	add(a, op{method: http.MethodPost, path: "/stations", action: access.StationManage, summary: "Add a station; its one-time code is shown once", status: http.StatusCreated}, a.addStation)
	add(a, op{method: http.MethodGet, path: "/stations/{name}", action: access.FactoryRead, summary: "Show a station"}, a.showStation)
	add(a, op{method: http.MethodPost, path: "/stations/{name}/code", action: access.StationManage, summary: "Make a new one-time code, for a new or replaced computer"}, a.renewStationCode)
	add(a, op{method: http.MethodPost, path: "/stations/{name}/suspension", action: access.StationManage, summary: "Keep a station from doing anything until it is resumed"}, a.moveStation((*factory.Service).SuspendStation))
	add(a, op{method: http.MethodPost, path: "/stations/{name}/resumption", action: access.StationManage, summary: "End a suspension"}, a.moveStation((*factory.Service).ResumeStation))
	add(a, op{method: http.MethodPost, path: "/stations/{name}/retirement", action: access.StationManage, summary: "End a station for good"}, a.moveStation((*factory.Service).RetireStation))
}

// Reason says why, in words.
type Reason struct {
	Reason string `json:"reason,omitempty" maxLength:"500"`
}

// station shows a row; its certificate is looked up, since people know
// certificates by their serials.
func (a *API) station(ctx context.Context, names *factory.Names, s *factory.Station) (Station, error) {
	out := Station{
		Name: s.Name, Site: names.Site(s.Site), State: s.State.String(), Code: "none", CreatedAt: s.CreatedAt, ChangedAt: s.ChangedAt,
	}
	switch {
	case !s.Code.SpentAt.IsZero():
		out.Code = "spent"
	case !s.Code.ExpiresAt.IsZero():
		out.Code, out.CodeExpiresAt = "ready", &s.Code.ExpiresAt
		if !a.now().Before(s.Code.ExpiresAt) {
			out.Code = "expired"
		}
	}
	if s.Credential == 0 {
		return out, nil
	}
	// The caller sees the station, so also which certificate it has.
	credential, err := a.cfg.Devices.Credential(ctx, access.Everything(), s.Credential)
	if err != nil {
		return out, err
	}
	out.Certificate, out.NotAfter = hexSerial(credential.CertSerial), &credential.NotAfter
	return out, nil
}

func (a *API) answerStation(ctx context.Context, s *factory.Station, err error) (*one[Station], error) {
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.station(ctx, names, s)
	return &one[Station]{out}, err
}

func (a *API) answerCode(ctx context.Context, s *factory.Station, code string, err error) (*one[StationWithCode], error) {
	shown, err := a.answerStation(ctx, s, err)
	if err != nil {
		return nil, err
	}
	return &one[StationWithCode]{StationWithCode{Station: shown.Body, Code: code}}, nil
}

func (a *API) listStations(ctx context.Context, c *access.Caller, in *struct {
	Site string `query:"site" maxLength:"64"`
},
) (*list[Station], error) {
	rows, err := a.cfg.Factory.Stations(ctx, *c)
	if err != nil {
		return nil, err
	}
	names, err := a.cfg.Factory.Names(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]Station, 0, len(rows))
	for i := range rows {
		if in.Site != "" && names.Site(rows[i].Site) != in.Site {
			continue
		}
		shown, err := a.station(ctx, names, &rows[i])
		if err != nil {
			return nil, err
		}
		items = append(items, shown)
	}
	return newList(items, ""), nil
}

func (a *API) addStation(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Name string `json:"name" minLength:"1" maxLength:"64"`
		Site string `json:"site" minLength:"1" maxLength:"64"`
	}
},
) (*one[StationWithCode], error) {
	s, code, err := a.cfg.Factory.AddStation(ctx, *c, in.Body.Name, in.Body.Site)
	return a.answerCode(ctx, &s, code, err)
}

func (a *API) showStation(ctx context.Context, c *access.Caller, in *NamePath) (*one[Station], error) {
	s, err := a.cfg.Factory.Station(ctx, *c, in.Name)
	return a.answerStation(ctx, &s, err)
}

func (a *API) renewStationCode(ctx context.Context, c *access.Caller, in *NamePath) (*one[StationWithCode], error) {
	s, code, err := a.cfg.Factory.NewStationCode(ctx, *c, in.Name)
	return a.answerCode(ctx, &s, code, err)
}

// named is an act on an object that a path names, with a reason.
type named struct {
	NamePath
	Body Reason
}

// moving is an act that takes a station to another state.
type moving func(s *factory.Service, ctx context.Context, by access.Caller, name, reason string) (factory.Station, error)

func (a *API) moveStation(move moving) func(context.Context, *access.Caller, *named) (*one[Station], error) {
	return func(ctx context.Context, c *access.Caller, in *named) (*one[Station], error) {
		s, err := move(a.cfg.Factory, ctx, *c, in.Name, in.Body.Reason)
		return a.answerStation(ctx, &s, err)
	}
}
