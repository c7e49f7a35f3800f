package signer

import (
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Bounds are what a key may be used for.
type Bounds struct {
	Kinds []Kind
	// Validity is the longest of certificates that the key signs; zero if it
	// signs none. NoExpiry allows 99991231235959Z besides.
	Validity time.Duration
	NoExpiry bool
	// ListValidity is the longest of CRLs and AnswerValidity of OCSP answers;
	// default 35 days, 400 days for a key that signs authorities, and 8 days. What
	// a taken-over server has signed is believed for so long.
	ListValidity, AnswerValidity time.Duration
	Rate                         int   // signatures a second
	Daily                        int64 // signatures a day (UTC)
	// Root says that the key may sign a certificate for itself.
	Root bool
	// UIDs are the users who may sign with the key; nil: all that may use the
	// socket.
	UIDs []uint32
}

// Bounds of time within which what is signed begins. A profile may have
// certificates begin at the full hour, five minutes before now.
const (
	maxBehind = 2 * time.Hour
	maxAhead  = 5 * time.Minute
)

const day = 24 * time.Hour

// Check refuses bounds that bound nothing, and fills in defaults.
func (b *Bounds) Check(name string) error {
	wrong := func(what ...any) error {
		return fault.New(fault.SignerConfig, append([]any{"key", name + ":"}, what...)...)
	}
	certificates := slices.ContainsFunc(b.Kinds, Kind.certificate) || b.Root
	switch {
	case len(b.Kinds) == 0:
		return wrong("it names no kind that it signs")
	case certificates && b.Validity <= 0:
		return wrong("a key that signs certificates needs a longest validity")
	case b.Rate <= 0:
		return wrong("it needs a rate, in signatures a second")
	case b.Daily <= 0:
		return wrong("it needs a number of signatures a day")
	case b.Root && !slices.Contains(b.Kinds, CA):
		return wrong("a root signs certificates of kind ca")
	case b.ListValidity < 0 || b.AnswerValidity < 0:
		return wrong("a validity is positive")
	}
	if b.ListValidity == 0 {
		b.ListValidity = 35 * day
		if slices.Contains(b.Kinds, CA) {
			b.ListValidity = 400 * day
		}
	}
	if b.AnswerValidity == 0 {
		b.AnswerValidity = 8 * day
	}
	return nil
}

// admits reports whether a user may sign with the key.
func (b *Bounds) admits(uid uint32) bool { return b.UIDs == nil || slices.Contains(b.UIDs, uid) }
