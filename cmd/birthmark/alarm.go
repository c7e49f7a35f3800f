package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/birthmark/birthmark/internal/web/rest"
)

type alarmCmd struct {
	List        alarmListCmd        `cmd:"" help:"List alarms, newest first."`
	Show        alarmShowCmd        `cmd:"" help:"Show an alarm."`
	Acknowledge alarmAcknowledgeCmd `cmd:"" help:"Say that you look after an alarm."`
	Close       alarmCloseCmd       `cmd:"" help:"Close an alarm; if it happens again there is a new one."`
}

type alarmListCmd struct {
	remote `embed:""`
	State  string `help:"Only this state: raised, acknowledged, closed."`
	Kind   string `help:"Only this kind, for example chip-reused."`
	After  string `help:"Start after this cursor."`
	Limit  int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists alarms.
func (c *alarmListCmd) Run(ctx context.Context, io *streams) error {
	q := query("state", c.State, "kind", c.Kind, "after", c.After)
	header := []string{"ID", "STATE", "KIND", "TIMES", "LAST", "ORDER", "WHAT"}
	return listAll(ctx, &c.remote, io, "/alarms", q, c.Limit, header, func(a *rest.Alarm) []string {
		return []string{fmt.Sprint(a.ID), a.State, a.Kind, number(a.Count), day(a.LastAt), a.Order, a.Message}
	})
}

func alarmPath(id int64) string { return fmt.Sprint("/alarms/", id) }

type alarmShowCmd struct {
	remote `embed:""`
	ID     int64 `arg:"" help:"Number of the alarm."`
}

// Run shows an alarm.
func (c *alarmShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, alarmPath(c.ID), nil, func(a *rest.Alarm) error {
		fmt.Fprintf(io.out, "%d  %s  %s\n  %s\n", a.ID, a.Kind, a.State, a.Message)
		return printFields(io.out, [][2]string{
			{"times", number(a.Count)},
			{"first", day(a.RaisedAt)},
			{"last", day(a.LastAt)},
			{"order", a.Order},
			{"station", a.Station},
			{"product", a.Product},
			{"site", a.Site},
			{"looked after by", a.AcknowledgedBy},
			{"closed", moment(a.ClosedAt)},
		})
	})
}

func printAlarm(io *streams) func(*rest.Alarm) error {
	return func(a *rest.Alarm) error {
		fmt.Fprintf(io.out, "Alarm %d (%s) is %s.\n", a.ID, a.Kind, a.State)
		return nil
	}
}

type alarmAcknowledgeCmd struct {
	remote `embed:""`
	ID     int64 `arg:"" help:"Number of the alarm."`
}

// Run acknowledges an alarm.
func (c *alarmAcknowledgeCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, alarmPath(c.ID)+"/acknowledgement", nil, printAlarm(io))
}

type alarmCloseCmd struct {
	remote `embed:""`
	ID     int64  `arg:"" help:"Number of the alarm."`
	Reason string `help:"What was found."`
}

// Run closes an alarm.
func (c *alarmCloseCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, alarmPath(c.ID)+"/closing", rest.Reason{Reason: c.Reason}, printAlarm(io))
}
