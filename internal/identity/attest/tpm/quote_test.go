package tpm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
)

var measured = []int{0, 4, 7}

// boot starts the bench's device: it measures some firmware.
func (b *bench) boot(build string) {
	b.chip.Reset()
	for _, pcr := range measured {
		b.chip.Extend(pcr, fmt.Appendf(nil, "%s of %d", build, pcr))
		b.chip.Extend(pcr, []byte("separator"))
	}
	b.chip.RestartCount = 2
}

func policyOf(tb testing.TB, f attest.PolicyFile) *tpm.Policy {
	tb.Helper()
	content, err := json.Marshal(f)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := tpm.ParsePolicy(content)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// released is the policy that accepts the state that the device is in.
func (b *bench) released(pcrs ...int) attest.PolicyFile {
	s := attest.State{Name: "release 1.2", PCRs: map[int]string{}}
	for pcr, value := range b.chip.Values(wire.AlgSHA256, pcrs...) {
		s.PCRs[pcr] = hex.EncodeToString(value)
	}
	return attest.PolicyFile{Bank: "sha256", States: []attest.State{s}, EventLog: true}
}

func (b *bench) quoted(q *wire.Quote, p *tpm.Policy) (*tpm.Quotation, error) {
	ak, err := tpm.ParseAK(b.ak.Public())
	if err != nil {
		return nil, err
	}
	return ak.Quoted(q, b.nonce, p)
}

// withQuote is a quote of a released build, signed after the first edit and tampered
// with by the second. Either may be nil.
func withQuote(code fault.Code, name string, signed func(*tpmtest.Attest), sent func(*wire.Quote)) hostile {
	return hostile{code, name, func(t *testing.T, b *bench) error {
		b.boot("1.2")
		p := policyOf(t, b.released(measured...))
		var edits []func(*tpmtest.Attest)
		if signed != nil {
			edits = append(edits, signed)
		}
		q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured, edits...)
		if sent != nil {
			sent(q)
		}
		_, err := b.quoted(q, p)
		return err
	}}
}

// withRegisters is an honest quote of other registers than the policy's 0, 4, 7 of
// the bank SHA-256.
func withRegisters(name string, bank wire.Alg, pcrs ...int) hostile {
	return hostile{fault.QuoteSelection, name, func(t *testing.T, b *bench) error {
		b.boot("1.2")
		_, err := b.quoted(b.chip.Quote(b.ak, b.nonce, bank, pcrs), policyOf(t, b.released(measured...)))
		return err
	}}
}

