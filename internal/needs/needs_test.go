package needs_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/needs"
)

// recorder notes how a test ended instead of ending.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func record(t *testing.T, test func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
	}()
	<-done
	return r
}

func TestWhatIsMissingIsANamedSkip(t *testing.T) {
	t.Setenv(needs.NoSkip, "")
	t.Setenv(needs.PostgresDSN, "")
	for name, need := range map[string]func(testing.TB){
		"no-such-program-anywhere": func(t testing.TB) { needs.Command(t, "no-such-program-anywhere") },
		"PostgreSQL":               func(t testing.TB) { needs.Postgres(t) },
		"a full moon":              func(t testing.TB) { needs.Need(t, "a full moon", false) },
	} {
		r := record(t, need)
		if r.failed != "" || !strings.Contains(r.skipped, name) {
			t.Errorf("%s: skipped %q, failed %q; want a skip that names it", name, r.skipped, r.failed)
		}
	}
}

func TestWhatIsMissingFailsWhereSkippingIsForbidden(t *testing.T) {
	t.Setenv(needs.NoSkip, "1")
	t.Setenv(needs.PostgresDSN, "")
	r := record(t, func(t testing.TB) { needs.Postgres(t) })
	if r.skipped != "" || !strings.Contains(r.failed, "PostgreSQL") {
		t.Errorf("skipped %q, failed %q; want a failure that names PostgreSQL", r.skipped, r.failed)
	}
}

func TestWhatIsThereIsReturned(t *testing.T) {
	t.Setenv(needs.NoSkip, "1")
	t.Setenv(needs.PostgresDSN, "postgres:///here")
	if dsn := needs.Postgres(t); dsn != "postgres:///here" {
		t.Errorf("DSN %q", dsn)
	}
	needs.Need(t, "nothing", true)
}
