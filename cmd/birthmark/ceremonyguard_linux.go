package main

import "golang.org/x/sys/unix"

// guardSecrets keeps this process's memory out of core files and away from
// debuggers. Where that is not possible the runbook's machine still has neither.
func guardSecrets() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