func quoteCases() []hostile {
	return slices.Concat([]hostile{
		{fault.QuoteMissing, "no quote", func(t *testing.T, b *bench) error {
			_, err := b.quoted(nil, policyOf(t, b.released(measured...)))
			return err
		}},
		withQuote(fault.QuoteInvalid, "no magic", func(a *tpmtest.Attest) { a.Magic = 0 }, nil),
		withQuote(fault.QuoteInvalid, "a certified key in place of a quote", func(a *tpmtest.Attest) { a.Type = wire.TypeCertify }, nil),
		withQuote(fault.QuoteInvalid, "another nonce", func(a *tpmtest.Attest) { a.ExtraData = make([]byte, 32) }, nil),
		withQuote(fault.QuoteInvalid, "no nonce", func(a *tpmtest.Attest) { a.ExtraData = nil }, nil),
		{fault.QuoteInvalid, "an AK of another TPM", func(t *testing.T, b *bench) error {
			b.boot("1.2")
			other := tpmtest.New(t, b.maker, tpmtest.Options{})
			q := b.chip.Quote(other.NewAK(wire.ECP256), b.nonce, wire.AlgSHA256, measured)
			_, err := b.quoted(q, policyOf(t, b.released(measured...)))
			return err
		}},
		withRegisters("another bank", wire.AlgSHA384, measured...),
		withRegisters("a register is missing", wire.AlgSHA256, 0, 4),
		withRegisters("a register too many", wire.AlgSHA256, 0, 4, 7, 8),
		withRegisters("other registers", wire.AlgSHA256, 0, 4, 8),
		withRegisters("no register", wire.AlgSHA256),
		withQuote(fault.QuoteSelection, "no selection at all", func(a *tpmtest.Attest) { a.Selections = nil }, nil),
		withQuote(fault.QuoteSelection, "two selections", func(a *tpmtest.Attest) {
			a.Selections = append(a.Selections, wire.Selection{Bank: wire.AlgSHA384, PCRs: []int{0}})
		}, nil),
		withQuote(fault.QuoteSelection, "a value is missing", nil, func(q *wire.Quote) { delete(q.PCRs, 7) }),
		withQuote(fault.QuoteSelection, "a value too many", nil, func(q *wire.Quote) { q.PCRs[8] = make([]byte, 32) }),
		withQuote(fault.QuoteSelection, "the value of another register", nil, func(q *wire.Quote) {
			q.PCRs[8] = q.PCRs[7]
			delete(q.PCRs, 7)
		}),
		{fault.QuoteSelection, "a register that was not quoted has a released value", func(t *testing.T, b *bench) error {
			b.boot("1.2")
			p := policyOf(t, b.released(measured...))
			value := b.chip.Values(wire.AlgSHA256, 7)[7]
			b.chip.Extend(7, []byte("secure boot is off"))
			q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, []int{0, 4})
			q.PCRs[7] = value
			_, err := b.quoted(q, p)
			return err
		}},
		{fault.QuoteSelection, "another bank has the values", func(t *testing.T, b *bench) error {
			b.boot("1.2")
			p := policyOf(t, b.released(measured...))
			q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured, func(a *tpmtest.Attest) { a.Selections[0].Bank = wire.AlgSHA384 })
			_, err := b.quoted(q, p)
			return err
		}},
		withQuote(fault.QuoteDigest, "values of another state", nil, func(q *wire.Quote) { q.PCRs[7] = make([]byte, 32) }),
		withQuote(fault.QuoteDigest, "values in another order", nil, func(q *wire.Quote) { q.PCRs[0], q.PCRs[4] = q.PCRs[4], q.PCRs[0] }),
		withQuote(fault.QuoteDigest, "values cut differently", nil, func(q *wire.Quote) {
			q.PCRs[0], q.PCRs[4] = append(slices.Clone(q.PCRs[0]), q.PCRs[4][0]), q.PCRs[4][1:]
		}),
		withQuote(fault.QuoteDigest, "another digest", func(a *tpmtest.Attest) { a.Digest = make([]byte, 32) }, nil),
		{fault.QuoteState, "another build", func(t *testing.T, b *bench) error {
			b.boot("1.2")
			p := policyOf(t, b.released(measured...))
			b.boot("1.3-rc1")
			_, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured), p)
			return err
		}},
		{fault.QuoteState, "half of one state and half of another", func(t *testing.T, b *bench) error {
			b.boot("1.2")
			f := b.released(measured...)
			b.boot("1.3")
			f.States = append(f.States, b.released(measured...).States[0])
			f.States[1].Name = "release 1.3"
			b.chip.Reset()
			for pcr, build := range map[int]string{0: "1.2", 4: "1.3", 7: "1.3"} {
				b.chip.Extend(pcr, fmt.Appendf(nil, "%s of %d", build, pcr))
				b.chip.Extend(pcr, []byte("separator"))
			}
			_, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured), policyOf(t, f))
			return err
		}},
	}, oldCases(), logCases())
}

