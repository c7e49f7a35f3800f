//go:build unix

package store

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"

	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

func TestSeededChipsAndUnits(t *testing.T) {
	onBoth(t, func(t *testing.T, cfg Config) {
		s := mustOpen(t, cfg)
		ctx := t.Context()
		if _, err := s.SeedChips(ctx, SeedChipsConfig{Chips: 700, First: 5}); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{5, 504, 505, 704} {
			spki, err := x509.MarshalPKIXPublicKey(&SeedChipKey(n).PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			c, err := s.ChipByKey(ctx, sha256.Sum256(spki))
			if err != nil || c.UID != SeedChipUID(n) || c.ID != s.ChipID("seed", c.UID) || c.State != factory.ChipListed {
				t.Errorf("chip %d: %+v, %v", n, c, err)
			}
		}
		if err := s.Seed(ctx, SeedConfig{Devices: 600, Certificates: 600}); err != nil {
			t.Fatal(err)
		}
		product, err := s.AddProduct(ctx, device.Product{Name: "p"}, act())
		if err != nil {
			t.Fatal(err)
		}
		site, err := s.AddSite(ctx, factory.Site{Name: "s"}, act())
		if err != nil {
			t.Fatal(err)
		}
		order, err := s.AddOrder(ctx, factory.Order{Number: "1", Product: product, Site: site, Quantity: 600, State: factory.OrderOpen}, act())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SeedUnits(ctx, order, 1, 550); err != nil {
			t.Fatal(err)
		}
		if n := s.count(t, "SELECT count(*) FROM unit WHERE order_id = $1 AND state = 2", order); n != 550 {
			t.Errorf("%d units", n)
		}
		if n := s.count(t, "SELECT issued * 1000 + live FROM production_order"); n != 550_550 {
			t.Errorf("counts %d", n)
		}
		if err := s.SeedUnits(ctx, order, 1, 100); err == nil {
			t.Error("more units than certificates")
		}
	})
}
