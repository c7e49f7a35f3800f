// Package attest is what hardware can prove, in one table: each kind of evidence
// with the claims it can support, and the levels that a profile or product may
// demand. Whether a piece of evidence holds is for the packages below to say, one
// for each kind; package enroll asks them, adds up what was proven and compares it
// with what is demanded.
//
// The package also keeps what such judgments rest on: which TPM makers are
// trusted (signed, versioned bundles of roots with a deny list) and which firmware
// states a product accepts (policies). Both are control plane: a change ends what
// was decided before it.
package attest

import (
	"fmt"
	"slices"
	"strings"
)

// Claims is a set of what evidence proves. Numbers are stored.
type Claims uint8

// The claims.
const (
	KeyInChip Claims = 1 << iota // the private key was made in the chip and cannot leave it
	Genuine                      // the chip's maker vouches for the chip
	Listed                       // the chip is in a manifest that was imported for us
	Firmware                     // the device runs a released firmware state
	Fresh                        // it was proven for this very request, under a nonce of ours
)

var claimNames = []struct {
	claim Claims
	name  string
	words string
}{
	{KeyInChip, "key-in-chip", "the key was made in the chip and cannot leave it"},
	{Genuine, "genuine", "the chip's maker vouches for the chip"},
	{Listed, "listed", "the chip is in an imported manifest"},
	{Firmware, "firmware", "the device runs a released firmware state"},
	{Fresh, "fresh", "it was proven for this very request"},
}

// String returns the claims' names with a space between.
func (c Claims) String() string { return strings.Join(c.Names(), " ") }

// Names returns the names of the claims.
func (c Claims) Names() []string {
	var names []string
	for _, n := range claimNames {
		if c&n.claim != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// Words says in words what the claims mean, one sentence part each.
func (c Claims) Words() []string {
	var words []string
	for _, n := range claimNames {
		if c&n.claim != 0 {
			words = append(words, n.words)
		}
	}
	return words
}

// Kind is a kind of evidence.
type Kind string

// The kinds. Their names are stored.
const (
	None       Kind = "none"   // the requester's word: a secret or a certificate
	ChipListed Kind = "listed" // the chip's number is in a manifest, but it proved nothing
	ChipProof  Kind = "chip"   // a key that a manifest lists signed our nonce
	TPM        Kind = "tpm"    // credential activation and TPM2_Certify
)

// Row is a kind of evidence and what it can prove.
type Row struct {
	Kind     Kind
	Always   Claims // what evidence of this kind proves when it holds at all
	Possible Claims // what it may prove besides
	Words    string
}

// Table returns all kinds of evidence.
func Table() []Row { return slices.Clone(table) }

var table = []Row{
	{None, 0, 0, "nothing of the hardware: the requester showed a secret or a certificate"},
	{ChipListed, Listed, 0, "the chip's number is in an imported manifest; the chip itself proved nothing"},
	{ChipProof, Listed | Fresh, KeyInChip | Genuine, "a key that the chip maker lists signed this request; the key is in the chip where the listed key itself is certified"},
	{TPM, KeyInChip | Fresh, Genuine | Listed | Firmware, "the TPM opened our challenge and certified the key; its maker vouches for it, or its endorsement key is listed"},
}

// RowOf returns the row of a kind.
func RowOf(k Kind) (Row, bool) {
	i := slices.IndexFunc(table, func(r Row) bool { return r.Kind == k })
	if i < 0 {
		return Row{}, false
	}
	return table[i], true
}

// Level is a named set of claims that a profile or product may demand.
type Level struct {
	Name   string
	Claims Claims
}

// levels are the names that leastEvidence takes, weakest first.
var levels = []Level{
	{"none", 0},
	{"listed", Listed},
	{"chip", Listed | Fresh},
	{"tpm", KeyInChip | Fresh}, // genuine or listed, as evidence of a TPM always is
	{"tpm-genuine", KeyInChip | Genuine | Fresh},
	{"tpm-listed", KeyInChip | Genuine | Listed | Fresh},
	{"tpm-firmware", KeyInChip | Genuine | Firmware | Fresh},
}

// Levels returns all levels.
func Levels() []Level { return slices.Clone(levels) }

// Least returns the claims that a level demands; the empty name demands none.
func Least(name string) (Claims, error) {
	if name == "" {
		return 0, nil
	}
	i := slices.IndexFunc(levels, func(l Level) bool { return l.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("attest: there is no level of evidence %q", name)
	}
	return levels[i].Claims, nil
}

// Missing returns the claims that are demanded and not proven.
func Missing(demanded, proven Claims) Claims { return demanded &^ proven }
