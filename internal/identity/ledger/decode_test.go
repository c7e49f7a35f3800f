package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var kinds = []Kind{
	AuthorityCreated, AuthorityImported, AuthorityRetired, AuthorityRevoked, ProfileImported,
	ProductAdded, ProductChanged, LabelSet, DeviceRegistered, DeviceChanged, SecretRenewed, DeviceDiscarded,
	SerialsLeased, SerialsClosed, CertificateIssued, CertificateUsed, CertificateRevoked,
	CertificateHeld, CertificateFreed, CRLSigned, TokenCreated, TokenRevoked, OperatorChanged,
	ApprovalRequested, ApprovalDecided, ApprovalExecuted, NodeStarted, ClockAccepted, BackupMade,
	BackupRestored, Installed, UnitIssued, UnitConfirmed, UnitScrapped, OrderChanged, AlarmRaised,
	EvidenceKept, EvidenceRefused, TPMReset, RootsImported, TPMPolicySet,
}

var awkward = []string{"", "plain", `"`, `\`, `\"`, "a\x00b", "\n\t\r\x1f", "\x7f", "Zürich", "\xff\xfe", "\u2028", "😀", `</script>`, `\u0041`}

func drawString(t *rapid.T, label string) string {
	return rapid.OneOf(rapid.SampledFrom(awkward), rapid.String()).Draw(t, label)
}

func drawDigest(t *rapid.T, label string) (d [32]byte) {
	copy(d[:], rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, label))
	return d
}

func drawTime(t *rapid.T, label string) time.Time {
	return time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, label), 0).UTC()
}

func drawBody(t *rapid.T, k Kind) Body {
	num := func(label string) int64 {
		return rapid.OneOf(rapid.Int64Range(-2, 2), rapid.Int64()).Draw(t, label)
	}
	id := func(label string) int64 { return rapid.Int64Range(1, math.MaxInt64).Draw(t, label) }
	octets := func(label string) []byte { return rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, label) }
	switch b := newBody(k).(type) {
	case *Issued:
		*b = Issued{
			Credential: num("credential"), CertSerial: octets("serial"), Authority: num("authority"), AuthorityName: drawString(t, "name"),
			Profile: num("profile"), ProfileName: drawString(t, "profile name"), ProfileVersion: num("version"), Kind: drawString(t, "kind"),
			Purpose: drawString(t, "purpose"), Device: id("device"), DeviceSerial: drawString(t, "device serial"), DeviceVersion: num("device version"),
			DeviceState: rapid.Uint8().Draw(t, "state"), Slot: drawString(t, "slot"), SecretSpent: rapid.Bool().Draw(t, "spent"),
			Supersedes: num("supersedes"), Product: num("product"), Site: num("site"), Owner: num("owner"), KeyKind: rapid.Uint8().Draw(t, "key kind"),
			NotBefore: drawTime(t, "before"), NotAfter: drawTime(t, "after"), SPKI: drawDigest(t, "spki"), DER: drawDigest(t, "der"),
			Idempotency: drawDigest(t, "idempotency"), Previous: num("previous"), Approval: num("approval"),
		}
		return b
	case *Confirmed:
		*b = Confirmed{Credential: num("credential"), Device: id("device")}
		return b
	case *Revoked:
		*b = Revoked{
			Credential: num("credential"), CertSerial: octets("serial"), Authority: num("authority"), Device: id("device"), Shard: int(num("shard")),
			Reason: int(num("reason")), RevokedAt: drawTime(t, "at"), NotAfter: drawTime(t, "after"), Approval: num("approval"),
		}
		return b
	case *Released:
		*b = Released{Credential: num("credential"), CertSerial: octets("serial"), Authority: num("authority"), Device: id("device")}
		return b
	case *SignedCRL:
		*b = SignedCRL{
			Authority: num("authority"), Shard: int(num("shard")), Number: num("number"), ThisUpdate: drawTime(t, "this"),
			NextUpdate: drawTime(t, "next"), Entries: int(num("entries")), DER: drawDigest(t, "der"),
		}
		return b
	case *Registered:
		*b = Registered{
			Device: id("device"), DeviceSerial: drawString(t, "serial"), Product: num("product"), Version: num("version"), State: rapid.Uint8().Draw(t, "state"),
			Site: num("site"), Owner: num("owner"), Region: drawString(t, "region"), Labels: drawDigest(t, "labels"), Secret: drawDigest(t, "secret"),
		}
		return b
	case *Changed:
		*b = Changed{
			Device: id("device"), Version: num("version"), State: rapid.Uint8().Draw(t, "state"), Site: num("site"), Owner: num("owner"),
			Region: drawString(t, "region"), Labels: drawDigest(t, "labels"), Secret: drawDigest(t, "secret"), SecretSPKI: drawDigest(t, "spki"),
		}
		if rapid.Bool().Draw(t, "spent") {
			b.SecretSpent = drawTime(t, "spent at")
		}
		return b
	case *Discarded:
		*b = Discarded{Device: id("device")}
		return b
	case *Leased:
		*b = Leased{Fence: num("fence"), Node: drawString(t, "node"), First: num("first"), Count: num("count"), Seed: drawDigest(t, "seed")}
		return b
	case *Closed:
		*b = Closed{First: num("first"), Count: num("count"), Node: drawString(t, "node")}
		for range rapid.IntRange(0, 3).Draw(t, "ranges") {
			b.Abandoned = append(b.Abandoned, [2]int64{num("from"), num("to")})
		}
		return b
	case *IssuedUnit:
		*b = IssuedUnit{
			Credential: num("credential"), Order: num("order"), Device: id("device"), Station: num("station"), Chip: id("chip"),
			Spare: rapid.Bool().Draw(t, "spare"), Replaces: num("replaces"), Reference: drawString(t, "reference"), Evidence: drawString(t, "evidence"),
			NonceBlock: num("block"), NonceIndex: num("index"), ConfirmNonce: drawDigest(t, "nonce"),
		}
		return b
	case *ConfirmedUnit:
		*b = ConfirmedUnit{
			Credential: num("credential"), Order: num("order"), Device: id("device"), Station: num("station"),
			FirstPass: rapid.Bool().Draw(t, "first"), CycleTime: num("cycle"),
		}
		return b
	case *EndedUnit:
		*b = EndedUnit{
			Credential: num("credential"), Order: num("order"), Device: id("device"), Station: num("station"),
			State: rapid.Uint8().Draw(t, "state"), DeviceState: rapid.Uint8().Draw(t, "device state"), Reason: drawDigest(t, "reason"),
		}
		return b
	}
	return drawEvidence(t, newBody(k))
}

