package store

import (
	"context"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// eraseWrapped erases the wrapped key of a unit that has no use for it any more.
const eraseWrapped = "DELETE FROM wrapped_key WHERE id = $1"

// WrappedKey returns the wrapped private key of a unit, or fault.WrappedKeyGone
// once it was erased or its time is over.
func (s *Store) WrappedKey(ctx context.Context, id device.CredentialID) ([]byte, error) {
	var wrapped []byte
	err := s.read.row(ctx, "SELECT wrapped FROM wrapped_key WHERE id = $1 AND until_at > $2", int64(id), s.cfg.Now()).Scan(&wrapped)
	if noRows(err) {
		return nil, fault.New(fault.WrappedKeyGone)
	}
	return wrapped, err
}

// erasedBody names the credentials whose wrapped keys are gone.
type erasedBody struct {
	Credentials []int64 `json:"credentials"`
}

// EraseWrappedKeys erases those whose time is over, in short transactions, and
// returns how many. Index wrapped_key_until.
func (s *Store) EraseWrappedKeys(ctx context.Context, at time.Time) (int, error) {
	for total := 0; ; {
		var b erasedBody
		err := s.write(ctx, func(t *tx) error {
			b = erasedBody{}
			err := each(t.query(ctx, "SELECT id FROM wrapped_key WHERE until_at <= $1 ORDER BY until_at LIMIT $2", at, prunedAtOnce))(func(r row) error {
				var id int64
				err := r.Scan(&id)
				b.Credentials = append(b.Credentials, id)
				return err
			})
			if err == nil && len(b.Credentials) == 0 {
				err = errNothing
			}
			for _, id := range b.Credentials {
				if err == nil {
					_, err = t.exec(ctx, eraseWrapped, id)
				}
			}
			t.record(systemEntry(ledger.KeysErased, at, b))
			return err
		})
		if errors.Is(err, errNothing) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		total += len(b.Credentials)
	}
}
