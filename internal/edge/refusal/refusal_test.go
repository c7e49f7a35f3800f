package refusal_test

import (
	"errors"
	"testing"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/fault"
)

func TestRefusalsOfEachFormAreRead(t *testing.T) {
	for name, text := range map[string]string{
		"item":    `{"id":"1","ok":false,"code":"BM-9034","kind":"forbidden","message":"old words","detail":"AK\u001b[2J","remedy":"x"}`,
		"problem": `{"type":"urn:birthmark:problem:forbidden","title":"old words","status":403,"code":"BM-9034","detail":"AK\u001b[2J"}`,
	} {
		w, ok := refusal.Read([]byte(text))
		if !ok {
			t.Fatal(name)
		}
		f := w.Fault(fault.AgentLink)
		if f.Code != fault.ActivationWrong || f.Kind != fault.Forbidden || f.Message == "old words" || f.Detail != "AK[2J" {
			t.Errorf("%s: %+v", name, f)
		}
	}
	w, ok := refusal.ReadLine(fault.New(fault.SecretWrong, "for SN1").Error() + "\nask for another\n")
	if !ok {
		t.Fatal("a line is not read")
	}
	if f := w.Fault(fault.AgentLink); f.Code != fault.SecretWrong || f.Detail != "for SN1" {
		t.Errorf("%+v", f)
	}
}

func TestCodesOfANewerServerKeepItsWords(t *testing.T) {
	w, ok := refusal.Read([]byte(`{"type":"urn:birthmark:problem:limit-reached","title":"too many moons","code":"BM-64999","remedy":"wait"}`))
	if !ok {
		t.Fatal("not read")
	}
	f := w.Fault(fault.AgentLink)
	if f.Code != 64999 || f.Kind != fault.Exhausted || f.Message != "too many moons" || f.Remedy != "wait" {
		t.Errorf("%+v", f)
	}
	var err error = f
	if !errors.Is(err, f) {
		t.Error("not an error")
	}
}

func TestWhatIsNoRefusalIsNotRead(t *testing.T) {
	for _, text := range []string{"", "{}", "<html>", `{"code":7}`} {
		if w, ok := refusal.Read([]byte(text)); ok {
			t.Errorf("%q: %+v", text, w)
		}
	}
	if _, ok := refusal.ReadLine("no"); ok {
		t.Error("a line without a code")
	}
	for _, code := range []string{"", "BM-", "BM-0", "BM-70000", "XX-1"} {
		w := refusal.Words{Code: code}
		if f := w.Fault(fault.AgentLink); f.Code != fault.AgentLink {
			t.Errorf("%q: %v", code, f)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"code":"BM-9034","type":"a:b"}`), "BM-2001: x\ny")
	f.Fuzz(func(_ *testing.T, text []byte, line string) {
		if w, ok := refusal.Read(text); ok {
			_ = w.Fault(fault.AgentLink)
		}
		if w, ok := refusal.ReadLine(line); ok {
			_ = w.Fault(fault.AgentLink)
		}
	})
}
