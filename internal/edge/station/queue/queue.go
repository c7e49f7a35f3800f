// Package queue keeps what the server must hear and cannot be told now:
// confirmations and scraps, on the station's disk. What Append has returned nil
// for is there after kill -9 and after a power cut, and is given to the server in
// order, at least once; the server takes a repetition as what it is. Several
// processes may use one folder: each act takes the folder's lock.
//
// The file only grows until everything in it is done, then it is emptied. A
// last record that was not completely written is dropped: nobody was told that
// it is kept. Damage in the middle is not passed over: the queue refuses and says
// at which octet it is, and the file stays as it was.
package queue

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/fault"
)

// DefaultLimit is how many items wait at most: more than a day of a fast line.
const DefaultLimit = 100_000

// Config says where the queue is.
type Config struct {
	Dir   string // must exist
	Limit int    // 0: DefaultLimit
}

// Queue is the queue of one folder.
type Queue struct {
	path  string
	limit int
	lock  *os.File // of the folder's queue, held during an act
	turn  *os.File // held while items are sent

	flushing sync.Mutex // one flush at a time in this process

	gather sync.Mutex // guards want
	want   []*request

	mu      sync.Mutex // guards all below
	file    *os.File
	header  [headerLen]byte
	size    int64 // octets read and good
	last    int64 // highest number
	waiting []place
	broken  error // after an fsync that did not succeed nothing more is written
}

// place is where a waiting item is in the file.
type place struct {
	number       int64
	offset       int64
	length       int
	deviceSerial string
	kind         string
}

// request is an item whose caller waits until it is on the disk.
type request struct {
	item Item
	err  error
	done bool
}

