package fault

// 6xxx: the ledger.
const (
	LedgerBroken     Code = 6001
	LedgerRolledBack Code = 6002
	LedgerStalled    Code = 6003
	WitnessFailed    Code = 6004
	CheckpointBad    Code = 6005
	EntryUnknown     Code = 6006
)

var ledgerEntries = []Entry{
	{LedgerBroken, Conflict, "the record does not match the ledger", "keep the database as it is and look at the first bad entry; restore from a backup if it was damaged"},
	{LedgerRolledBack, Conflict, "the ledger is shorter than or differs from a checkpoint that was seen before", "the database was rolled back or replaced: find the backup it came from"},
	{LedgerStalled, Unavailable, "checkpoints have not been signed for too long, so issuing has stopped", "see the server's log; the checkpoint key or the database may be unavailable"},
	{WitnessFailed, Unavailable, "a witness did not take the checkpoint", "check the witness's address or folder"},
	{CheckpointBad, Invalid, "the checkpoint is not well formed or its signature does not verify", "use a checkpoint of this ledger and its public key"},
	{EntryUnknown, NotFound, "the ledger has no such entry", "check the index"},
}
