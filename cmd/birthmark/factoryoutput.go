package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/birthmark/birthmark/internal/fault"
)

// number writes a count with its thousands apart.
func number(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// percent writes a share between 0 and 1. It never rounds up to a whole that is
// not one.
func percent(share float64) string {
	if share < 1 && share > 0.9999 {
		return "99.99 %"
	}
	return strconv.FormatFloat(100*share, 'f', 2, 64) + " %"
}

// share writes how much of a whole a part is.
func share(part, whole int64) string {
	if whole <= 0 {
		return "0 %"
	}
	return strconv.FormatInt(100*min(part, whole)/whole, 10) + " %"
}

// bar draws how much of a whole a part is.
func bar(part, whole int64) string {
	const width = 30
	full := 0
	if whole > 0 {
		full = int(width * min(part, whole) / whole)
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "]"
}

// moment is day of a time that may not have come.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return day(*t)
}

// rightAligned moves the values of some columns to the right, as numbers are
// read.
func rightAligned(header []string, rows [][]string, columns ...int) ([]string, [][]string) {
	all := [][]string{slices.Clone(header)}
	for _, row := range rows {
		all = append(all, slices.Clone(row))
	}
	for _, c := range columns {
		width := 0
		for _, row := range all {
			width = max(width, utf8.RuneCountInString(row[c]))
		}
		for _, row := range all {
			row[c] = strings.Repeat(" ", width-utf8.RuneCountInString(row[c])) + row[c]
		}
	}
	return all[0], all[1:]
}

// printNumbers is printTable with some columns to the right.
func printNumbers(w io.Writer, header []string, rows [][]string, columns ...int) error {
	header, rows = rightAligned(header, rows, columns...)
	return printTable(w, header, rows)
}

// printFields writes names and values in two columns, without what is empty.
func printFields(w io.Writer, fields [][2]string) error {
	fields = slices.DeleteFunc(slices.Clone(fields), func(f [2]string) bool { return f[1] == "" })
	width := 0
	for _, f := range fields {
		width = max(width, len(f[0]))
	}
	for _, f := range fields {
		if _, err := fmt.Fprintf(w, "  %-*s  %s\n", width, f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

// inParts hands named values, or the lines of a file, to do, so many at a time.
func inParts(io *streams, named []string, file string, most int, do func(part []string) error) error {
	all := slices.Clone(named)
	if file != "" {
		text, err := fileText(io, file)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			if s := strings.TrimSpace(lines.Text()); s != "" && !strings.HasPrefix(s, "#") {
				all = append(all, s)
			}
		}
		if err := lines.Err(); err != nil {
			return fault.Wrap(fault.ParameterInvalid, err, file, "cannot be read")
		}
	}
	if len(all) == 0 {
		return fault.New(fault.ParameterInvalid, "nothing is named")
	}
	for part := range slices.Chunk(all, most) {
		if err := do(part); err != nil {
			return err
		}
	}
	return nil
}
