package store

import (
	"context"
	"errors"
)

func (s *Store) openPostgres(ctx context.Context) error { return errors.New("not yet") }
