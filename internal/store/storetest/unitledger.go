package storetest

import (
	"time"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// unitWrites calls the methods that change units, with an order of their own.
func (f *fixture) unitWrites() []namedWrite {
	x := &shop{fixture: f, product: 1, site: 1, station: 1}
	var first device.Credential
	return []namedWrite{
		{"AddNonceBlock", func(e ledger.Entry) error {
			x.order = x.addOrder("units", 10, 1)
			_, err := f.s.AddNonceBlock(f.Context(), factory.NonceBlock{Order: x.order, Station: 1, Count: 8, ExpiresAt: f.now}, e)
			return err
		}},
		{"ConfirmUnit", func(e ledger.Entry) error {
			i := x.unit()
			i.Unit.Nonce = device.NonceRef{}
			first = x.store(i)
			return f.s.ConfirmUnit(f.Context(), x.confirmation(&first), e)
		}},
		{"MarkShipped", func(e ledger.Entry) error {
			_, err := f.s.MarkShipped(f.Context(), []device.ID{first.Device}, f.now, e)
			return err
		}},
		{"EndUnit", func(e ledger.Entry) error {
			return f.s.EndUnit(f.Context(), factory.Ending{ID: first.ID, At: f.now, State: factory.UnitScrapped}, e)
		}},
		{"EraseWrappedKeys", func(ledger.Entry) error {
			i := x.unit()
			i.Unit.Nonce, i.Unit.Wrapped, i.Unit.WrappedUntil = device.NonceRef{}, []byte{1}, f.now.Add(time.Hour)
			x.store(i)
			_, err := f.s.EraseWrappedKeys(f.Context(), f.now.Add(time.Hour))
			return err
		}},
	}
}
