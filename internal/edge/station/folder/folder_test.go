package folder_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/folder"
	"github.com/birthmark/birthmark/internal/fault"
)

// answerCalls is the fixture's side: it answers each call until ctx ends.
func answerCalls(ctx context.Context, t *testing.T, dir string, answer func(*fixture.Call) any) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	done := map[string]bool{}
	for {
		calls, err := filepath.Glob(filepath.Join(dir, "*.call.json"))
		if err != nil {
			t.Error(err)
		}
		for _, one := range calls {
			text, err := os.ReadFile(one)
			if err != nil || done[one] {
				continue
			}
			done[one] = true
			var c fixture.Call
			if err := json.Unmarshal(text, &c); err != nil {
				t.Errorf("a call that is not whole: %q", text)
			}
			out, err := json.Marshal(answer(&c))
			if err != nil {
				t.Error(err)
			}
			if err := durable.WriteFile(strings.Replace(one, ".call.", ".answer.", 1), out); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func TestStepsTravelAsFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "n1.0001.answer.json"), []byte("stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := folder.New(folder.Config{Dir: dir, StepTime: 10 * time.Second, Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.Open(t.Context(), fixture.Job{Nest: "n1", KeyModel: "on-device"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		answerCalls(ctx, t, dir, func(c *fixture.Call) any {
			switch c.Step {
			case fixture.StepIdentify:
				return fixture.Answer{Number: c.Number, OK: true, DeviceSerial: "SN1", Chip: "c1"}
			case fixture.StepRequest:
				return fixture.Answer{Number: c.Number, OK: true, CSR: []byte("csr of " + c.DeviceSerial)}
			}
			return fixture.Answer{Number: c.Number, Error: "lamp is off"}
		})
	}()
	id, err := u.Identify(t.Context())
	if err != nil || id.DeviceSerial != "SN1" || id.ChipUID != "c1" {
		t.Errorf("%+v, %v", id, err)
	}
	if csr, err := u.Request(t.Context()); err != nil || string(csr) != "csr of SN1" {
		t.Errorf("%q, %v", csr, err)
	}
	if err := u.Install(t.Context(), fixture.Credential{}); !fault.Has(err, fault.FixtureFailed) || !strings.Contains(err.Error(), "lamp is off") {
		t.Errorf("%v", err)
	}
	cancel()
	<-ended
	if err := u.Close(true); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "n1.0004.call.json" {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSilentFixtureFails(t *testing.T) {
	a, err := folder.New(folder.Config{Dir: t.TempDir(), StepTime: 10 * time.Millisecond, Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.Open(t.Context(), fixture.Job{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Identify(t.Context()); !fault.Has(err, fault.FixtureFailed) {
		t.Errorf("%v", err)
	}
	if _, err := a.Open(t.Context(), fixture.Job{Nest: "../x"}); err == nil {
		t.Error("a nest outside of the folder was taken")
	}
}
