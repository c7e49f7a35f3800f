package main

import (
	"io"
	"log/slog"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/web/server"
)

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error { return program.PrintJSON(w, v) }

// printTable writes rows in aligned columns under a header.
func printTable(w io.Writer, header []string, rows [][]string) error {
	return program.PrintTable(w, header, rows)
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
