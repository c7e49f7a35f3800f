// Package needs is how a test says what it needs of the machine: a database, a
// foreign client, time. What is missing is a skip that names it, so that
// `go test ./...` passes with Go alone; with BIRTHMARK_NO_SKIP=1, which
// `make test` and CI set, it is a failure, so that nothing goes untested
// without anyone noticing. No other package may skip a test (internal/archtest
// looks).
package needs

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// NoSkip is the environment variable that turns every skip into a failure.
const NoSkip = "BIRTHMARK_NO_SKIP"

// PostgresDSN is the environment variable that names a PostgreSQL server whose
// user may create databases. tools/postgres sets it.
const PostgresDSN = "BIRTHMARK_TEST_POSTGRES"

// Need skips the test, or fails it where skipping is forbidden, unless ok. What
// completes the sentence "needs ...".
func Need(t testing.TB, what string, ok bool) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv(NoSkip) == "1" {
		t.Fatalf("needs %s, and %s=1 forbids to skip; `make test` installs what is missing", what, NoSkip)
	}
	t.Skipf("needs %s", what)
}

// Command returns the path of a program that the test runs.
func Command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	Need(t, "the program "+name, err == nil)
	return path
}

// OpenSSL returns the path of the openssl program.
func OpenSSL(t testing.TB) string {
	t.Helper()
	return Command(t, "openssl")
}

// Curl returns the path of the curl program.
func Curl(t testing.TB) string {
	t.Helper()
	return Command(t, "curl")
}

// Postgres returns the connection string of a PostgreSQL server. The test makes
// a database of its own there.
func Postgres(t testing.TB) string {
	t.Helper()
	dsn := os.Getenv(PostgresDSN)
	Need(t, "PostgreSQL, named by "+PostgresDSN, dsn != "")
	return dsn
}

// Linux limits a test to what only Linux offers, for example /proc.
func Linux(t testing.TB) {
	t.Helper()
	Need(t, "Linux", runtime.GOOS == "linux")
}

// Unix limits a test to systems with Unix file modes, signals and sockets.
func Unix(t testing.TB) {
	t.Helper()
	Need(t, "a Unix system", runtime.GOOS != "windows" && runtime.GOOS != "plan9")
}

// Root limits a test to the user who may mount file systems. Who works without
// that right gets a named skip also from `make test`; CI, which sets CI, does
// not.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("needs root, and CI forbids to skip")
	}
	t.Skip("needs root")
}

// Time skips a test that takes long when -short was asked for. It is the one
// skip that BIRTHMARK_NO_SKIP does not forbid: -short is a choice of whoever
// runs the tests, and CI does not make it.
func Time(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs time, and -short was asked for")
	}
}

// PKCS11Build runs the tests of the package in the current folder once more, in a
// build that has PKCS #11, with SoftHSM.
func PKCS11Build(t *testing.T) {
	t.Helper()
	Time(t)
	Command(t, "cc")
	Command(t, "softhsm2-util")
	cmd := exec.CommandContext(t.Context(), Command(t, "go"), "test", "-tags", "pkcs11", "-count=1", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}
