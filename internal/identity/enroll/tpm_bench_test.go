//go:build unix

package enroll_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/enroll"
)

// processor returns the time that this process has had on processors.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// atOnce does n pieces of work, 64 at a time, and returns the processor time that
// they took.
func atOnce(b *testing.B, n int, do func(i int) error) time.Duration {
	b.Helper()
	work := make(chan int)
	before := processor(b)
	b.StartTimer()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range work {
				if err := do(i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	return processor(b) - before
}

// BenchmarkEnrollDevice compares what a device's enrollment costs the server, all
// but the wire: plain, as EST does it, and with a TPM, challenge and answer.
func BenchmarkEnrollDevice(b *testing.B) {
	report := func(b *testing.B, spent time.Duration) {
		b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-µs/op")
	}
	b.Run("plain", func(b *testing.B) {
		b.StopTimer()
		f := newField(b, nil)
		f.world.product("plain", "ldevid-cloud")
		requests := make([]enroll.Request, b.N)
		for i := range requests {
			d := f.device("plain", fmt.Sprintf("SN-%d", i))
			requests[i] = enroll.Request{
				Operation: enroll.Enroll, CSR: newCSR(b, newKey(b), nil),
				Requester: enroll.Requester{DeviceSerial: d.Device.DeviceSerial, Secret: []byte(d.Secret)},
			}
		}
		report(b, atOnce(b, b.N, func(i int) error {
			_, err := f.enroller.Enroll(b.Context(), requests[i])
			return err
		}))
	})
	for _, form := range []string{"L-1", "L-2", "H-3"} {
		b.Run("tpm/"+form, func(b *testing.B) {
			b.StopTimer()
			f := newField(b, nil)
			devices := make([]*tpmDevice, b.N)
			challenges := make([]*wire.Challenge, b.N)
			for i := range devices {
				devices[i] = f.deviceWith(newTPM(b, f.maker, fmt.Sprintf("SN-%d", i), tpmtest.Options{EK: form}))
			}
			spent := atOnce(b, b.N, func(i int) (err error) {
				challenges[i], err = f.challengeFor(devices[i], "")
				return err
			})
			requests := make([]enroll.Request, b.N)
			for i, d := range devices {
				a, err := d.Answer(d.ak, d.key, challenges[i])
				must(b, err)
				requests[i] = enroll.Request{Operation: enroll.Enroll, Requester: d.who, TPM: &a, CSR: newCSR(b, d.key.Signer, nil)}
			}
			spent += atOnce(b, b.N, func(i int) error {
				_, err := f.enrolls(requests[i])
				return err
			})
			report(b, spent)
		})
	}
}
