package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// approvalBody is the ledger's record of an approval. Parameters are there by
// their digest only: they may name a person.
type approvalBody struct {
	ID     int64  `json:"id,omitempty"`
	Act    string `json:"act"`
	Digest string `json:"digest"`
	State  string `json:"state,omitempty"`
}

// NeedsSecond reports whether acts of this kind wait for a second operator.
func (s *Service) NeedsSecond(kind string) bool { return s.second[kind] }

// Request records an act that waits for a second operator. The same act that
// waits already is returned instead of asked again. params is marshaled to
// canonical JSON.
func (s *Service) Request(ctx context.Context, by Caller, kind string, params any, reason string) (Approval, error) {
	canonical, err := Canonical(params)
	if err != nil {
		return Approval{}, err
	}
	if kind == "" || len(canonical) > maxParamsBytes {
		return Approval{}, fault.New(fault.ParameterInvalid, "the act is not acceptable")
	}
	if err := checkReason(reason); err != nil {
		return Approval{}, err
	}
	now := s.now()
	a := Approval{
		Kind: kind, Params: canonical, Digest: ActDigest(kind, canonical), Requester: by.Operator,
		Reason: reason, State: Waiting, RequestedAt: now, ExpiresAt: now.Add(approvalLife),
	}
	stored, err := s.add(ctx, by, a)
	if err != nil || now.Before(stored.ExpiresAt) {
		return stored, err
	}
	// The same act was asked for before and nobody decided in time.
	stored.State, stored.DecidedBy, stored.DecidedAt = Refused, "system", now
	err = s.store.MoveApproval(ctx, stored, Waiting, decided(stored, "system"))
	if err != nil && !fault.Has(err, fault.ApprovalState) {
		return Approval{}, err
	}
	return s.add(ctx, by, a)
}

// add stores an act that waits and returns it, or the equal one that waits.
func (s *Service) add(ctx context.Context, by Caller, a Approval) (Approval, error) {
	id, err := s.store.AddApproval(ctx, a, ledger.Entry{
		Kind: ledger.ApprovalRequested, At: a.RequestedAt, Actor: by.Name,
		Body: ledger.JSON(approvalBody{Act: a.Kind, Digest: hex.EncodeToString(a.Digest[:])}),
	})
	if err != nil {
		return Approval{}, err
	}
	return s.store.Approval(ctx, id)
}

func decided(a Approval, actor string) ledger.Entry {
	return ledger.Entry{
		Kind: ledger.ApprovalDecided, At: a.DecidedAt, Actor: actor,
		Body: ledger.JSON(approvalBody{ID: a.ID, Act: a.Kind, Digest: hex.EncodeToString(a.Digest[:]), State: a.State.String()}),
	}
}

// Decide approves or refuses an act that waits. Nobody decides on their own
// act, neither in person nor through a token they made, and nobody approves
// what they may not do themselves.
func (s *Service) Decide(ctx context.Context, by Caller, id int64, verdict Verdict) (Approval, error) {
	if err := checkReason(verdict.Reason); err != nil {
		return Approval{}, err
	}
	a, err := s.store.Approval(ctx, id)
	if err != nil {
		return Approval{}, err
	}
	now := s.now()
	switch {
	case a.State != Waiting || !now.Before(a.ExpiresAt):
		return Approval{}, fault.New(fault.ApprovalState)
	case by.Operator == "" || by.Operator == a.Requester:
		return Approval{}, fault.New(fault.ApprovalOwn)
	case slices.Contains(Actions(), Action(a.Kind)) && !by.May(Action(a.Kind)):
		return Approval{}, fault.New(fault.NotAllowed, "you have no", a.Kind)
	case a.Digest != ActDigest(a.Kind, a.Params):
		return Approval{}, fmt.Errorf("approval %d: parameters do not fit the digest", id)
	}
	a.State, a.DecidedBy, a.DecidedAt = verdict.state(), by.Operator, now
	if err := s.store.MoveApproval(ctx, a, Waiting, decided(a, by.Name)); err != nil {
		return Approval{}, err
	}
	return a, nil
}

// Verdict is an operator's decision on an approval.
type Verdict struct {
	Approve bool
	Reason  string
}

func (v Verdict) state() ApprovalState {
	if v.Approve {
		return Approved
	}
	return Refused
}

// Claim marks an approved act as executed, exactly once, before it is done. The
// act must be the one that was approved. An act that fails afterwards is asked
// for anew.
func (s *Service) Claim(ctx context.Context, by Caller, id int64, kind string, params any) error {
	canonical, err := Canonical(params)
	if err != nil {
		return err
	}
	a, err := s.store.Approval(ctx, id)
	if err != nil {
		return err
	}
	now := s.now()
	if a.State != Approved || !now.Before(a.ExpiresAt) || a.Digest != ActDigest(kind, canonical) {
		return fault.New(fault.ApprovalState)
	}
	a.State = Executed
	return s.store.MoveApproval(ctx, a, Approved, ledger.Entry{
		Kind: ledger.ApprovalExecuted, At: now, Actor: by.Name,
		Body: ledger.JSON(approvalBody{ID: id, Act: kind, Digest: hex.EncodeToString(a.Digest[:])}),
	})
}

// Authorize is the two-operator rule in one call: nil means do it now. For an
// act that needs a second operator it records the request and returns
// fault.ApprovalWaiting, until the same act is asked for again after it was
// approved; that call claims it.
func (s *Service) Authorize(ctx context.Context, by Caller, kind string, params any, reason string) error {
	if !s.NeedsSecond(kind) {
		return nil
	}
	canonical, err := Canonical(params)
	if err != nil {
		return err
	}
	a, err := s.store.ApprovalByDigest(ctx, ActDigest(kind, canonical))
	switch {
	case err == nil && a.State == Approved && s.now().Before(a.ExpiresAt):
		return s.Claim(ctx, by, a.ID, kind, params)
	case err == nil && a.State == Waiting && s.now().Before(a.ExpiresAt):
		return fault.New(fault.ApprovalWaiting, "approval", a.ID)
	case err != nil && !fault.Has(err, fault.ApprovalUnknown):
		return err
	}
	a, err = s.Request(ctx, by, kind, params, reason)
	if err != nil {
		return err
	}
	return fault.New(fault.ApprovalWaiting, "approval", a.ID)
}

// Approval returns one approval.
func (s *Service) Approval(ctx context.Context, id int64) (Approval, error) {
	return s.store.Approval(ctx, id)
}

// Approvals returns a page of approvals in a state, 0 for all.
func (s *Service) Approvals(ctx context.Context, state ApprovalState, after string, limit int) ([]Approval, string, error) {
	return s.store.Approvals(ctx, state, after, limit)
}

// String returns the state's name.
func (s ApprovalState) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Approved:
		return "approved"
	case Refused:
		return "refused"
	case Executed:
		return "executed"
	}
	return "unknown"
}

func checkReason(reason string) error {
	if len(reason) > maxReason || strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return fault.New(fault.ParameterInvalid, "the reason is too long or has control characters")
	}
	return nil
}

// ActDigest is the digest of an act: what an operator approves and STORE
// compares.
func ActDigest(kind string, params []byte) [32]byte {
	h := sha256.New()
	var n [8]byte
	for _, part := range [][]byte{[]byte(kind), params} {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// Canonical renders a value as JSON with sorted keys and without white space, so
// that equal acts have equal digests.
func Canonical(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, "the act is not acceptable")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, "the act is not acceptable")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fault.New(fault.ParameterInvalid, "the act is not acceptable")
	}
	return json.Marshal(tree)
}
