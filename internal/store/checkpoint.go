package store

import (
	"sync"
	"sync/atomic"

	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// checkpointAfter is how many pages, as estimated, the log grows before they
	// are moved into the file; they move 2,000 random pages in one sync.
	checkpointAfter = 2000
	// maxLog is the length of the log in pages at which the writer moves the last
	// pages itself, so that it can begin the log anew.
	maxLog = 12_000
)

// checkpointer moves the write-ahead log's pages into the file on a connection
// of its own, while the writer goes on: at thousands of random pages a second
// the writer would stand still for a tenth of the time.
type checkpointer struct {
	conn *liteConn
	due  chan struct{}
	long atomic.Bool // the log is longer than maxLog
	wg   sync.WaitGroup

	changes int64 // the writer's rows at the last signal; with the writing token
	pages   int64 // estimate since; with the writing token
}

// perCommit is how many pages each transaction writes besides those of its rows.
const perCommit = 4

func newCheckpointer(path string) (*checkpointer, error) {
	conn, err := openLite(path, sqlite3.SQLITE_OPEN_READWRITE, litePragmas)
	if err != nil {
		return nil, err
	}
	c := &checkpointer{conn: conn, due: make(chan struct{}, 1)}
	c.wg.Go(func() {
		for range c.due {
			c.long.Store(c.conn.checkpoint() > maxLog)
		}
	})
	return c, nil
}

// committed counts what a transaction of the writer added to the log. The
// caller holds the writing token.
func (c *checkpointer) committed(writer *liteConn) {
	changes := sqlite3.Xsqlite3_total_changes64(writer.tls, writer.db)
	c.pages += changes - c.changes + perCommit
	c.changes = changes
	if c.pages < checkpointAfter {
		return
	}
	c.pages = 0
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// restart moves the rest of a log that has grown too long, so that the next
// transaction writes at its beginning. The caller holds the writing token.
func (c *checkpointer) restart(writer *liteConn) {
	if c.long.Load() {
		writer.checkpoint()
		c.long.Store(false)
	}
}

func (c *checkpointer) close() error {
	close(c.due)
	c.wg.Wait()
	return c.conn.close()
}

// checkpoint moves what no reader stands in the way of and returns the log's
// length in pages. A failure leaves the pages in the log for the next time.
func (c *liteConn) checkpoint() int {
	sqlite3.Xsqlite3_wal_checkpoint_v2(c.tls, c.db, 0, sqlite3.SQLITE_CHECKPOINT_PASSIVE, c.out, c.out+4)
	return int(*(*int32)(at0(c.out)))
}
