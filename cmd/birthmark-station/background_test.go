package main

import (
	"net"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptServed is "served ADDRESS": waits until a background command answers.
func scriptServed(ts *testscript.TestScript, _ bool, args []string) {
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", args[0]); err == nil {
			_ = c.Close() // it was only to see whether somebody answers
			return
		}
	}
	ts.Fatalf("nobody answers at %s", args[0])
}

// scriptTerm is "term": tells the background commands to stop.
func scriptTerm(ts *testscript.TestScript, _ bool, _ []string) {
	for _, b := range ts.BackgroundCmds() {
		ts.Check(b.Process.Signal(os.Interrupt))
	}
}
