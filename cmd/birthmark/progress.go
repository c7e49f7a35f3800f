package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// progress draws a bar on a terminal and nothing elsewhere.
type progress struct {
	io    *streams
	what  string
	total int
	mu    sync.Mutex
	count int // guarded by mu
	drawn time.Time
}

func newProgress(io *streams, what string, total int) *progress {
	return &progress{io: io, what: what, total: total}
}

func (p *progress) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count += n
	if !p.io.terminal || time.Since(p.drawn) < 50*time.Millisecond {
		return
	}
	p.drawn = time.Now()
	const width = 40
	full := width * p.count / p.total
	fmt.Fprintf(p.io.out, "\r%s [%s%s] %d/%d", p.what, strings.Repeat("=", full), strings.Repeat(" ", width-full), p.count, p.total)
}

// done removes the bar.
func (p *progress) done() {
	if p.io.terminal {
		fmt.Fprint(p.io.out, "\r\033[K")
	}
}
