package storetest

import (
	"testing"
)

// Core tests STORE, the leases and the ledger's rows.
func Core(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"an issuance is stored with all that belongs to it", testIssuance},
		{"a refused issuance leaves nothing", testRefusedIssuance},
		{"a renewal supersedes and may keep the key", testRenewal},
		{"an approval is executed once", testApprovedIssuance},
		{"concurrent issuances agree with a model", testConcurrentIssuances},
		{"certificate serials open to their row", testCertSerials},
		{"blocks of serials never overlap", testLeasesApart},
		{"closing a block names what was abandoned", testAbandoned},
		{"a former run of a node is fenced", testFencedNode},
		{"a job has one holder", testJobLease},
		{"ledger batches are read by class", testLedgerBatches},
		{"names of persons stay beside the ledger", testLedgerPrivate},
		{"tiles and checkpoints are written under a lease", testTiles},
		{"the clock mark only rises", testClockMark},
		{"followers hear of commits", testFollowers},
		{"every write is in the ledger", testEveryWriteHasALeaf},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}

// Run is the whole suite.
func Run(t *testing.T, open Open) {
	t.Run("core", func(t *testing.T) { Core(t, open) })
	t.Run("control", func(t *testing.T) { Control(t, open) })
}
