package queue_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/edge/station/queue"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/needs"
)

func open(t testing.TB, dir string, limit int) *queue.Queue {
	t.Helper()
	q, err := queue.Open(queue.Config{Dir: dir, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}

func confirm(name string) queue.Item {
	return queue.Item{Confirm: &station.Confirm{Order: "PO-1", DeviceSerial: name, Certificate: []byte("certificate"), Signature: []byte("signature")}}
}

func scrap(name string) queue.Item {
	return queue.Item{Scrap: &station.Scrap{Order: "PO-1", DeviceSerial: name, Reason: "fell down"}}
}

func names(t testing.TB, q *queue.Queue) []string {
	t.Helper()
	items, err := q.Items(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range items {
		all = append(all, items[i].Kind()+" "+items[i].DeviceSerial())
	}
	return all
}

func appendAll(t testing.TB, q *queue.Queue, items ...queue.Item) {
	t.Helper()
	for _, one := range items {
		if err := q.Append(one); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQueueKeepsOrderOverRestarts(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 0)
	appendAll(t, q, confirm("1"), scrap("1"), confirm("2"))
	q.Close()
	q = open(t, dir, 0)
	appendAll(t, q, confirm("3"))
	if got := fmt.Sprint(names(t, q)); got != "[confirm 1 scrap 1 confirm 2 confirm 3]" {
		t.Errorf("the queue holds %s", got)
	}
	if !q.Has("2") || q.Has("4") {
		t.Error("Has is wrong")
	}
}

// TestFlushKeepsTheOrderOfAUnit: a unit's scrap never overtakes its confirmation,
// and what is not heard stays.
func TestFlushKeepsTheOrderOfAUnit(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 0)
	appendAll(t, q, confirm("1"), confirm("2"), scrap("1"), confirm("bad"), confirm("3"))
	var mu sync.Mutex
	var heard []string
	down := true
	send := func(_ context.Context, item *queue.Item) error {
		mu.Lock()
		defer mu.Unlock()
		name := item.Kind() + " " + item.DeviceSerial()
		switch {
		case down && name == "confirm 1":
			return fault.New(fault.StationLink)
		case name == "confirm bad":
			return fault.New(fault.UnitUnknown)
		}
		heard = append(heard, name)
		return nil
	}
	f, err := q.Flush(t.Context(), send)
	if !fault.Has(err, fault.StationLink) || f.Sent != 1 || f.Left != 4 {
		t.Fatalf("%+v, %v", f, err)
	}
	q.Close()
	q = open(t, dir, 0)
	down = false
	f, err = q.Flush(t.Context(), send)
	if err != nil || f != (queue.Flushed{Sent: 3, Refused: 1}) {
		t.Fatalf("%+v, %v", f, err)
	}
	if slices.Index(heard, "confirm 1") > slices.Index(heard, "scrap 1") || len(heard) != 4 {
		t.Errorf("the server heard %v", heard)
	}
	refused, err := q.Refused()
	if err != nil || len(refused) != 1 || refused[0].DeviceSerial() != "bad" || refused[0].Code != "BM-8062" {
		t.Errorf("refused %+v, %v", refused, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "queue")); err != nil || info.Size() > 64 {
		t.Errorf("the empty queue has %d octets, %v", info.Size(), err)
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := open(t, t.TempDir(), 2)
	appendAll(t, q, confirm("1"), confirm("2"))
	if err := q.Append(confirm("3")); !fault.Has(err, fault.StationQueue) {
		t.Errorf("the third of two: %v", err)
	}
	if _, err := q.Flush(t.Context(), func(context.Context, *queue.Item) error { return nil }); err != nil {
		t.Fatal(err)
	}
	appendAll(t, q, confirm("3"))
}

func TestQueueRefusesWhatIsNoItem(t *testing.T) {
	q := open(t, t.TempDir(), 0)
	both := confirm("1")
	both.Scrap = scrap("1").Scrap
	for _, bad := range []queue.Item{{}, both} {
		if q.Append(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	long := confirm(strings.Repeat("x", 200<<10))
	if err := q.Append(long); !fault.Has(err, fault.StationQueue) {
		t.Errorf("an item too long: %v", err)
	}
	appendAll(t, q, confirm("2"))
	if got := names(t, q); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

// TestTornEndIsDroppedAndDamageIsReported cuts and changes the file at every
// octet: a cut loses only what was not whole, a change in the middle is never
// passed over in silence.
func TestTornEndIsDroppedAndDamageIsReported(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 0)
	var ends []int64
	for _, name := range []string{"1", "2", "3"} {
		appendAll(t, q, confirm(name))
		info, err := os.Stat(filepath.Join(dir, "queue"))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, info.Size())
	}
	q.Close()
	whole, err := os.ReadFile(filepath.Join(dir, "queue"))
	if err != nil {
		t.Fatal(err)
	}
	wholeRecords := func(n int64) int {
		count := 0
		for _, end := range ends {
			if end <= n {
				count++
			}
		}
		return count
	}
	for cut := range whole {
		for _, zeros := range []int{0, 100} { // a power cut may leave octets that were never written
			other := t.TempDir()
			torn := append(slices.Clone(whole[:cut]), make([]byte, zeros)...)
			if cut < 32 && zeros > 0 {
				continue
			}
			if err := os.WriteFile(filepath.Join(other, "queue"), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			q := open(t, other, 0)
			if got := len(names(t, q)); got != wholeRecords(int64(cut)) {
				t.Fatalf("cut at %d: %d items, want %d", cut, got, wholeRecords(int64(cut)))
			}
			appendAll(t, q, confirm("after"))
			q.Close()
			q = open(t, other, 0)
			if got := names(t, q); got[len(got)-1] != "confirm after" {
				t.Fatalf("cut at %d: what came after the cut is lost: %v", cut, got)
			}
			q.Close()
		}
	}
	for at := 32; at < int(ends[1]); at += 7 {
		other := t.TempDir()
		damaged := slices.Clone(whole)
		damaged[at] ^= 0x20
		if err := os.WriteFile(filepath.Join(other, "queue"), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if q, err := queue.Open(queue.Config{Dir: other}); !fault.Has(err, fault.StationQueue) {
			q.Close()
			t.Fatalf("a change at octet %d was not noticed: %v", at, err)
		}
	}
}

// TestProcessesShareAQueue stands for several calls of "unit" at once.
func TestProcessesShareAQueue(t *testing.T) {
	dir := t.TempDir()
	var heard sync.Map
	var work sync.WaitGroup
	const each = 60
	for p := range 4 {
		q := open(t, dir, 0)
		work.Go(func() {
			for i := range each {
				if err := q.Append(confirm(fmt.Sprintf("%d-%d", p, i))); err != nil {
					t.Error(err)
				}
				if i%20 == 19 {
					_, err := q.Flush(t.Context(), func(_ context.Context, item *queue.Item) error {
						heard.Store(item.DeviceSerial(), true)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	q := open(t, dir, 0)
	if _, err := q.Flush(t.Context(), func(_ context.Context, item *queue.Item) error {
		heard.Store(item.DeviceSerial(), true)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for p := range 4 {
		for i := range each {
			if _, ok := heard.Load(fmt.Sprintf("%d-%d", p, i)); !ok {
				t.Errorf("item %d-%d was never sent", p, i)
			}
		}
	}
}

// TestQueueAgainstAModel compares the queue with a list under any sequence of
// appending, sending with failures, and reopening.
func TestQueueAgainstAModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			r.Fatal(err)
		}
		q := open(t, dir, 0)
		var model []string
		for step := range rapid.IntRange(1, 30).Draw(r, "steps") {
			switch rapid.IntRange(0, 3).Draw(r, "act") {
			case 0, 1:
				name := fmt.Sprint(rapid.IntRange(0, 4).Draw(r, "unit"))
				item := confirm(name)
				if rapid.Bool().Draw(r, "scrap") {
					item = scrap(name)
				}
				appendAll(t, q, item)
				model = append(model, item.Kind()+" "+name)
			case 2:
				deaf := fmt.Sprint(rapid.IntRange(0, 8).Draw(r, "deaf"))
				var mu sync.Mutex
				heard := map[string][]string{}
				_, _ = q.Flush(t.Context(), func(_ context.Context, item *queue.Item) error {
					if item.DeviceSerial() == deaf {
						return fault.New(fault.StationLink)
					}
					mu.Lock()
					defer mu.Unlock()
					heard[item.DeviceSerial()] = append(heard[item.DeviceSerial()], item.Kind()+" "+item.DeviceSerial())
					return nil
				})
				// What was heard of each unit are the first of its items, in order.
				for unit, acts := range heard {
					for _, act := range acts {
						i := slices.IndexFunc(model, func(one string) bool { return strings.HasSuffix(one, " "+unit) })
						if i < 0 || model[i] != act {
							r.Fatalf("step %d: heard %q, want the first of %v", step, act, model)
						}
						model = slices.Delete(model, i, i+1)
					}
				}
			case 3:
				q.Close()
				q = open(t, dir, 0)
			}
			if got := names(t, q); !slices.Equal(got, model) {
				r.Fatalf("step %d: the queue holds %v, want %v", step, got, model)
			}
		}
		q.Close()
	})
}

const crashDir = "BIRTHMARK_QUEUE_CRASH"

// TestMain turns the test binary into the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashChild(dir)
		return
	}
	os.Exit(m.Run())
}

// crashChild appends and sends without end, and says what it was told is kept and
// what was sent.
func crashChild(dir string) {
	q, err := queue.Open(queue.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("%d-%d", os.Getpid(), i)
		if err := q.Append(confirm(name)); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("kept", name)
		if i%7 != 6 {
			continue
		}
		_, err := q.Flush(context.Background(), func(_ context.Context, item *queue.Item) error {
			if rand.IntN(10) == 0 {
				return fault.New(fault.StationLink)
			}
			fmt.Println("sent", item.DeviceSerial())
			return nil
		})
		if err != nil && !fault.Has(err, fault.StationLink) {
			fmt.Println("error", err)
			return
		}
	}
}

// TestKilledProcessLosesNothing kills a process at any moment, many times over:
// whatever it was told is kept was sent or is still there.
func TestKilledProcessLosesNothing(t *testing.T) {
	needs.Unix(t)
	dir := t.TempDir()
	kept, sent := map[string]bool{}, map[string]bool{}
	for range 25 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		kill := time.AfterFunc(time.Duration(5+rand.IntN(60))*time.Millisecond, func() { _ = child.Process.Kill() })
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
					t.Fatal(err)
				}
				break
			}
			what, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch what {
			case "kept":
				kept[name] = true
			case "sent":
				sent[name] = true
			default:
				t.Fatalf("the process said %q", line)
			}
		}
		kill.Stop()
		_ = child.Wait() // it was killed
	}
	q := open(t, dir, 0)
	for _, one := range names(t, q) {
		sent[strings.TrimPrefix(one, "confirm ")] = true
	}
	for name := range kept {
		if !sent[name] {
			t.Errorf("%s was kept and is gone", name)
		}
	}
	if len(kept) < 25 {
		t.Errorf("only %d items were kept: nothing was tried", len(kept))
	}
}