// oldCases are attestations of a TPM that had been further once.
func oldCases() []hostile {
	old := func(name string, hierarchy uint32, back func(*bench)) hostile {
		return hostile{fault.QuoteOld, name, func(t *testing.T, b *bench) error {
			b.boot("1.2")
			b.ak.Parent = hierarchy
			state := func() *tpm.Counters {
				q, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured), policyOf(t, b.released(measured...)))
				if err != nil {
					t.Fatal(err)
				}
				return &q.Counters
			}
			x := b.found(t)
			before := state().State(x, 0)
			back(b)
			return tpm.CheckCounters(*before, *state().State(x, 0))
		}}
	}
	return []hostile{
		old("from before the last reset", tpmtest.Endorsement, func(b *bench) { b.chip.ResetCount-- }),
		old("from before the last restart", tpmtest.Endorsement, func(b *bench) { b.chip.RestartCount--; b.chip.Clock += 1000 }),
		old("from before the last reset, by another AK", tpmtest.Endorsement, func(b *bench) {
			b.chip.ResetCount--
			b.chip.Clock += 1000
			b.ak = b.chip.NewAK(wire.ECP256)
			b.ak.Parent = tpmtest.Endorsement
		}),
		old("from before the last reset, masked, by the same AK", tpmtest.Owner, func(b *bench) { b.chip.ResetCount--; b.chip.Clock += 1000 }),
		old("an older clock", tpmtest.Endorsement, func(b *bench) { b.chip.Clock -= 700_000 }),
		old("an older clock, masked, by another AK", tpmtest.Owner, func(b *bench) { b.chip.Clock -= 700_000; b.ak = b.chip.NewAK(wire.ECP256) }),
		old("a TPM that was cleared", tpmtest.Endorsement, func(b *bench) { b.chip.Clear() }),
		old("a TPM that was cleared, another AK", tpmtest.Owner, func(b *bench) { b.chip.Clear(); b.ak = b.chip.NewAK(wire.ECP256) }),
	}
}

func logCases() []hostile {
	// withLog is a quote with another log.
	withLog := func(code fault.Code, name string, edit func(*tpmtest.TPM)) hostile {
		return hostile{code, name, func(t *testing.T, b *bench) error {
			b.boot("1.2")
			p := policyOf(t, b.released(measured...))
			q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
			edit(b.chip)
			q.EventLog = b.chip.Log.Bytes()
			_, err := b.quoted(q, p)
			return err
		}}
	}
	return []hostile{
		withQuote(fault.EventLogInvalid, "the log is none", nil, func(q *wire.Quote) { q.EventLog = []byte("log") }),
		withQuote(fault.EventLogInvalid, "an octet behind the log", nil, func(q *wire.Quote) { q.EventLog = append(q.EventLog, 0) }),
		withQuote(fault.EventLogInvalid, "the log ends early", nil, func(q *wire.Quote) { q.EventLog = q.EventLog[:len(q.EventLog)-1] }),
		withQuote(fault.EventLogMismatch, "no log", nil, func(q *wire.Quote) { q.EventLog = nil }),
		withLog(fault.EventLogMismatch, "an event is missing", func(c *tpmtest.TPM) { c.Log.Events = c.Log.Events[:len(c.Log.Events)-1] }),
		withLog(fault.EventLogMismatch, "an event too many", func(c *tpmtest.TPM) { c.Log.Events = append(c.Log.Events, c.Log.Events[0]) }),
		withLog(fault.EventLogMismatch, "events in another order", func(c *tpmtest.TPM) {
			c.Log.Events[0], c.Log.Events[1] = c.Log.Events[1], c.Log.Events[0]
		}),
		withLog(fault.EventLogMismatch, "an event with another digest", func(c *tpmtest.TPM) {
			e := &c.Log.Events[0]
			e.Digests = maps.Clone(e.Digests)
			e.Digests[wire.AlgSHA256] = make([]byte, 32)
		}),
		withLog(fault.EventLogMismatch, "no events", func(c *tpmtest.TPM) { c.Log.Events = nil }),
		{fault.EventLogMismatch, "untouched registers, and a log of another bank", func(t *testing.T, b *bench) error {
			b.chip.Log.Banks = []wire.Alg{wire.AlgSHA384}
			_, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured), policyOf(t, b.released(measured...)))
			return err
		}},
		withLog(fault.EventLogMismatch, "a log of another bank", func(c *tpmtest.TPM) {
			c.Log.Banks = []wire.Alg{wire.AlgSHA384}
			for i := range c.Log.Events {
				d := maps.Clone(c.Log.Events[i].Digests)
				delete(d, wire.AlgSHA256)
				c.Log.Events[i].Digests = d
			}
		}),
	}
}

