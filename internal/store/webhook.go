package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// SetWebhook adds a webhook or replaces the one of the same name, of which the
// id and the time of creation stay.
func (s *Store) SetWebhook(ctx context.Context, w factory.Webhook, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := holdControl(ctx, t); err != nil {
			return err
		}
		err := t.row(ctx, `UPDATE webhook SET url = $2, secret = $3, events = $4, cursor = $5, disabled = $6, failure = $7, changed_at = $8
WHERE name = $1 RETURNING id`, w.Name, w.URL, blob(w.Secret), listJSON(w.Events), w.Cursor, w.Disabled, w.Failure, w.ChangedAt).Scan(&id)
		if !noRows(err) {
			return err
		}
		if id, err = nextID(ctx, t, "webhook"); err != nil {
			return err
		}
		_, err = t.exec(ctx, `INSERT INTO webhook (id, name, url, secret, events, cursor, disabled, failure, created_at, changed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			id, w.Name, w.URL, blob(w.Secret), listJSON(w.Events), w.Cursor, w.Disabled, w.Failure, w.CreatedAt, w.ChangedAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// RemoveWebhook removes a webhook, or fault.WebhookUnknown.
func (s *Store) RemoveWebhook(ctx context.Context, id int64, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.exec(ctx, "DELETE FROM webhook WHERE id = $1", id)
		if err == nil && n == 0 {
			err = fault.New(fault.WebhookUnknown)
		}
		return err
	}, entries...)
}

// Webhooks returns all webhooks, by id.
func (s *Store) Webhooks(ctx context.Context) ([]factory.Webhook, error) {
	var all []factory.Webhook
	err := each(s.read.query(ctx, `SELECT id, name, url, secret, events, cursor, disabled, failure, created_at, changed_at
FROM webhook ORDER BY id`))(func(r row) error {
		var w factory.Webhook
		err := r.Scan(&w.ID, &w.Name, &w.URL, &w.Secret, fromJSON(&w.Events), &w.Cursor, &w.Disabled, &w.Failure, at(&w.CreatedAt), at(&w.ChangedAt))
		all = append(all, w)
		return err
	})
	return all, err
}

// MoveCursor notes what was delivered, or the failure to; the ledger does not
// hear of it, or it would never come to rest. A webhook that was removed, or whose
// cursor an operator moved, is left alone.
func (s *Store) MoveCursor(ctx context.Context, id, from, to int64, failure string) error {
	return s.write(ctx, func(t *tx) error {
		_, err := t.exec(ctx, "UPDATE webhook SET cursor = $3, failure = $4 WHERE id = $1 AND cursor = $2", id, from, to, failure)
		return err
	})
}
