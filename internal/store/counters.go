package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Expiring returns the number of live credentials by product and unix day of
// their end, from the maintained totals. Index: the primary key of tally.
func (s *Store) Expiring(ctx context.Context, scope access.Scope, fromDay, toDay int64) ([]device.ExpiryCount, error) {
	if scope.SeesNothing() {
		return nil, nil
	}
	var all []device.ExpiryCount
	err := each(s.read.query(ctx, `SELECT product, bucket, CAST(SUM(total) AS BIGINT) FROM tally
WHERE kind = $1 AND bucket >= $2 AND bucket <= $3`+scopeSQL(scope, "")+`
GROUP BY bucket, product HAVING SUM(total) <> 0 ORDER BY bucket, product`, liveByExpiryDay, fromDay, toDay))(func(r row) error {
		var c device.ExpiryCount
		err := r.Scan(&c.Product, &c.Day, &c.Count)
		all = append(all, c)
		return err
	})
	return all, err
}

// Counts returns the maintained totals of what is in scope.
func (s *Store) Counts(ctx context.Context, scope access.Scope) (device.Counts, error) {
	c := device.Counts{Devices: map[device.State]int64{}, Credentials: map[device.CredentialState]int64{}}
	if scope.SeesNothing() {
		return c, nil
	}
	err := each(s.read.query(ctx, `SELECT kind, bucket, CAST(SUM(total) AS BIGINT) FROM tally
WHERE kind IN ($1, $2)`+scopeSQL(scope, "")+` GROUP BY kind, bucket HAVING SUM(total) <> 0`, devicesByState, credentialsByState))(func(r row) error {
		var kind tallyKind
		var bucket, total int64
		if err := r.Scan(&kind, &bucket, &total); err != nil {
			return err
		}
		if kind == devicesByState {
			c.Devices[device.State(bucket)] = total
			return nil
		}
		c.Credentials[device.CredentialState(bucket)] = total
		return nil
	})
	return c, err
}
