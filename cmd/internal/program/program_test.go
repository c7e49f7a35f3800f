package program

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/birthmark/birthmark/internal/fault"
)

type grammar struct {
	Do doCmd `cmd:"" help:"Do it."`
}

type doCmd struct {
	How string `arg:"" help:"Outcome."`
}

// Run fails as it is told.
func (c *doCmd) Run(ctx context.Context, results map[string]error) error {
	if ctx == nil {
		return errors.New("no context")
	}
	return results[c.How]
}

func TestExitCodesAndWords(t *testing.T) {
	results := map[string]error{
		"silent": ErrSilent, "plain": errors.New("the disk is full"),
		"fault": fault.Wrap(fault.TPMFailed, errors.New("the cause"), "TPM2_Create"), "usage": fault.New(fault.ParameterInvalid, "no name"),
	}
	for _, row := range []struct {
		args []string
		who  bool
		code int
		says []string
	}{
		{args: []string{"do", "well"}, code: ExitDone},
		{args: []string{"do", "silent"}, code: ExitRefused},
		{args: []string{"do", "plain"}, code: ExitRefused, says: []string{"tool: the disk is full\n"}},
		{args: []string{"do", "fault"}, code: ExitRefused, says: []string{"tool: the TPM refused a command: TPM2_Create (BM-9081)\n", "cause: the cause"}},
		{args: []string{"do", "fault"}, who: true, code: ExitRefused, says: []string{"  who: "}},
		{args: []string{"do", "usage"}, code: ExitRefused, says: []string{"no name"}},
		{args: []string{"do", "usage"}, who: true, code: ExitUsage, says: []string{"no name"}},
		{args: []string{"undo"}, code: ExitUsage, says: []string{"Try tool --help."}},
		{args: []string{"--help"}, code: ExitDone},
	} {
		var out, errs bytes.Buffer
		p := Program{Name: "tool", Description: "For this test.", Grammar: new(grammar), Bind: []any{results}, Out: &out, Err: &errs, Who: row.who}
		if code := p.Run(t.Context(), row.args); code != row.code {
			t.Errorf("%v: exit %d, want %d", row.args, code, row.code)
		}
		for _, words := range row.says {
			if !strings.Contains(errs.String(), words) {
				t.Errorf("%v: says %q, lacks %q", row.args, errs.String(), words)
			}
		}
		if len(row.says) == 0 && errs.Len() > 0 {
			t.Errorf("%v: says %q, wants nothing", row.args, errs.String())
		}
		if (row.args[0] == "--help") != strings.Contains(out.String(), "For this test.") {
			t.Errorf("%v: prints %q", row.args, out.String())
		}
	}
}

func TestTablesAndLines(t *testing.T) {
	var out bytes.Buffer
	if err := PrintTable(&out, []string{"A", "LONGER"}, [][]string{{"first", "x"}, {"2", ""}}); err != nil {
		t.Fatal(err)
	}
	if err := PrintLine(&out, map[string]string{"a": "<&>"}); err != nil {
		t.Fatal(err)
	}
	if err := PrintJSON(&out, []int{1}); err != nil {
		t.Fatal(err)
	}
	if err := (Build{Version: "v1", Go: "go", System: "s"}).Print(&out, "tool"); err != nil {
		t.Fatal(err)
	}
	want := "A      LONGER\nfirst  x\n2\n{\"a\":\"<&>\"}\n[\n  1\n]\ntool v1 (go, s)\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if b := ThisBuild("v2"); b.Version != "v2" || b.Go == "" || b.System == "" {
		t.Errorf("%+v", b)
	}
}

// What an error quotes from somebody's file says nothing to the terminal.
func TestErrorsAreNoCommands(t *testing.T) {
	var said bytes.Buffer
	p := Program{Name: "x", Err: &said}
	p.report(fault.Wrap(fault.ParameterInvalid, errors.New("cause \x1b[31m"), "the file \x1b[2J\u202egnp.exe\r\u009b"))
	p.report(errors.New("plain \x07 error"))
	if strings.ContainsFunc(said.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("%q", said.String())
	}
}

func TestACellIsACell(t *testing.T) {
	var out bytes.Buffer
	if err := PrintTable(&out, []string{"NAME", "STATE"}, [][]string{{"CN=a\x1b[2K\nroot\tactive", "retired"}}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 2 || strings.ContainsAny(got, "\x1b\t") {
		t.Errorf("%q", got)
	}
}