func drawEvidence(t *rapid.T, body fields) Body {
	id := func(label string) int64 { return rapid.Int64Range(1, math.MaxInt64).Draw(t, label) }
	switch b := body.(type) {
	case *KeptEvidence:
		*b = KeptEvidence{
			Credential: rapid.Int64().Draw(t, "credential"), Device: id("device"), Kind: drawString(t, "kind"), Claims: rapid.Uint8().Draw(t, "claims"),
			Digest: drawDigest(t, "digest"), EK: drawDigest(t, "ek"), AK: drawDigest(t, "ak"), Chip: id("chip"),
			Plain: rapid.Bool().Draw(t, "plain"), Safe: rapid.Bool().Draw(t, "safe"),
			ResetCount: rapid.Uint32().Draw(t, "reset"), RestartCount: rapid.Uint32().Draw(t, "restart"), Clock: rapid.Uint64().Draw(t, "clock"),
			Firmware: rapid.Uint64().Draw(t, "firmware"), Vendor: drawString(t, "vendor"), Model: drawString(t, "model"),
		}
		return b
	case *RefusedEvidence:
		*b = RefusedEvidence{
			Code: drawString(t, "code"), Device: id("device"), DeviceSerial: drawString(t, "device serial"), Order: rapid.Int64().Draw(t, "order"),
			Station: rapid.Int64().Draw(t, "station"), EK: drawDigest(t, "ek"), Detail: drawString(t, "detail"),
		}
		return b
	case *ResetTPM:
		*b = ResetTPM{Device: id("device"), Reason: drawDigest(t, "reason")}
		return b
	}
	return JSON(map[string]string{drawString(t, "key"): drawString(t, "value")})
}

func TestDecodeReadsWhatEncodeWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := Entry{
			Kind:  rapid.SampledFrom(kinds).Draw(t, "kind"),
			At:    time.UnixMicro(rapid.Int64Range(0, 253402300799_000000).Draw(t, "at")).UTC(),
			Actor: rapid.SampledFrom([]string{"", "system", "device:00ff", "token:7", "local:eve", "operator:Zoë", "device:\"\x00"}).Draw(t, "actor"),
		}
		e.Body = drawBody(t, e.Kind)
		leaf, beside, err := e.Encode(nil, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(leaf) {
			t.Fatalf("not JSON: %s", leaf)
		}
		p, err := Decode(leaf)
		if err != nil {
			t.Fatalf("%v\n%s", err, leaf)
		}
		if again := appendLeaf(nil, &p); !bytes.Equal(again, leaf) {
			t.Fatalf("encoded again:\n%s\n%s", again, leaf)
		}
		if p.Kind != e.Kind || !p.At.Equal(e.At) {
			t.Fatalf("kind and time are %s %s", p.Kind, p.At)
		}
		if personal(e.Actor) {
			if bytes.Contains(leaf, []byte(e.Actor)) || beside == nil || p.Commitment != beside.Commitment() {
				t.Fatalf("the person shows, or the commitment does not hold: %s", leaf)
			}
		} else if beside != nil {
			t.Fatal("something is kept beside an entry without person")
		}
	})
}

func TestDecodeGivesTheBodyBack(t *testing.T) {
	at := time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.UTC)
	for _, b := range exampleBodies() {
		t.Run(fmt.Sprintf("%T", b.Body), func(t *testing.T) {
			e := Entry{Kind: b.Kind, At: at, Actor: "system", Body: b.Body}
			leaf, _, err := e.Encode(nil, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Decode(leaf)
			if err != nil {
				t.Fatalf("%v\n%s", err, leaf)
			}
			if diff := cmp.Diff(b.Body, p.Body); diff != "" {
				t.Error(diff)
			}
			if p.Actor != "system" || !p.At.Equal(at) {
				t.Errorf("actor %q at %s", p.Actor, p.At)
			}
		})
	}
}

// exampleBodies returns one entry of each typed body with no field at zero.
func exampleBodies() []Entry {
	day := func(n int) time.Time { return time.Date(2026, 1, n, 1, 2, 3, 0, time.UTC) }
	d := func(b byte) [32]byte { return [32]byte{b, 31: b} }
	return []Entry{
		{Kind: CertificateIssued, Body: &Issued{
			Credential: 1, CertSerial: []byte{0x40, 2}, Authority: 3, AuthorityName: "issuing", Profile: 4, ProfileName: "idevid", ProfileVersion: 5,
			Kind: "ldevid", Purpose: "cloud", Device: 6, DeviceSerial: "SN\"1", DeviceVersion: 7, DeviceState: 4, Slot: "ldevid/cloud", SecretSpent: true,
			Supersedes: 8, Product: 9, Site: 10, Owner: 11, KeyKind: 1, NotBefore: day(1), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
			SPKI: d(1), DER: d(2), Idempotency: d(3), Previous: 12, Approval: 13,
		}},
		{Kind: CertificateUsed, Body: &Confirmed{Credential: 1, Device: 2}},
		{Kind: CertificateRevoked, Body: &Revoked{Credential: 1, CertSerial: []byte{1}, Authority: 2, Device: 3, Shard: 4, Reason: 5, RevokedAt: day(2), NotAfter: day(3), Approval: 6}},
		{Kind: CertificateFreed, Body: &Released{Credential: 1, CertSerial: []byte{1}, Authority: 2, Device: 3, Approval: 4}},
		{Kind: CRLSigned, Body: &SignedCRL{Authority: 1, Shard: 2, Number: 1<<32 + 7, ThisUpdate: day(4), NextUpdate: day(5), Entries: 6, DER: d(4)}},
		{Kind: DeviceRegistered, Body: &Registered{Device: 1, DeviceSerial: "A", Product: 2, Version: 3, State: 1, Site: 4, Owner: 5, Region: "eu", Labels: d(5), Secret: d(6)}},
		{Kind: DeviceChanged, Body: &Changed{Device: 1, Version: 2, State: 3, Site: 4, Owner: 5, Region: "us", Labels: d(7), Secret: d(8), SecretSpent: day(6), SecretSPKI: d(9)}},
		{Kind: DeviceDiscarded, Body: &Discarded{Device: 9}},
		{Kind: SerialsLeased, Body: &Leased{Fence: 2, Node: "n", First: 3, Count: 4, Seed: d(10)}},
		{Kind: SerialsClosed, Body: &Closed{First: 1, Count: 90, Node: "n", Abandoned: [][2]int64{{2, 4}, {10, 10}}}},
		{Kind: EvidenceKept, Body: &KeptEvidence{
			Credential: 1, Device: 2, Kind: "tpm", Claims: 255, Digest: d(11), EK: d(12), AK: d(13), Plain: true, Safe: true, Chip: 3, ResetCount: math.MaxUint32, RestartCount: 4,
			Clock: math.MaxUint64, Firmware: 1 << 63, Vendor: "id:494E5443", Model: "SLB 9672",
		}},
		{Kind: EvidenceRefused, Body: &RefusedEvidence{Code: "BM-9042", Device: 1, DeviceSerial: "SN-1", Order: 2, Station: 3, EK: d(14), Detail: "AK \"x\""}},
		{Kind: TPMReset, Body: &ResetTPM{Device: 1, Reason: d(15)}},
	}
}

