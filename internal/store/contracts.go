package store

import (
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// What the packages of identity ask of the database.
var (
	_ device.Store    = (*Store)(nil)
	_ authority.Store = (*Store)(nil)
	_ status.Store    = (*Store)(nil)
	_ access.Store    = (*Store)(nil)
	_ ledger.Store    = (*Store)(nil)
	_ ledger.Rows     = (*Store)(nil)
	_ factory.Store   = (*Store)(nil)
	_ attest.Store    = (*Store)(nil)
)
