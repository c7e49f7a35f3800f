package status_test

import "testing"

func BenchmarkRepeatedOCSP(b *testing.B) {
	w := newWorld(b)
	c := w.issue(b)
	request := ocspRequest(b, w.certificate(b, "issuing"), parse(b, c.DER))
	ctx := b.Context()
	_, err := w.Answer(ctx, request)
	noError(b, err)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.Answer(ctx, request); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkFirstOCSP(b *testing.B) {
	w := newWorld(b)
	c := w.issue(b)
	request := ocspRequest(b, w.certificate(b, "issuing"), parse(b, c.DER))
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		w.ForgetAnswers()
		if _, err := w.Answer(ctx, request); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRepeatedOCSPCostsNoMemory keeps the path of a repeated request at a hash
// and a look-up.
func TestRepeatedOCSPCostsNoMemory(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t)
	request := ocspRequest(t, w.certificate(t, "issuing"), parse(t, c.DER))
	ctx := t.Context()
	_, err := w.Answer(ctx, request)
	noError(t, err)
	if n := testing.AllocsPerRun(100, func() { _, _ = w.Answer(ctx, request) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