func TestDecodeRefusesWhatEncodeDoesNotWrite(t *testing.T) {
	confirmed := Entry{Kind: CertificateUsed, At: time.Unix(1e9, 0), Actor: "system", Body: &Confirmed{Credential: 12, Device: 0xff}}
	leased := Entry{Kind: SerialsLeased, At: time.Unix(1e9, 0), Actor: "system", Body: &Leased{Node: "n", Fence: 3, First: 12, Count: 4}}
	closed := Entry{Kind: SerialsClosed, At: time.Unix(1e9, 0), Actor: "system", Body: &Closed{Node: "n", Abandoned: [][2]int64{{1, 2}, {4, 5}}}}
	registered := Entry{Kind: DeviceRegistered, At: time.Unix(1e9, 0), Actor: "system", Body: &Registered{Device: 1, Region: "eu", Labels: [32]byte(bytes.Repeat([]byte{7}, 32))}}
	revoked := Entry{Kind: CertificateRevoked, At: time.Unix(1e9, 0), Actor: "system", Body: &Revoked{CertSerial: []byte{0xab}, Approval: 7}}
	for _, c := range []struct {
		name     string
		entry    Entry
		from, to string
	}{
		{"truncated", leased, `"}}`, `"}`},
		{"trailing bytes", leased, `"}}`, `"}} `},
		{"space", leased, `,"at"`, `, "at"`},
		{"other order", leased, `"fence":3,"first":12`, `"first":12,"fence":3`},
		{"field twice", leased, `"fence":3`, `"fence":3,"fence":3`},
		{"unknown field", confirmed, `"credential":12`, `"credential":12,"more":1`},
		{"unknown field at the end", confirmed, `ff"}`, `ff","more":1}`},
		{"required field absent", confirmed, `"credential":12,`, ``},
		{"zero that is omitted", revoked, `"approval":7`, `"approval":0`},
		{"device zero", confirmed, `00000000000000ff`, `0000000000000000`},
		{"device negative", confirmed, `00000000000000ff`, `f0000000000000ff`},
		{"device as number", confirmed, `"00000000000000ff"`, `255`},
		{"leading zero", leased, `"first":12`, `"first":012`},
		{"minus zero", leased, `"first":12`, `"first":-0`},
		{"plus", leased, `"first":12`, `"first":+12`},
		{"fraction", leased, `"first":12`, `"first":12.0`},
		{"too large", leased, `"first":12`, `"first":9223372036854775808`},
		{"no number", leased, `"first":12`, `"first":`},
		{"needless escape", leased, `"node":"n"`, `"node":"\u006e"`},
		{"control character", leased, `"node":"n"`, "\"node\":\"\n\""},
		{"escape and control character", leased, `"node":"n"`, "\"node\":\"\\\\\n\""},
		{"not UTF-8", leased, `"node":"n"`, "\"node\":\"\xff\""},
		{"open string", leased, `"node":"n"`, `"node":"n\"`},
		{"upper-case hex", revoked, `"serial":"ab"`, `"serial":"AB"`},
		{"half an octet", revoked, `"serial":"ab"`, `"serial":"abc"`},
		{"no hex", revoked, `"serial":"ab"`, `"serial":"xy"`},
		{"day that is none", leased, `2001-09-09`, `2001-09-31`},
		{"time without micros", leased, `.000000Z`, `Z`},
		{"hour that is none", leased, `T01:`, `T24:`},
		{"actor absent", leased, `"actor":"system",`, ``},
		{"body no object", leased, `"body":{`, `"body":[`},
		{"a second body", leased, `"}}`, `"},"z":{}}`},
		{"zero digest that is omitted", registered, strings.Repeat("07", 32), strings.Repeat("00", 32)},
		{"empty string that is omitted", registered, `"region":"eu"`, `"region":""`},
		{"range of one", closed, `[4,5]`, `[4]`},
		{"range open", closed, `[4,5]]`, `[4,5]`},
		{"ranges with comma", closed, `[4,5]]`, `[4,5],]`},
		{"ranges without comma", closed, `],[`, `][`},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf, _, err := c.entry.Encode(nil, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Decode(leaf); err != nil {
				t.Fatalf("the good one: %v\n%s", err, leaf)
			}
			bad := bytes.Replace(leaf, []byte(c.from), []byte(c.to), 1)
			if bytes.Equal(bad, leaf) {
				t.Fatalf("%q is not in %s", c.from, leaf)
			}
			if p, err := Decode(bad); err == nil {
				t.Errorf("%s was read as %+v", bad, p)
			}
		})
	}
	if _, err := Decode(nil); err == nil {
		t.Error("nothing was read")
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range exampleBodies() {
		e.At, e.Actor = time.Unix(1e9, 0), "operator:eve"
		leaf, _, err := e.Encode(nil, rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(leaf)
	}
	e := Entry{Kind: TokenRevoked, At: time.Unix(1e9, 0), Actor: "token:1", Body: JSON(struct{ ID int }{1})}
	leaf, _, _ := e.Encode(nil, rand.Reader)
	f.Add(leaf)
	f.Fuzz(func(t *testing.T, leaf []byte) {
		p, err := Decode(leaf)
		if err != nil {
			return
		}
		if !json.Valid(leaf) {
			t.Errorf("accepted what is not JSON: %q", leaf)
		}
		if again := appendLeaf(nil, &p); !bytes.Equal(again, leaf) {
			t.Errorf("encoded again:\n%q\n%q", again, leaf)
		}
	})
}

func TestEachYieldsOnlyTheClassesAskedFor(t *testing.T) {
	var b Batch
	b.First = 40
	for _, e := range exampleBodies() {
		e.At, e.Actor = time.Unix(1e9, 0), "system"
		leaf, _, err := e.Encode(nil, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b.Leaves = append(b.Leaves, leaf)
	}
	newer := bytes.Replace(b.Leaves[2], []byte(`"shard":4`), []byte(`"place":4`), 1)
	b.Leaves = append(b.Leaves, newer, nil, []byte("junk"))
	var got []string
	for i, p := range b.Each(ClassStatus) {
		got = append(got, fmt.Sprintf("%d %s %T", i, p.Kind, p.Body))
	}
	want := []string{
		"42 certificate.revoked *ledger.Revoked", "43 certificate.released *ledger.Released", "44 crl.signed *ledger.SignedCRL",
		"53 certificate.revoked ledger.Raw", "55  <nil>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKindHasAClass(t *testing.T) {
	for _, k := range kinds {
		if ClassOf(k) == ^Class(0) {
			t.Errorf("%s has no class of its own", k)
		}
	}
	if ClassOf("later.kind") != ^Class(0) {
		t.Error("a kind of a newer version must concern every follower")
	}
}

func TestLabelsDigestTellsLabelsApart(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, l := range []map[string]string{nil, {"a": "b"}, {"a": "b", "c": "d"}, {"a": "bcd"}, {"ab": ""}, {"": "ab"}, {"a": `"b`}} {
		d := LabelsDigest(l)
		if other, ok := seen[d]; ok {
			t.Errorf("%v and %s have one digest", l, other)
		}
		seen[d] = fmt.Sprint(l)
	}
	if LabelsDigest(map[string]string{}) != [32]byte{} {
		t.Error("no labels must be the zero digest")
	}
}

func BenchmarkEncodeIssued(b *testing.B) {
	e := exampleBodies()[0]
	e.At, e.Actor = time.Unix(1e9, 0), "device:0000000000000006"
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _, _ = e.Encode(buf[:0], rand.Reader)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeIssued(b *testing.B) {
	e := exampleBodies()[0]
	e.At, e.Actor = time.Unix(1e9, 0), "device:0000000000000006"
	leaf, _, _ := e.Encode(nil, rand.Reader)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(leaf); err != nil {
			b.Fatal(err)
		}
	}
}
