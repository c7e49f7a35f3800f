package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// RecordRow is a row of the control plane: an authority, a profile version, a
// product and so on. Fields are those of its row that entries about it name,
// under the names that entries use.
type RecordRow struct {
	Noun string
	Key  string // what the row is known by
	// Number is the row's number, by which other rows name it: its place among
	// those of its noun, from 1. 0 where rows have none.
	Number int64
	Fields map[string]any
}

// subject says which record the entries of a kind are about: each holds all of
// the record that it names, as it is after the act.
type subject struct {
	noun string
	key  []string // fields whose values, joined, are the key
}

var subjects = map[Kind]subject{
	AuthorityCreated:  {"authority", []string{"name"}},
	AuthorityImported: {"authority", []string{"name"}},
	AuthorityRetired:  {"authority", []string{"name"}},
	AuthorityRevoked:  {"authority", []string{"name"}},
	ProfileImported:   {"profile version", []string{"name", "digest"}},
	ProductAdded:      {"product", []string{"name"}},
	ProductChanged:    {"product", []string{"name"}},
	LabelSet:          {"label", []string{"name"}},
	TokenCreated:      {"token", []string{"sha256"}},
	TokenRevoked:      {"token", []string{"sha256"}},
	SiteAdded:         {"site", []string{"name"}},
	StationAdded:      {"station", []string{"name"}},
	StationChanged:    {"station", []string{"name"}},
	OrderCreated:      {"order", []string{"number"}},
	OrderChanged:      {"order", []string{"number"}},
	SignerPinned:      {"manifest signer", []string{"fingerprint"}},
	SignerWithdrawn:   {"manifest signer", []string{"fingerprint"}},
	ManifestImported:  {"manifest", []string{"sha256"}},
	RootsImported:     {"TPM makers' roots", []string{"name", "sha256"}},
	TPMPolicySet:      {"TPM policy of product", []string{"product", "version"}},
}

type recordKey struct{ noun, key string }

// recordState is the newest entry about a record.
type recordState struct {
	leaf   int64
	number int64 // its place among those of its noun
	body   map[string]any
	seen   bool
}

// frozen is the field of orders that restoring a backup sets too.
const frozen = "frozen"

// record keeps what an entry says of a record.
func (r *register) record(at int64, kind Kind, body Raw) error {
	if kind == BackupRestored {
		r.restored = at
	}
	s, ok := subjects[kind]
	if !ok || r.pass != 0 {
		return nil
	}
	fields := map[string]any{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return broken("its body is no object")
	}
	parts := make([]string, len(s.key))
	for i, name := range s.key {
		switch v := fields[name].(type) {
		case string:
			parts[i] = v
		case json.Number:
			parts[i] = v.String()
		}
		if parts[i] == "" {
			return broken("it does not say which %s it is about", s.noun)
		}
	}
	k := recordKey{s.noun, strings.Join(parts, " ")}
	state := r.records[k]
	if state == nil {
		r.nouns[s.noun]++
		state = &recordState{number: r.nouns[s.noun]}
		r.records[k] = state
	}
	state.leaf, state.body = at, fields
	return nil
}

// controlPlane compares the records with the newest entries about them.
func (v *verification) controlPlane(ctx context.Context, _ int64) error {
	if !v.first() {
		return nil
	}
	for try := 0; ; try++ {
		before := v.register.size
		rows, err := v.src.RecordRows(ctx)
		if err != nil {
			return err
		}
		if err := v.catchUp(ctx); err != nil {
			return err
		}
		err = v.compareRecords(rows)
		if err == nil || v.register.size == before || try == rechecks {
			v.report.Records = int64(len(rows))
			return err
		}
	}
}

func (v *verification) compareRecords(rows []RecordRow) error {
	for _, s := range v.register.records {
		s.seen = false
	}
	for _, row := range rows {
		what := row.Noun + " " + row.Key
		s := v.register.records[recordKey{row.Noun, row.Key}]
		if s == nil {
			return surplusRow(what)
		}
		s.seen = true
		if row.Number != 0 && row.Number != s.number {
			return badRow(what, s.leaf, "its number is %d, it was the %d. of its kind", row.Number, s.number)
		}
		for name, got := range row.Fields {
			if name == frozen && got == true && v.register.restored > s.leaf {
				continue
			}
			if want := s.body[name]; !sameValue(got, want) {
				return badRow(what, s.leaf, "%s is %s, the entry says %s", name, asJSON(got), asJSON(want))
			}
		}
	}
	var first *recordState
	var key recordKey
	for k, s := range v.register.records {
		if !s.seen && (first == nil || s.leaf < first.leaf) {
			first, key = s, k
		}
	}
	if first != nil {
		return missingRow(key.noun+" "+key.key, first.leaf)
	}
	return nil
}

// nothing is how an absent member of a body may look in a row.
var nothing = []string{"null", `""`, "0", "false", "[]"}

func sameValue(got, want any) bool {
	g := asJSON(got)
	if w := asJSON(want); g == w {
		return true
	} else if !slices.Contains(nothing, w) {
		return false
	}
	return slices.Contains(nothing, g)
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%v", v)
	}
	return string(text)
}
