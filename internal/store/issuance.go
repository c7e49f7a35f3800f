package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/identity/device"
)

// pending is an issuance that waits for its group.
type pending struct {
	i      device.Issuance
	stored device.Credential
	err    error
	done   chan struct{}
}

type committer struct{}

type liteCommit struct{}

func (s *Store) startCommitters() {}

func (s *Store) stopCommitters() {}

func (e *liteEngine) commitGroup(ctx context.Context, group []*pending) error { return nil }
