package shares

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
)

func ids(t *rapid.T) (id ID) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), idSize, idSize).Draw(t, "ceremony"))
	return id
}

// drawn makes a split with everything drawn, its coefficients too.
func drawn(t *rapid.T) ([]byte, []Share) {
	count := rapid.IntRange(2, 12).Draw(t, "count")
	threshold := rapid.IntRange(2, count).Draw(t, "threshold")
	secret := rapid.SliceOfN(rapid.Byte(), 1, 48).Draw(t, "secret")
	all, err := Split(secret, ids(t), threshold, count, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return secret, all
}

func TestAnyThresholdOfSharesRestoreTheSecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret, all := drawn(t)
		some := rapid.Permutation(all).Draw(t, "order")
		some = some[:rapid.IntRange(all[0].Threshold, len(all)).Draw(t, "given")]
		for i := range some {
			parsed, err := Parse(some[i].Text())
			if err != nil {
				t.Fatal(err)
			}
			some[i] = parsed
		}
		got, err := Join(some)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("Join = %x, %v, want %x", got, err, secret)
		}
	})
}

func TestFewerSharesAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, all := drawn(t)
		some := rapid.Permutation(all).Draw(t, "order")
		some = some[:rapid.IntRange(0, all[0].Threshold-1).Draw(t, "given")]
		if _, err := Join(some); !fault.Has(err, fault.SharesTooFew) {
			t.Fatalf("Join = %v, want SharesTooFew", err)
		}
	})
}

// TestFewerSharesGiveNothing shows it by algebra: whatever M-1 custodians hold,
// for every secret there is exactly one share of a further custodian with which
// theirs give that secret. So no secret is likelier than another.
func TestFewerSharesGiveNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(2, 6).Draw(t, "count")
		threshold := rapid.IntRange(2, count).Draw(t, "threshold")
		all, err := Split([]byte{rapid.Byte().Draw(t, "secret")}, ID{}, threshold, count, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		held := rapid.Permutation(all).Draw(t, "order")[:threshold]
		missing := &held[threshold-1]
		missing.value = slices.Clone(missing.value)
		var reached [256]int
		for v := range 256 {
			missing.value[0] = byte(v)
			reached[interpolate(held, 0)[0]]++
		}
		for secret, n := range reached {
			if n != 1 {
				t.Fatalf("secret %d is reached by %d values of the missing share", secret, n)
			}
		}
	})
}

// TestOneShareSaysNothing counts: over all coefficients, each value of a share
// comes as often as each other, whatever the secret. The reader goes through all
// coefficients of a polynomial of degree 1.
func TestOneShareSaysNothing(t *testing.T) {
	for _, secret := range []byte{0, 1, 0x53, 0xff} {
		for index := 1; index <= 255; index += 37 {
			var seen [256]bool
			for c := range 256 {
				coefficients := bytes.Repeat([]byte{byte(c)}, 1+digestSize)
				all, err := Split([]byte{secret}, ID{}, 2, 255, bytes.NewReader(coefficients))
				if err != nil {
					t.Fatal(err)
				}
				seen[all[index-1].value[0]] = true
			}
			if slices.Contains(seen[:], false) {
				t.Fatalf("share %d of secret %d does not take every value", index, secret)
			}
		}
	}
}

// TestTheDigestIsSplitToo: a share in the clear holds no digest of the secret
// that would let one custodian try secrets.
func TestTheDigestIsSplitToo(t *testing.T) {
	secret := []byte("0123456789")
	all, err := Split(secret, ID{1}, 2, 3, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if bytes.Contains(all[i].bytes(), digest(ID{1}, secret)) || bytes.Contains(all[i].bytes(), secret) {
			t.Errorf("share %d holds the secret or its digest", i+1)
		}
	}
}

