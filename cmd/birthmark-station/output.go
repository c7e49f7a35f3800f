package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/birthmark/birthmark/internal/edge/station"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printLine writes v as one line of JSON, for streams of them.
func printLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// printTable writes rows in aligned columns under a header.
func printTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		if _, err := io.WriteString(t, strings.TrimRight(strings.Join(row, "\t"), "\t")+"\n"); err != nil {
			return err
		}
	}
	return t.Flush()
}

// outcomeLine is the one line about a unit.
func outcomeLine(o *station.Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-6s %s", o.Result, orDash(o.DeviceSerial))
	if o.Nest != "" {
		fmt.Fprintf(&b, " [%s]", o.Nest)
	}
	if o.Result != station.Fail {
		fmt.Fprintf(&b, " %v", (time.Duration(o.CycleMillis) * time.Millisecond).Round(time.Millisecond))
		if o.Message != "" {
			fmt.Fprintf(&b, "; %s", o.Message)
		}
		if o.Replayed {
			b.WriteString("; it had this certificate already")
		}
		return b.String()
	}
	fmt.Fprintf(&b, " %s %s", o.Code, o.Message)
	if o.Detail != "" {
		fmt.Fprintf(&b, ": %s", o.Detail)
	}
	fmt.Fprintf(&b, " | do: %s | who: %s", o.Remedy, o.Who)
	if o.Scrapped {
		b.WriteString(" | scrapped")
	}
	return b.String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