// TestQuoted: a released build passes and is told by its name; texts of the log that
// nobody measured change nothing.
func TestQuoted(t *testing.T) {
	for _, kind := range []wire.KeyKind{wire.ECP256, wire.ECP384, wire.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			b := newBench(t)
			b.ak = b.chip.NewAK(kind)
			b.boot("1.1")
			f := b.released(measured...)
			f.States[0].Name = "release 1.1"
			b.boot("1.2")
			f.States = append(f.States, b.released(0, 4).States[0])
			q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
			got, err := b.quoted(q, policyOf(t, f))
			if err != nil || got.State != "release 1.2" {
				t.Fatalf("%+v, %v", got, err)
			}
			b.chip.Log.Events[0].Data = []byte("a text that nobody measured")
			q.EventLog = b.chip.Log.Bytes()
			if _, err := b.quoted(q, policyOf(t, f)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestQuoteWithoutLog: where the policy demands no log, none is looked at.
func TestQuoteWithoutLog(t *testing.T) {
	b := newBench(t)
	b.boot("1.2")
	f := b.released(measured...)
	f.EventLog = false
	q := b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, measured)
	for _, log := range [][]byte{nil, []byte("log"), q.EventLog} {
		q.EventLog = log
		if _, err := b.quoted(q, policyOf(t, f)); err != nil {
			t.Error(err)
		}
	}
}

// TestUntouchedRegisters: a log need not name registers into which nothing went.
func TestUntouchedRegisters(t *testing.T) {
	b := newBench(t)
	b.boot("1.2")
	ones := make([]byte, sha256.Size)
	for i := range ones {
		ones[i] = 0xFF
	}
	b.chip.PCRs[wire.AlgSHA256][17] = ones
	pcrs := []int{0, 4, 7, 9, 17, 23}
	p := policyOf(t, b.released(pcrs...))
	if _, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, pcrs), p); err != nil {
		t.Error(err)
	}
	b.chip.PCRs[wire.AlgSHA256][9] = ones
	_, err := b.quoted(b.chip.Quote(b.ak, b.nonce, wire.AlgSHA256, pcrs), policyOf(t, b.released(pcrs...)))
	refusedWith(t, err, fault.EventLogMismatch)
}

// TestPolicyRequest: the device is asked for all registers that any state names.
func TestPolicyRequest(t *testing.T) {
	zeros := hex.EncodeToString(make([]byte, 48))
	p := policyOf(t, attest.PolicyFile{Bank: "sha384", States: []attest.State{
		{Name: "a", PCRs: map[int]string{7: zeros, 0: zeros}}, {Name: "b", PCRs: map[int]string{4: zeros}},
	}})
	r := p.Request()
	if r.Bank != "sha384" || !slices.Equal(r.PCRs, []int{0, 4, 7}) {
		t.Errorf("%+v", r)
	}
	r.PCRs[0] = 23
	if again := p.Request(); again.PCRs[0] != 0 {
		t.Error("a request changes the policy")
	}
}