func TestEveryChangedCharacterIsNoticed(t *testing.T) {
	all, err := Split([]byte("a passphrase of a root key"), ID{1, 2, 3}, 3, 5, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := all[0].Text()
	for i := range len(text) - 1 {
		for bit := range 8 {
			changed := slices.Clone(text)
			changed[i] ^= 1 << bit
			if strings.EqualFold(string(changed), string(text)) || strings.TrimSpace(string(changed[i:i+1])) == "" {
				continue // case and spaces do not matter, but a space in place of a letter does
			}
			if _, err := Parse(changed); !fault.Has(err, fault.ShareInvalid) {
				t.Fatalf("octet %d, bit %d: %v, want ShareInvalid", i, bit, err)
			}
		}
		if _, err := Parse(slices.Delete(slices.Clone(text), i, i+1)); !fault.Has(err, fault.ShareInvalid) {
			t.Fatalf("without octet %d: %v, want ShareInvalid", i, err)
		}
	}
}

// TestAForgedShareIsNoticed: a custodian who knows how to make the checksum
// fit still cannot make the shares agree on another secret unnoticed.
func TestAForgedShareIsNoticed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, all := drawn(t)
		some := rapid.Permutation(all).Draw(t, "order")
		some = some[:rapid.IntRange(all[0].Threshold, len(all)).Draw(t, "given")]
		forged := &some[rapid.IntRange(0, len(some)-1).Draw(t, "forger")]
		forged.value = slices.Clone(forged.value)
		at := rapid.IntRange(0, len(forged.value)-1).Draw(t, "at")
		forged.value[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "change"))
		if _, err := Join(some); !fault.Has(err, fault.ShareInvalid) {
			t.Fatalf("Join = %v, want ShareInvalid", err)
		}
	})
}

func TestSharesThatDoNotBelongTogetherAreRefused(t *testing.T) {
	split := func(id ID, threshold, count int, secret string) []Share {
		all, err := Split([]byte(secret), id, threshold, count, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	ours := split(ID{1}, 2, 3, "the secret")
	for name, given := range map[string][]Share{
		"twice":             {ours[0], ours[0]},
		"twice and another": {ours[0], ours[1], ours[0]},
		"another ceremony":  {ours[0], split(ID{2}, 2, 3, "the secret")[1]},
		"another split":     {ours[0], split(ID{1}, 2, 3, "the secret")[1]},
		"another threshold": {ours[0], split(ID{1}, 3, 3, "the secret")[1]},
		"another count":     {ours[0], split(ID{1}, 2, 4, "the secret")[1]},
		"another length":    {ours[0], split(ID{1}, 2, 3, "secrets")[1]},
		"empty":             {{}, {}},
		"index 0":           {ours[0], {Ceremony: ID{1}, Threshold: 2, Count: 3, Index: 0, value: ours[1].value}},
	} {
		if _, err := Join(given); !fault.Has(err, fault.ShareInvalid) {
			t.Errorf("%s: %v, want ShareInvalid", name, err)
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, c := range []struct{ threshold, count, size int }{{1, 3, 8}, {0, 0, 8}, {4, 3, 8}, {2, 256, 8}, {2, 3, 0}, {2, 3, MaxSecret + 1}} {
		if _, err := Split(make([]byte, c.size), ID{}, c.threshold, c.count, rand.Reader); err == nil {
			t.Errorf("%d of %d, %d octets: no error", c.threshold, c.count, c.size)
		}
	}
	if _, err := Split([]byte("secret"), ID{}, 2, 3, bytes.NewReader(make([]byte, 13))); err == nil {
		t.Error("randomness ran out and nobody noticed")
	}
}

func TestAShareIsTypedInFromPaper(t *testing.T) {
	all, err := Split([]byte("a passphrase"), ID{7}, 2, 2, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToUpper(string(all[1].Text()))
	var typed strings.Builder
	for i, r := range text {
		if i%4 == 0 {
			typed.WriteString(" ")
		}
		if i%32 == 0 {
			typed.WriteString("\r\n")
		}
		typed.WriteRune(r)
	}
	got, err := Parse([]byte(typed.String()))
	if err != nil || got.Commitment() != all[1].Commitment() || got.Commitment() == all[0].Commitment() {
		t.Errorf("Parse = %v, %v", got, err)
	}
}

func TestAShareIsNotPrinted(t *testing.T) {
	all, err := Split([]byte("a passphrase"), ID{7}, 2, 2, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, all[0]) + fmt.Sprintf(verb, &all[0]); strings.ReplaceAll(got, hidden, "") != "" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if text, err := json.Marshal(all); err == nil {
		t.Errorf("JSON has %s", text)
	}
	all[0].Erase()
	if slices.ContainsFunc(all[0].value, func(b byte) bool { return b != 0 }) {
		t.Error("Erase left something")
	}
}

func FuzzParse(f *testing.F) {
	all, err := Split([]byte("a passphrase"), ID{7}, 2, 2, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(all[0].Text())
	f.Add([]byte(prefix))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			if !fault.Has(err, fault.ShareInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := Parse(s.Text())
		if err != nil || again.Commitment() != s.Commitment() {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}
