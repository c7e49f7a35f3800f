package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/station"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/edge/station/queue"
)

// stateFlags say where the station keeps itself.
type stateFlags struct {
	State      string `help:"State folder." default:"birthmark-station" env:"BIRTHMARK_STATION_STATE" type:"path"`
	QueueLimit int    `help:"How many confirmations and scraps may wait for the server." default:"100000" env:"BIRTHMARK_STATION_QUEUE_LIMIT"`
	JSON       bool   `help:"Print JSON."`
}

// office is an open station: its state, its link, its queue.
type office struct {
	home  *station.Home
	link  *link.Client
	queue *queue.Queue
}

func (f *stateFlags) open() (*office, error) {
	home, err := station.OpenHome(f.State)
	if err != nil {
		return nil, err
	}
	client, err := home.Connect()
	if err != nil {
		return nil, err
	}
	q, err := queue.Open(queue.Config{Dir: f.State, Limit: f.QueueLimit})
	if err != nil {
		return nil, err
	}
	return &office{home, client, q}, nil
}

func (o *office) close() {
	o.link.Close()
	o.queue.Close()
}

// renewEvery is how often a running station looks whether its certificate is to
// be renewed.
const renewEvery = time.Hour

// keepCertificate renews the station's certificate in time until ctx ends. What
// goes wrong is said and tried again: two thirds of its life are long before the
// end.
func (o *office) keepCertificate(ctx context.Context, io *streams) {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		if _, err := o.home.Renew(ctx, o.link, time.Now()); err != nil && ctx.Err() == nil {
			fmt.Fprintln(io.err, "birthmark-station: the station's certificate was not renewed:", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lineFlags say how patient a line is.
type lineFlags struct {
	adapterFlags `embed:""`

	Attempts  int           `help:"How often a unit is tried when device or fixture fail." default:"2"`
	AutoScrap bool          `help:"Scrap a unit whose last attempt failed after its certificate was issued."`
	Patience  time.Duration `help:"How long a unit waits for a server that does not answer." default:"10s"`
	LabelDir  string        `help:"Folder for the labels of units that passed, as SERIAL.svg." placeholder:"DIR" type:"path"`
}

func (f *lineFlags) line(o *office, ahead int) (*station.Line, fixture.Adapter, error) {
	adapter, err := f.adapterFlags.open()
	if err != nil {
		return nil, nil, err
	}
	l, err := station.New(station.Config{
		Link: o.link, Queue: o.queue, Adapter: adapter, Now: time.Now, Attempts: f.Attempts, Scrap: f.AutoScrap,
		Ahead: ahead, Patience: f.Patience,
	})
	return l, adapter, err
}

type enrollCmd struct {
	Server string `help:"The server's device listener." required:"" placeholder:"https://HOST:PORT"`
	Code   string `help:"The station's one-time code." required:"" env:"BIRTHMARK_STATION_CODE"`
	State  string `help:"State folder." default:"birthmark-station" env:"BIRTHMARK_STATION_STATE" type:"path"`
	Trust  string `help:"PEM file with the authorities to trust (birthmark authority bundle)." required:"" type:"existingfile"`
	JSON   bool   `help:"Print JSON."`
}

// Run enrolls.
func (c *enrollCmd) Run(ctx context.Context, io *streams) error {
	trust, err := os.ReadFile(c.Trust)
	if err != nil {
		return err
	}
	home, err := station.Enroll(ctx, station.Enrollment{Dir: c.State, Server: c.Server, Code: c.Code, Trust: trust})
	if err != nil {
		return err
	}
	s, leaf := home.Settings(), home.Credential().Leaf
	if c.JSON {
		return program.PrintJSON(io.out, map[string]any{"station": s.Station, "site": s.Site, "server": s.Server, "until": leaf.NotAfter})
	}
	fmt.Fprintf(io.out, "This is station %s of site %s; its certificate ends %s and renews itself.\n", s.Station, s.Site, leaf.NotAfter.Format(time.RFC3339))
	return nil
}
