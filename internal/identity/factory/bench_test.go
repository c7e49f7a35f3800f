package factory_test

import "testing"

// BenchmarkConfirmAgain is a confirmation without its write, which the group
// commit shares: reading the record and verifying the signature.
func BenchmarkConfirmAgain(b *testing.B) {
	w := newWorld(b)
	w.opened(terms())
	u := w.confirmed(made{order: "PO-1", serial: "SN0001"})
	st, c := w.station("b1"), u.confirmation(b)
	for b.Loop() {
		if err := w.Confirm(b.Context(), st, c); err != nil {
			b.Fatal(err)
		}
	}
}