// TestCountersGoOn: what an honest TPM shows over its life is never refused.
func TestCountersGoOn(t *testing.T) {
	b := newBench(t)
	x := b.found(t)
	second := b.chip.NewAK(wire.ECP384)
	second.Parent = tpmtest.Endorsement
	third := b.chip.NewAK(wire.RSA2048)
	third.Parent = tpmtest.Endorsement
	show := func(ak *tpmtest.Key) *tpm.Counters {
		b.ak = ak
		c, err := b.certified(b.answer(t))
		if err != nil {
			t.Fatal(err)
		}
		return &c.Counters
	}
	first := b.ak
	last := *show(first).State(x, 0)
	steps := map[string]func(){
		"nothing":          func() {},
		"a reset":          func() { b.chip.ResetCount++; b.chip.RestartCount = 0 },
		"a restart":        func() { b.chip.RestartCount++ },
		"power went":       func() { b.chip.ResetCount++; b.chip.Clock -= 100; b.chip.Unsafe = true },
		"the clock caught": func() { b.chip.Clock += 1 << 22; b.chip.Unsafe = false },
	}
	for _, name := range []string{"nothing", "a reset", "a restart", "nothing", "power went", "nothing", "the clock caught", "a reset"} {
		steps[name]()
		for _, ak := range []*tpmtest.Key{first, second, third, first} {
			next := *show(ak).State(x, 0)
			if err := tpm.CheckCounters(last, next); err != nil {
				t.Errorf("after %s: %v\n%+v\n%+v", name, err, last, next)
			}
			last = next
		}
	}
}

// TestClockAcrossKeys: between AKs that mask the counts only the clock tells, and it
// may fall back a little after power was lost. What was made a moment sooner may be
// stored later.
func TestClockAcrossKeys(t *testing.T) {
	const clock, update, flight = 1 << 30, 1 << 22, 600_000
	before := device.TPMState{AK: [32]byte{1}, ResetCount: 900, Clock: clock, Safe: true}
	for _, c := range []struct {
		clock uint64
		safe  bool
		back  bool
	}{
		{clock + 1, true, false},
		{clock, true, false},
		{clock - flight, true, false}, // two answers at once: the later was stored first
		{clock - flight - 1, true, true},
		{clock - flight - 1, false, false},
		{clock - update, false, false},
		{clock - update - 1, false, true},
	} {
		after := device.TPMState{AK: [32]byte{2}, ResetCount: 5, Clock: c.clock, Safe: c.safe}
		if got := after.WentBack(before); got != c.back {
			t.Errorf("%+v went back: %v", c, got)
		}
		if got := fault.Has(tpm.CheckCounters(before, after), fault.QuoteOld); got != c.back {
			t.Errorf("%+v is old: %v", c, got)
		}
	}
	unknown := device.TPMState{ResetCount: 5, Clock: clock + 1, Safe: true}
	if (device.TPMState{ResetCount: 4, Clock: clock + 2, Safe: true}).WentBack(unknown) {
		t.Error("two unknown AKs are taken for one")
	}
}

// TestMaskedCountsGoRound: a mask is added to the counts, so that they may begin
// anew at zero in the life of a device.
func TestMaskedCountsGoRound(t *testing.T) {
	const last = 1<<32 - 1
	for _, c := range []struct {
		name          string
		plain         bool
		before, after uint32 // resets
		restarts      [2]uint32
		back          bool
	}{
		{"masked resets go on", false, last, 0, [2]uint32{7, 3}, false},
		{"masked resets go back", false, 0, last, [2]uint32{3, 7}, true},
		{"masked restarts go on", false, 5, 5, [2]uint32{last, 1}, false},
		{"masked restarts go back", false, 5, 5, [2]uint32{1, last}, true},
		{"plain resets began anew", true, last, 0, [2]uint32{}, true},
	} {
		before := device.TPMState{AK: [32]byte{1}, Plain: c.plain, ResetCount: c.before, RestartCount: c.restarts[0], Clock: 1, Safe: true}
		after := device.TPMState{AK: [32]byte{1}, Plain: c.plain, ResetCount: c.after, RestartCount: c.restarts[1], Clock: 2, Safe: true}
		if got := after.WentBack(before); got != c.back {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
