package fault

// 7xxx: storage, clock, configuration. 9999: what should not happen.
const (
	StoreUnavailable Code = 7001
	StoreFull        Code = 7002
	StoreBroken      Code = 7003
	SchemaNewer      Code = 7004
	SchemaOlder      Code = 7005
	SchemaCorrupt    Code = 7006
	DataFolderLocked Code = 7007
	DataFolderState  Code = 7008
	StoreInDoubt     Code = 7009
	StoreUnsafe      Code = 7010
	NodeFenced       Code = 7011
	ClockBack        Code = 7020
	ClockAhead       Code = 7021
	ClockSkew        Code = 7022
	ConfigInvalid    Code = 7030
	StatusURL        Code = 7031
	BackupInvalid    Code = 7040
	ShuttingDown     Code = 7050
	ServerUnreached  Code = 7051
	Unexpected       Code = 9999
)

var systemEntries = []Entry{
	{StoreUnavailable, Unavailable, "the record cannot be reached", "repeat the request later; the operator sees the cause in the log"},
	{StoreFull, Unavailable, "the record has no room left", "free disk space; the server recovers by itself"},
	{StoreBroken, Unavailable, "the record could not be written safely, so nothing more is written until a restart", "check the disk, then restart the server"},
	{SchemaNewer, Conflict, "the record was written by a newer version", "start the newer version; this one would not understand the data"},
	{SchemaOlder, Conflict, "the record was written by an older version than can be upgraded from", "upgrade in steps, as CHANGELOG.md says"},
	{SchemaCorrupt, Conflict, "the record is damaged", "restore a backup; keep the damaged files for examination"},
	{DataFolderLocked, Conflict, "another process uses this data folder", "stop the other process, or talk to it through its socket"},
	{DataFolderState, Conflict, "the data folder is not in the state this command needs", "run init first, or name another folder"},
	{StoreInDoubt, Unavailable, "it is not known yet whether the record took the change", "repeat the same request; it will not be done twice"},
	{StoreUnsafe, Conflict, "the database is configured so that acknowledged data could be lost", "turn on fsync, full_page_writes and synchronous_commit"},
	{NodeFenced, Unavailable, "this node lost its lease and stopped writing", "repeat the request; see the log if it goes on"},
	{ClockBack, Unavailable, "the clock went back, so issuing has stopped", "correct the clock, or run birthmark clock accept"},
	{ClockAhead, Unavailable, "the clock jumped ahead, so issuing has stopped", "correct the clock, or run birthmark clock accept"},
	{ClockSkew, Unavailable, "this node's clock differs from the database's", "synchronize the clocks"},
	{ConfigInvalid, Invalid, "the configuration is not acceptable", "correct the line that the detail names"},
	{StatusURL, Invalid, "the status URL cannot be used in certificates", "give a public DNS name with init --status-url; certificates keep it for decades"},
	{BackupInvalid, Invalid, "the backup is damaged, incomplete or of another installation", "use another backup; nothing was changed"},
	{ShuttingDown, Unavailable, "the server is stopping", "repeat the request"},
	{ServerUnreached, Unavailable, "the server cannot be reached", "check that birthmark serve runs, and the address"},
	{Unexpected, Internal, "something went wrong on our side", "quote the request id to the operator; the cause is in the log"},
}
