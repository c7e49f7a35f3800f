package station

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/enroll"
)

// Statements signs the reply to a batch. statement.Signer does.
type Statements interface {
	SignReply(ctx context.Context, r *station.Reply) error
}

// Batches answers what stations collected without a link. A unit of a batch goes
// the same road as one of a stream; only the way of the octets is another.
type Batches struct {
	handlers   *Handlers
	statements Statements
}

// NewBatches returns Batches over the same services as the handlers.
func NewBatches(h *Handlers, s Statements) *Batches { return &Batches{h, s} }

// IssueBatch takes the file that a station wrote and returns the one that goes
// back: a result for each unit, signed. The bundle must be for this order, and
// signed by a station whose certificate is good now. The same bundle again gets
// the same certificates.
func (b *Batches) IssueBatch(ctx context.Context, orderNumber string, file []byte) ([]byte, error) {
	var bundle station.Bundle
	if err := json.Unmarshal(file, &bundle); err != nil {
		return nil, fault.Wrap(fault.BundleInvalid, err, "it is not a bundle, or not whole")
	}
	if bundle.Order != orderNumber {
		return nil, fault.New(fault.BundleInvalid, "it was collected for order", bundle.Order)
	}
	if len(bundle.Units) == 0 || len(bundle.Units) > station.MaxOffline {
		return nil, fault.New(fault.BundleInvalid, len(bundle.Units), "units")
	}
	s, err := b.judge(ctx, &bundle)
	if err != nil {
		return nil, err
	}
	reply := station.Reply{Station: bundle.Station, Order: bundle.Order, Results: b.issue(ctx, s, &bundle)}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(file)
	reply.Bundle = digest[:]
	if err := b.statements.SignReply(ctx, &reply); err != nil {
		return nil, err
	}
	return json.Marshal(reply)
}

// judge finds the station that signed.
func (b *Batches) judge(ctx context.Context, bundle *station.Bundle) (*enroll.StationSession, error) {
	leaf, err := x509.ParseCertificate(bundle.Certificate)
	if err != nil {
		return nil, fault.Wrap(fault.BundleInvalid, err, "its certificate does not parse")
	}
	unsigned := *bundle
	unsigned.Signature = nil
	text, err := json.Marshal(unsigned)
	if err != nil {
		return nil, err
	}
	if err := proof.Verify(leaf.RawSubjectPublicKeyInfo, sha256.Sum256(text), bundle.Signature, fault.BundleSignature); err != nil {
		return nil, err
	}
	s, err := b.handlers.enroller.Station(ctx, []*x509.Certificate{leaf})
	if err != nil {
		return nil, err
	}
	if s.Station().Name != bundle.Station {
		return nil, fault.New(fault.BundleInvalid, "it names another station than its certificate")
	}
	return s, nil
}

// issue has all units enrolled, inFlight at a time; the results are in the
// bundle's order.
func (b *Batches) issue(ctx context.Context, s *enroll.StationSession, bundle *station.Bundle) []station.Result {
	results := make([]station.Result, len(bundle.Units))
	var running sync.WaitGroup
	next := make(chan int)
	for range min(inFlight, len(bundle.Units)) {
		running.Go(func() {
			for i := range next {
				results[i] = b.one(ctx, s, bundle, i)
			}
		})
	}
	for i := range bundle.Units {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	running.Wait()
	return results
}

func (b *Batches) one(ctx context.Context, s *enroll.StationSession, bundle *station.Bundle, i int) station.Result {
	u := &bundle.Units[i]
	return b.handlers.outcome(func(r *station.Result) error {
		r.ID, r.DeviceSerial = u.ID, u.DeviceSerial
		if u.Order != bundle.Order {
			return fault.New(fault.BundleInvalid, "the unit is of order", u.Order)
		}
		return b.handlers.unit(ctx, s, u, r)
	})
}
