// Package storetest holds what every database of Birthmark must do, as tests
// that run against a store: the same for SQLite and PostgreSQL. A test opens as
// many empty stores as it needs.
package storetest

import (
	"testing"

	"github.com/birthmark/birthmark/internal/store"
)

// Open returns an empty store that is closed with the test.
type Open func(t *testing.T) *store.Store

// Control tests everything but STORE and the ledger: register, control plane,
// status, access, totals, bulk registration and backups.
func Control(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"devices come back as they were added", testDevices},
		{"registration is all or none", testAddAllOrNone},
		{"a device changes only from the version that was read", testUpdateDevice},
		{"a new owner takes the credentials along", testMoveOwner},
		{"lists are what a model says", testListsAgainstModel},
		{"lists look at a bounded number of rows", testBoundedLists},
		{"the zero scope sees nothing", testZeroScope},
		{"out of scope is unknown", testOutOfScope},
		{"credentials are found by id, serial and key", testFindCredential},
		{"a device's credentials go back in time", testCredentialChain},
		{"first use is noted once", testConfirm},
		{"totals are kept", testCounts},
		{"staged devices appear at once", testStaged},
		{"staged devices go on after an interruption", testStagedResumes},
		{"products", testProducts},
		{"an installation is made once", testInstall},
		{"the control plane is read at once", testControlPlane},
		{"profile versions are numbered", testProfiles},
		{"revoked is for good", testRevoke},
		{"revocations are pruned after their certificates' end", testPruneRevocations},
		{"the ledger agrees with what was pruned", testPrunedIsVerified},
		{"a hold is released to what was before", testHold},
		{"nothing is stored after revoke has returned", testRevokeMakesStale},
		{"revocations are paged in order", testRevocations},
		{"CRL numbers only rise", testCRLNumbers},
		{"a CRL appears whole", testSaveCRL},
		{"operators", testOperators},
		{"tokens", testTokens},
		{"approvals", testApprovals},
		{"a backup restores everything", testBackup},
		{"a restore begins a second life", testSecondLife},
		{"a damaged backup changes nothing", testDamagedBackup},
		{"a seeded register is consistent", testSeed},
		{"the ledger derives the register, also after a restore", testLedgerDerives},
		{"the ledger derives a seeded register", testLedgerDerivesSeed},
		{"the ledger derives staged devices", testLedgerDerivesStaged},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open) })
	}
}
