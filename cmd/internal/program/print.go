package program

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// IsTerminal reports whether a person reads what is written to f.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// PrintJSON writes v as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// PrintLine writes v as one line of JSON, for streams of them.
func PrintLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// PrintTable writes rows in aligned columns under a header. A name in a cell, of
// an authority made elsewhere for one, makes neither columns nor rows.
func PrintTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i := range row {
			cells[i] = strings.NewReplacer("\n", " ", "\t", " ").Replace(Plain(row[i]))
		}
		if _, err := io.WriteString(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")+"\n"); err != nil {
			return err
		}
	}
	return t.Flush()
}
