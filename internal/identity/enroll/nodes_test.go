package enroll_test

import (
	"crypto/x509"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/needs"
)

// onEachStore runs a test with two nodes on SQLite and on PostgreSQL.
func onEachStore(t *testing.T, test func(t *testing.T, first, second *world)) {
	t.Run("SQLite", func(t *testing.T) {
		w := newWorldOn(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"))
		test(t, w, w.secondNode())
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		w := newWorldOn(t, ownSchema(t, needs.Postgres(t)))
		test(t, w, w.secondNode())
	})
}

// ownSchema makes a schema of the test's own.
func ownSchema(t *testing.T, dsn string) string {
	t.Helper()
	name := "enroll_" + strconv.FormatInt(int64(schemas.Add(1)), 10)
	conn, err := pgx.Connect(t.Context(), dsn)
	must(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "DROP SCHEMA IF EXISTS "+name+" CASCADE; CREATE SCHEMA "+name)
	must(t, err)
	separator := "?"
	for _, c := range dsn {
		if c == '?' {
			separator = "&"
		}
	}
	return dsn + separator + "search_path=" + name
}

var schemas atomic.Int64

// end revokes a credential.
func (w *world) end(c *device.Credential) error {
	now := w.clock()
	return w.store.Revoke(w.t.Context(), access.Everything(), status.Revocation{
		Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, At: now, Reason: 1, NotAfter: c.NotAfter,
	}, ledger.Entry{Kind: ledger.CertificateRevoked, At: now, Actor: "system", Body: &ledger.Revoked{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device), Reason: 1, RevokedAt: now, NotAfter: c.NotAfter,
	}})
}

// TestNothingIsRenewedAfterRevokeReturned revokes on one node while the other
// renews: a renewal that begins after the revocation has returned is refused,
// at whatever moment it comes.
func TestNothingIsRenewedAfterRevokeReturned(t *testing.T) {
	const rounds, renewers = 25, 4
	onEachStore(t, func(t *testing.T, first, second *world) {
		first.product("sensor", "ldevid-cloud")
		for i := range rounds {
			r, err := first.bySecret(first.device("sensor", "SN-"+strconv.Itoa(i)), newCSR(t, newKey(t), nil))
			must(t, err)
			cert := parsed(t, r)
			var over atomic.Bool
			var wg sync.WaitGroup
			for range renewers {
				wg.Go(func() { renewUntilRefused(t, second, cert, &over) })
			}
			must(t, first.end(&r.Credential))
			over.Store(true)
			wg.Wait()
		}
	})
}

func renewUntilRefused(t *testing.T, w *world, cert *x509.Certificate, over *atomic.Bool) {
	for range 200 {
		late := over.Load()
		_, err := w.byCertificate(enroll.Reenroll, cert, "", newCSR(t, newKey(t), cert.RawSubject))
		switch {
		case fault.Has(err, fault.CredentialRevoked):
			return
		case err == nil && late:
			t.Error("a renewal that began after the revocation had returned was stored")
			return
		case err != nil && !fault.Has(err, fault.IssuanceBusy) && !fault.Has(err, fault.CredentialSuperseded):
			t.Errorf("refused with %v", err)
			return
		}
	}
	t.Error("the revocation is not seen")
}

// TestNothingIsIssuedAfterAnAuthorityRetired shows that a stale view of the
// control plane does not get through STORE.
func TestNothingIsIssuedAfterAnAuthorityRetired(t *testing.T) {
	onEachStore(t, func(t *testing.T, first, second *world) {
		first.product("sensor", "ldevid-cloud")
		d := first.device("sensor", "SN-1")
		_, err := second.plane.Refresh(t.Context())
		must(t, err)
		must(t, first.plane.Retire(t.Context(), "system", "issuing"))
		_, err = second.bySecret(d, newCSR(t, newKey(t), nil))
		refused(t, err, fault.AuthorityState)
	})
}

// TestOneSecretAcrossNodes spends one secret on both nodes at once.
func TestOneSecretAcrossNodes(t *testing.T) {
	onEachStore(t, func(t *testing.T, first, second *world) {
		first.product("sensor", "ldevid-cloud")
		for i := range 20 {
			d := first.device("sensor", "SN-"+strconv.Itoa(i))
			var handed atomic.Int64
			var wg sync.WaitGroup
			for _, w := range []*world{first, second, first, second} {
				csr := newCSR(t, newKey(t), nil)
				wg.Go(func() {
					_, err := w.bySecret(d, csr)
					if err == nil {
						handed.Add(1)
					} else if !fault.Has(err, fault.SecretSpent) {
						t.Errorf("refused with %v", err)
					}
				})
			}
			wg.Wait()
			if handed.Load() != 1 {
				t.Errorf("%d certificates for one secret", handed.Load())
			}
		}
	})
}
