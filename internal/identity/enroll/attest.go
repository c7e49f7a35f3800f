package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Attest names what evidence by TPMs needs. All fields are required.
type Attest struct {
	Store  AttestStore
	Chips  Chips
	Random io.Reader
}

// AttestStore is what the road needs of the record of TPMs. Contracts as in
// attest.Store.
type AttestStore interface {
	attest.PlaneReader
	TicketKey(ctx context.Context) ([32]byte, error)
	SpendTicket(ctx context.Context, t device.Ticket, entries ...ledger.Entry) error
	TPM(ctx context.Context, ek [32]byte) (attest.TPMRecord, error)
	TPMOf(ctx context.Context, s access.Scope, id device.ID) (attest.TPMRecord, error)
	Evidence(ctx context.Context, s access.Scope, id device.CredentialID) (attest.Evidence, error)
	Record(ctx context.Context, entries ...ledger.Entry) error
}

// Chips finds the manifest entry of an endorsement key. Contract as in
// factory.Store.
type Chips interface {
	ChipByKey(ctx context.Context, spkiDigest [32]byte) (factory.Chip, error)
}

// attesting is what an enroller keeps for TPMs.
type attesting struct {
	*Attest
	tickets tickets
	planes  *attest.Planes[*makers]
}

// newAttesting returns nil for nil: TPMs show nothing then.
func newAttesting(a *Attest) (*attesting, error) {
	if a == nil {
		return nil, nil
	}
	if a.Store == nil || a.Chips == nil || a.Random == nil {
		return nil, errors.New("enroll: every field of Attest is required")
	}
	var newest *makers
	planes, err := attest.NewPlanes(a.Store, func(p attest.Plane) (m *makers, err error) {
		if m, err = compile(p, newest); err == nil {
			newest = m
		}
		return m, err
	})
	return &attesting{Attest: a, tickets: tickets{store: a.Store}, planes: planes}, err
}

// makers is a plane of package attest, compiled: whose TPMs are genuine, which
// firmware is released.
type makers struct {
	epoch    int64
	trust    *tpm.Trust
	digest   [32]byte // of the bundles behind trust
	policies map[int64]compiledPolicy
}

// compiledPolicy is a product's policy; one that does not compile lets nobody
// pass.
type compiledPolicy struct {
	*tpm.Policy
	digest [32]byte
	err    error
}

// makersAt returns what is trusted at an epoch of the control plane, compiled once
// for each. An epoch that is past is device.ErrStale.
func (e *Enroller) makersAt(ctx context.Context, epoch int64) (*makers, error) {
	m, err := e.attest.planes.At(ctx, epoch)
	if err == nil && m.epoch != epoch {
		err = device.ErrStale
	}
	return m, err
}

// compile makes a plane ready. What did not change since the one before is taken
// from there.
func compile(plane attest.Plane, before *makers) (*makers, error) {
	m := &makers{epoch: plane.Epoch, policies: make(map[int64]compiledPolicy, len(plane.Policies))}
	for _, p := range plane.Policies {
		if len(p.Content) == 0 {
			continue // the product has none any more
		}
		policy, err := tpm.ParsePolicy(p.Content)
		m.policies[p.Product] = compiledPolicy{policy, p.Digest, err}
	}
	h := sha256.New()
	for _, r := range plane.Roots {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(r.ID)))
		h.Write(r.Digest[:])
	}
	h.Sum(m.digest[:0])
	if before != nil && before.digest == m.digest {
		m.trust = before.trust
		return m, nil
	}
	files := make([]*attest.RootsFile, len(plane.Roots))
	for i, r := range plane.Roots {
		var err error
		if files[i], err = tpm.ParseRoots(r.Content); err != nil {
			return nil, fmt.Errorf("bundle %s %d: %w", r.Name, r.Version, err)
		}
	}
	var err error
	m.trust, err = tpm.NewTrust(files)
	return m, err
}

// policy returns a product's policy; nil: it has none.
func (m *makers) policy(product int64) (*tpm.Policy, error) {
	p := m.policies[product]
	if p.err != nil {
		return nil, fmt.Errorf("policy of product %d: %w", product, p.err)
	}
	return p.Policy, nil
}

// grounds stands for what a challenge for a product rests on: whose TPMs are
// trusted, and what is to be quoted.
func (m *makers) grounds(product int64) [32]byte {
	h := sha256.New()
	h.Write(m.digest[:])
	policy := m.policies[product].digest
	h.Write(policy[:])
	return [32]byte(h.Sum(nil))
}