// Open opens the folder's queue, or makes it.
func Open(c Config) (*Queue, error) {
	q := &Queue{path: filepath.Join(c.Dir, "queue"), limit: c.Limit}
	if q.limit <= 0 {
		q.limit = DefaultLimit
	}
	var err error
	for _, one := range []struct {
		file **os.File
		name string
	}{{&q.lock, q.path + ".lock"}, {&q.turn, q.path + ".turn"}, {&q.file, q.path}} {
		if *one.file, err = os.OpenFile(one.name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			q.Close()
			return nil, fault.Wrap(fault.StationQueue, err)
		}
	}
	if err := q.act(func() error { return nil }); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// Close lets go of the files.
func (q *Queue) Close() {
	for _, f := range []*os.File{q.file, q.turn, q.lock} {
		if f != nil {
			_ = f.Close() // all that matters was synced
		}
	}
}

// act does something with the file as it is now, whoever else wrote to it.
func (q *Queue) act(do func() error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := durable.Lock(q.lock); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	defer durable.Unlock(q.lock)
	if err := q.refresh(); err != nil {
		return err
	}
	return do()
}

// refresh reads what is new in the file. A torn end is cut off.
func (q *Queue) refresh() error {
	var header [headerLen]byte
	_, err := q.file.ReadAt(header[:], 0)
	if errors.Is(err, io.EOF) {
		return q.begin() // new, or torn before anything was in it
	}
	if err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	if string(header[:len(headerMagic)]) != headerMagic {
		return fault.New(fault.StationQueue, "the file is not a queue")
	}
	info, err := q.file.Stat()
	if err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	if header != q.header || info.Size() < q.size {
		q.header, q.size, q.last, q.waiting = header, int64(headerLen), 0, nil
	}
	if info.Size() == q.size {
		return nil
	}
	return q.readFrom(info.Size())
}

// begin writes the header of an empty file.
func (q *Queue) begin() error {
	header := headerMagic + rand.Text()[:headerLen-len(headerMagic)]
	if _, err := q.file.WriteAt([]byte(header), 0); err != nil {
		_ = q.file.Truncate(0)
		return fault.Wrap(fault.StationQueue, err)
	}
	if err := errors.Join(q.file.Truncate(int64(headerLen)), q.file.Sync(), durable.SyncFolder(filepath.Dir(q.path))); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	q.header, q.size, q.last, q.waiting = [headerLen]byte([]byte(header)), int64(headerLen), 0, nil
	return nil
}

func (q *Queue) readFrom(end int64) error {
	b := make([]byte, end-q.size)
	if _, err := q.file.ReadAt(b, q.size); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	for len(b) > 0 {
		p, n, err := parseRecord(b)
		if errors.Is(err, errTorn) {
			if err := q.file.Truncate(q.size); err != nil {
				return fault.Wrap(fault.StationQueue, err)
			}
			return nil
		}
		if err != nil {
			return fault.Wrap(fault.StationQueue, err, "the queue's file is damaged at octet", q.size)
		}
		q.note(&p, n)
		b = b[n:]
	}
	return nil
}

// note takes account of a record of n octets behind what was read.
func (q *Queue) note(p *payload, n int) {
	if p.Number != 0 {
		q.waiting = append(q.waiting, place{p.Number, q.size, n, p.DeviceSerial(), p.Kind()})
		q.last = max(q.last, p.Number)
	} else {
		q.drop(p.Done)
	}
	q.size += int64(n)
}

func (q *Queue) drop(numbers []int64) {
	done := make(map[int64]bool, len(numbers))
	for _, n := range numbers {
		done[n] = true
	}
	kept := q.waiting[:0]
	for _, p := range q.waiting {
		if !done[p.number] {
			kept = append(kept, p)
		}
	}
	q.waiting = kept
}

// Append puts an item behind all others. When it returns nil the item is on the
// disk. Callers that come together share one write.
func (q *Queue) Append(item Item) error {
	if !item.valid() {
		return fmt.Errorf("an item of the queue is one thing")
	}
	r := &request{item: item}
	q.gather.Lock()
	q.want = append(q.want, r)
	q.gather.Unlock()
	err := q.act(func() error {
		q.gather.Lock()
		all := q.want
		q.want = nil
		q.gather.Unlock()
		q.write(all)
		return nil
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.done {
		return r.err
	}
	// The lock or the file could not be had; another caller may have the item in
	// hand, but then it is done by now.
	q.gather.Lock()
	defer q.gather.Unlock()
	for i, one := range q.want {
		if one == r {
			q.want = append(q.want[:i], q.want[i+1:]...)
			break
		}
	}
	return err
}

// write puts items on the disk, all or none but those over the limit.
func (q *Queue) write(all []*request) {
	fail := func(err error) {
		for _, r := range all {
			if !r.done {
				r.err, r.done = err, true
			}
		}
	}
	if q.broken != nil {
		fail(q.broken)
		return
	}
	var out []byte
	var notes []payload
	var lengths []int
	for _, r := range all {
		if len(q.waiting)+len(notes) >= q.limit {
			r.err, r.done = fault.New(fault.StationQueue, q.limit, "items wait already"), true
			continue
		}
		p := payload{Number: q.last + int64(len(notes)) + 1, Item: r.item}
		before := len(out)
		longer, err := appendRecord(out, &p)
		if err != nil {
			r.err, r.done = fault.Wrap(fault.StationQueue, err), true
			continue
		}
		out, notes, lengths = longer, append(notes, p), append(lengths, len(longer)-before)
	}
	if err := q.extend(out); err != nil {
		fail(err)
		return
	}
	for i := range notes {
		q.note(&notes[i], lengths[i])
	}
	fail(nil)
}

// extend writes behind the last record and syncs.
func (q *Queue) extend(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	if _, err := q.file.WriteAt(out, q.size); err != nil {
		// A full disk: what was written of it is cut off, and the next item tries anew.
		_ = q.file.Truncate(q.size)
		return fault.Wrap(fault.StationQueue, err, "the disk does not take more")
	}
	if err := q.file.Sync(); err != nil {
		// Nobody knows what is on the disk now.
		_ = q.file.Truncate(q.size)
		q.broken = fault.Wrap(fault.StationQueue, err, "the disk did not keep what was written; restart the station once it is well")
		return q.broken
	}
	return nil
}

// Len returns how many items wait.
func (q *Queue) Len() (int, error) {
	n := 0
	err := q.act(func() error { n = len(q.waiting); return nil })
	return n, err
}

// Has reports whether an item about this unit waits, so that later ones have to
// queue up behind it. It looks at what this process knows.
func (q *Queue) Has(deviceSerial string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.waiting {
		if p.deviceSerial == deviceSerial {
			return true
		}
	}
	return false
}

// Items returns what waits, in order, at most limit of it.
func (q *Queue) Items(limit int) ([]Item, error) {
	var items []Item
	err := q.act(func() error {
		for _, p := range q.waiting[:min(limit, len(q.waiting))] {
			item, err := q.read(p)
			if err != nil {
				return err
			}
			items = append(items, item)
		}
		return nil
	})
	return items, err
}

func (q *Queue) read(p place) (Item, error) {
	b := make([]byte, p.length)
	if _, err := q.file.ReadAt(b, p.offset); err != nil {
		return Item{}, fault.Wrap(fault.StationQueue, err)
	}
	record, _, err := parseRecord(b)
	if err != nil || record.Number != p.number {
		return Item{}, fault.Wrap(fault.StationQueue, err, "the queue's file is damaged at octet", p.offset)
	}
	return record.Item, nil
}

// finish notes that items are done. It needs no sync: what is forgotten is sent
// again. A file in which nothing waits is emptied.
func (q *Queue) finish(numbers []int64) error {
	return q.act(func() error {
		if q.broken != nil {
			return q.broken
		}
		p := payload{Done: numbers}
		out, err := appendRecord(nil, &p)
		if err != nil {
			return err
		}
		n := len(out)
		q.drop(numbers)
		if len(q.waiting) == 0 {
			return q.empty()
		}
		if _, err := q.file.WriteAt(out, q.size); err != nil {
			_ = q.file.Truncate(q.size)
			return fault.Wrap(fault.StationQueue, err)
		}
		q.size += int64(n)
		return nil
	})
}

// empty takes all records away. Other processes see by the new generation that
// what they have read is gone; it is written first, so that no moment exists at
// which they could take new records for old ones.
func (q *Queue) empty() error {
	header := headerMagic + rand.Text()[:headerLen-len(headerMagic)]
	if _, err := q.file.WriteAt([]byte(header), 0); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	q.header = [headerLen]byte([]byte(header))
	if err := q.file.Truncate(int64(headerLen)); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	q.size, q.last, q.waiting = int64(headerLen), 0, nil
	return nil
}

// refusedPath is where items are kept that the server does not take.
func (q *Queue) refusedPath() string { return q.path + ".refused" }

// Refused is an item that the server did not take, with its reason.
type Refused struct {
	Item
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
	Remedy  string `json:"remedy"`
}

// keepRefused writes refusals where people find them.
func (q *Queue) keepRefused(all []Refused) error {
	if len(all) == 0 {
		return nil
	}
	var out []byte
	for i := range all {
		line, err := json.Marshal(&all[i])
		if err != nil {
			return err
		}
		out = append(append(out, line...), '\n')
	}
	f, err := os.OpenFile(q.refusedPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	_, err = f.Write(out)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fault.Wrap(fault.StationQueue, err)
	}
	return nil
}

// Refused returns the items that the server did not take.
func (q *Queue) Refused() ([]Refused, error) {
	f, err := os.Open(q.refusedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.StationQueue, err)
	}
	defer f.Close()
	var all []Refused
	for d := json.NewDecoder(f); ; {
		var r Refused
		if err := d.Decode(&r); err != nil {
			return all, nil // the last one may be half written; it is in the queue still
		}
		all = append(all, r)
	}
}
