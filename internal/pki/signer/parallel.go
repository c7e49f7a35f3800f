package signer

import "sync"

// parallel runs n copies of work and waits for them; one of them is the caller.
func parallel(n int, work func()) {
	var others sync.WaitGroup
	for range n - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}
