package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/birthmark/birthmark/internal/fault"
)

// batchSize is how many entries travel together, and batchBytes how many octets
// of raw entries at most, which bounds memory where entries are large.
const (
	batchSize  = 256
	batchBytes = 2 << 20
)

// batch is a run of entries on their way from the reader over a worker to the
// caller.
type batch[T any] struct {
	first int64 // number of the first entry
	raw   []T
	chips []Chip
	notes []note
	err   error // of the first bad entry, or of the reader after the entries
	done  chan struct{}
}

// note is a remark about one entry.
type note struct {
	entry int64
	text  string
}

// splitter returns the next entry and its size, io.EOF after the last.
type splitter[T any] func() (T, int, error)

// decoder checks one entry and returns its chip. Decoders run at the same time.
type decoder[T any] func(raw T, remark func(string)) (Chip, error)

// run takes the entries from next through decode to emit. Order is kept: the
// first bad entry of the file is the one that is reported.
func run[T any](im *importing, next splitter[T], decode decoder[T]) error {
	ctx, cancel := context.WithCancel(im.ctx)
	var wg sync.WaitGroup
	work := make(chan *batch[T])
	ordered := make(chan *batch[T], im.Workers+2)
	wg.Go(func() {
		defer close(work)
		defer close(ordered)
		split(ctx, im.Limits.Entries, next, work, ordered)
	})
	for range im.Workers {
		wg.Go(func() {
			for b := range work {
				b.decode(decode)
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for b := range ordered {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := im.take(b.chips, b.notes); err != nil {
			return err
		}
		if b.err != nil {
			return b.err
		}
	}
	return context.Cause(ctx)
}

// split cuts the file into batches until it ends, something is wrong, or nobody
// wants more.
func split[T any](ctx context.Context, limit int64, next splitter[T], work, ordered chan<- *batch[T]) {
	for first := int64(1); ; {
		b := &batch[T]{first: first, done: make(chan struct{})}
		end := b.fill(limit, next)
		first += int64(len(b.raw))
		select {
		case ordered <- b:
		case <-ctx.Done():
			return
		}
		select {
		case work <- b:
		case <-ctx.Done():
			return
		}
		if end {
			return
		}
	}
}

// fill reads the batch's entries and reports whether it is the last batch.
func (b *batch[T]) fill(limit int64, next splitter[T]) bool {
	for size := 0; len(b.raw) < batchSize && size < batchBytes; {
		raw, n, err := next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				b.err = atEntry(b.first+int64(len(b.raw)), err)
			}
			return true
		}
		if b.first+int64(len(b.raw)) > limit {
			b.err = fault.New(fault.ManifestLimit, "the file has more than", limit, "entries")
			return true
		}
		b.raw = append(b.raw, raw)
		size += n
	}
	return false
}

// decode works on the entries until one is bad.
func (b *batch[T]) decode(decode decoder[T]) {
	defer close(b.done)
	b.chips = make([]Chip, 0, len(b.raw))
	for i, raw := range b.raw {
		entry := b.first + int64(i)
		chip, err := decode(raw, func(text string) { b.notes = append(b.notes, note{entry, text}) })
		if err != nil {
			b.err = atEntry(entry, err)
			break
		}
		chip.Entry = entry
		b.chips = append(b.chips, chip)
		// An import shares its cores with the issuing of certificates, which should
		// wait for one entry and not for a time slice.
		runtime.Gosched()
	}
	b.raw = nil
}

// take checks finished chips against all before them and hands them on.
func (im *importing) take(chips []Chip, notes []note) error {
	for _, n := range notes {
		im.remark(n.entry, n.text)
	}
	for i := range chips {
		if err := im.note(&chips[i]); err != nil {
			return err
		}
	}
	if len(chips) == 0 {
		return nil
	}
	if err := im.emit(chips); err != nil {
		return err
	}
	if im.progress != nil {
		im.progress(im.source.read.Load(), im.summary.Chips)
	}
	return im.ctx.Err()
}

// note counts a chip and refuses one that the file has named before.
func (im *importing) note(c *Chip) error {
	im.summary.Chips++
	if err := im.sameSigner(c); err != nil {
		return err
	}
	if before, repeated := im.chips.add(c.Entry, []byte(c.Vendor), []byte(c.UID)); repeated {
		return fault.New(fault.ManifestDuplicate, fmt.Sprintf("entry %d: the chip %s is that of entry %d", c.Entry, c.UID, before))
	}
	if len(c.Keys) == 0 {
		im.summary.NotProvable++
	}
	for i := range c.Keys {
		im.summary.Keys++
		if before, repeated := im.keys.add(c.Entry, c.Keys[i].SPKI); repeated {
			return fault.New(fault.ManifestDuplicate,
				fmt.Sprintf("entry %d: the key in slot %s is that of entry %d", c.Entry, c.Keys[i].Slot, before))
		}
	}
	return nil
}

// sameSigner refuses a file whose entries are of several signers: the register
// knows one for each file.
func (im *importing) sameSigner(c *Chip) error {
	by := c.by
	c.by = nil
	switch {
	case by == nil || by.fingerprint == im.summary.Signer:
		return nil
	case im.summary.Signer != [32]byte{}:
		return fault.New(fault.ManifestSigner,
			fmt.Sprintf("entry %d: the entry has another signer than those before it; split the file by signer", c.Entry))
	}
	im.summary.Signer = by.fingerprint
	return nil
}

// remark keeps a finding; the same text about another entry is only counted.
func (im *importing) remark(entry int64, text string) {
	for i := range im.summary.Findings {
		if im.summary.Findings[i].Text == text {
			im.summary.Findings[i].Count++
			return
		}
	}
	if len(im.summary.Findings) < maxFindings {
		im.summary.Findings = append(im.summary.Findings, Finding{Text: text, First: entry, Count: 1})
	}
}

// atEntry puts the entry's number before the reason, once.
func atEntry(entry int64, err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return fmt.Errorf("entry %d: %w", entry, err)
	}
	return fault.Wrap(f.Code, f.Unwrap(), fmt.Sprintf("entry %d: %s", entry, f.Detail))
}
