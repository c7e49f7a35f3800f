package factory

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// How long nonces are good.
const (
	onlineLife  = 10 * time.Minute
	offlineLife = 30 * 24 * time.Hour
	// prunedAfter is how long a block stays after it expired, so that who comes
	// late hears that.
	prunedAfter = 24 * time.Hour
)

// NonceSize is the length of a nonce in octets.
const NonceSize = 32

// Nonce returns one nonce of the block.
func (b *NonceBlock) Nonce(index int) [NonceSize]byte {
	var n [NonceSize]byte
	binary.BigEndian.PutUint64(n[:8], uint64(b.ID))
	binary.BigEndian.PutUint32(n[8:12], uint32(index))
	mac := hmac.New(sha256.New, b.Key[:])
	mac.Write(n[8:12])
	var sum [sha256.Size]byte
	copy(n[12:], mac.Sum(sum[:0]))
	return n
}

// NonceBlockID returns the block that a nonce says it is of; ok is false for what
// is no nonce.
func NonceBlockID(nonce []byte) (id int64, ok bool) {
	if len(nonce) != NonceSize {
		return 0, false
	}
	id = int64(binary.BigEndian.Uint64(nonce[:8]))
	return id, id > 0
}

// Check says why a nonce is not one of this block for an order and station, or
// names it for STORE, which alone knows whether it was used.
func (b *NonceBlock) Check(nonce []byte, order, stationID int64, now time.Time) (device.NonceRef, error) {
	id, ok := NonceBlockID(nonce)
	if !ok || id != b.ID || b.Order != order || b.Station != stationID {
		return device.NonceRef{}, fault.New(fault.NonceInvalid)
	}
	index := int64(binary.BigEndian.Uint32(nonce[8:12]))
	if index >= int64(b.Count) {
		return device.NonceRef{}, fault.New(fault.NonceInvalid)
	}
	want := b.Nonce(int(index))
	if !hmac.Equal(want[:], nonce) {
		return device.NonceRef{}, fault.New(fault.NonceInvalid)
	}
	if !now.Before(b.ExpiresAt) {
		return device.NonceRef{}, fault.New(fault.NonceExpired)
	}
	return device.NonceRef{Block: b.ID, Index: int(index)}, nil
}

// DrawNonces gives a station nonces for units of an order, at most as many as the
// order may still issue.
func (s *Service) DrawNonces(ctx context.Context, st StationRef, q station.NoncesRequest) (station.Nonces, error) {
	most := station.MaxNonces
	if q.Offline {
		most = station.MaxOffline
	}
	if q.Count < 1 || q.Count > most {
		return station.Nonces{}, fault.New(fault.ParameterInvalid, "1 to", most, "nonces at a time")
	}
	o, err := s.stationOrder(ctx, st, q.Order)
	if err == nil {
		err = MayMake(&o)
	}
	if err != nil {
		return station.Nonces{}, err
	}
	left := o.Quantity + o.Spares - o.Counts.Issued
	if left <= 0 {
		return station.Nonces{}, s.full(&o, q.Ahead)
	}
	now := moment(s.now())
	b := NonceBlock{Order: o.ID, Station: st.ID, Count: int(min(int64(q.Count), left)), ExpiresAt: now.Add(onlineLife), Offline: q.Offline}
	if q.Offline {
		b.ExpiresAt = now.Add(offlineLife)
	}
	if _, err := io.ReadFull(s.random, b.Key[:]); err != nil {
		return station.Nonces{}, fmt.Errorf("key of a nonce block: %w", err)
	}
	b.ID, err = s.store.AddNonceBlock(ctx, b, ledger.Entry{
		Kind: ledger.NoncesDrawn, At: s.now(), Actor: st.Actor(),
		Body: ledger.JSON(noncesBody{Order: b.Order, Station: b.Station, Count: b.Count, Offline: b.Offline, ExpiresAt: text(b.ExpiresAt)}),
	})
	if err != nil {
		return station.Nonces{}, err
	}
	return s.nonces(ctx, st, &o, &b)
}

// nonces lists a block's nonces, signed if it is for a batch without a link.
func (s *Service) nonces(ctx context.Context, st StationRef, o *Order, b *NonceBlock) (station.Nonces, error) {
	n := station.Nonces{Order: o.Number, Station: st.Name, Nonces: make([][]byte, b.Count), ExpiresAt: b.ExpiresAt}
	all := make([]byte, NonceSize*b.Count)
	mac := hmac.New(sha256.New, b.Key[:])
	var sum [sha256.Size]byte
	for i := range b.Count {
		one := all[NonceSize*i : NonceSize*(i+1) : NonceSize*(i+1)]
		binary.BigEndian.PutUint64(one[:8], uint64(b.ID))
		binary.BigEndian.PutUint32(one[8:12], uint32(i))
		mac.Reset()
		mac.Write(one[8:12])
		copy(one[12:], mac.Sum(sum[:0]))
		n.Nonces[i] = one
	}
	if !b.Offline {
		return n, nil
	}
	return n, s.statements.SignNonces(ctx, &n)
}

// full is the refusal of a unit beyond the order, with its alarm unless there was
// no unit yet.
func (s *Service) full(o *Order, ahead bool) error {
	if !ahead {
		s.Raise(Alarm{
			Kind: AlarmOrderFull, Key: o.Number, Order: o.ID, Product: o.Product, Site: o.Site,
			Message: fmt.Sprintf("order %s: a unit beyond its %d and %d spares was asked for", o.Number, o.Quantity, o.Spares),
		})
	}
	if o.Counts.Live < o.Quantity {
		return fault.New(fault.SparesUsed, o.Number)
	}
	return fault.New(fault.OrderFull, o.Number)
}

// sameOctets compares what must be equal octet for octet.
func sameOctets(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }
