package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/birthmark/birthmark/internal/web/server"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
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

// newLogger returns the program's logger; close writes what is left.
func newLogger(s *Settings, w io.Writer) (log *slog.Logger, closeLog func()) {
	var least slog.Level // info, unless the text, which the grammar has checked, says otherwise
	_ = least.UnmarshalText([]byte(s.LogLevel))
	out := server.NewLogWriter(w)
	options := &slog.HandlerOptions{Level: least}
	var h slog.Handler = slog.NewTextHandler(out, options)
	if s.LogFormat == "json" {
		h = slog.NewJSONHandler(out, options)
	}
	return slog.New(h), func() { _ = out.Close() }
}
