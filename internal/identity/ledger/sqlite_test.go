package ledger_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/identity/status"
	"github.com/birthmark/birthmark/internal/store"
)

// plant is a database that acts went through, as the product does them.
type plant struct {
	*testing.T
	s     *store.Store
	now   time.Time
	lease device.SerialLease
	used  int
	keys  uint64
	order int64 // production order
}

func openStore(t *testing.T, path string, readOnly bool) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{DSN: "sqlite:" + path, Node: "n1", Logger: slog.New(slog.DiscardHandler), ReadOnly: readOnly, OwnClock: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (p *plant) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *plant) entry(k ledger.Kind, b ledger.Body) ledger.Entry {
	return ledger.Entry{Kind: k, At: p.now, Actor: "operator:eve", Body: b}
}

func (p *plant) register(n int) []device.Device {
	p.Helper()
	var list []device.Device
	var entries []ledger.Entry
	for i := range n {
		serial := fmt.Sprintf("SN%d-%d", p.keys, i)
		d := device.Device{
			ID: p.s.DeviceID(serial), DeviceSerial: serial, Product: 1, Region: "eu", Labels: map[string]string{"line": fmt.Sprint(i % 3)},
			State: device.Registered, Version: 1, Secret: device.Secret{Set: true, Hash: sha256.Sum256([]byte(serial))}, RegisteredAt: p.now, ChangedAt: p.now,
		}
		list = append(list, d)
		entries = append(entries, p.entry(ledger.DeviceRegistered, &ledger.Registered{
			Device: int64(d.ID), DeviceSerial: serial, Product: 1, Version: 1, State: uint8(d.State), Region: d.Region,
			Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash,
		}))
	}
	p.ok(p.s.AddDevices(p.Context(), access.Everything(), list, entries...))
	return list
}

func (p *plant) serial() device.CredentialID {
	p.Helper()
	if p.used == p.lease.Count {
		if p.lease.Count > 0 {
			p.ok(p.s.CloseLease(p.Context(), p.lease.LeaseRef, p.now))
		}
		var err error
		p.lease, err = p.s.LeaseSerials(p.Context(), p.s.Node(), 40, p.now)
		p.ok(err)
		p.used = 0
	}
	p.used++
	return p.lease.First + device.CredentialID(p.used-1)
}

func (p *plant) issue(id device.ID, purpose string) device.Credential {
	p.Helper()
	d, err := p.s.Device(p.Context(), access.Everything(), id)
	p.ok(err)
	control, err := p.s.Control(p.Context())
	p.ok(err)
	p.keys++
	c := device.Credential{
		ID: p.serial(), Authority: 1, Profile: 1, Kind: "ldevid", Purpose: purpose, Device: d.ID, Product: d.Product, Site: d.Site, Owner: d.Owner,
		State: device.Issued, KeyKind: device.KeySoftware, NotBefore: p.now.Truncate(time.Second), NotAfter: p.now.Truncate(time.Second).AddDate(1, 0, 0),
		SPKIDigest: sha256.Sum256(binary.BigEndian.AppendUint64(nil, p.keys)), Idempotency: sha256.Sum256(binary.BigEndian.AppendUint64([]byte("i"), p.keys)),
		IssuedAt: p.now, DER: fmt.Appendf(nil, "certificate %d", p.keys),
	}
	c.CertSerial = p.s.CertSerial(p.lease, c.ID)
	c.Previous = d.Current[c.Slot()]
	change := &device.Change{ID: d.ID, Version: d.Version, State: device.Active, Slot: c.Slot(), Supersedes: c.Previous}
	if d.Secret.SpentAt.IsZero() {
		change.SpendSPKI = &c.SPKIDigest
	}
	body := &ledger.Issued{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: 1, Profile: 1, Kind: c.Kind, Purpose: purpose, Device: int64(d.ID),
		DeviceSerial: d.DeviceSerial, DeviceVersion: d.Version + 1, DeviceState: uint8(change.State), Slot: string(change.Slot),
		SecretSpent: change.SpendSPKI != nil, Supersedes: int64(change.Supersedes), Product: c.Product, Site: c.Site, Owner: c.Owner,
		KeyKind: uint8(c.KeyKind), NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER),
		Idempotency: c.Idempotency, Previous: int64(c.Previous),
	}
	i := device.Issuance{
		Credential: c, Lease: p.lease.LeaseRef, ControlEpoch: control.Epoch, Change: change, Entries: []ledger.Entry{p.entry(ledger.CertificateIssued, body)},
	}
	if p.keys%3 == 0 {
		p.attest(&i)
	}
	stored, err := p.s.StoreIssuance(p.Context(), i)
	p.ok(err)
	return stored
}

// attest lets an issuance rest on evidence by the device's TPM, each third time by
// something else.
func (p *plant) attest(i *device.Issuance) {
	c := &i.Credential
	a := &device.Attestation{Kind: "chip", Claims: 6, Evidence: fmt.Appendf(nil, `{"key":%d}`, p.keys)}
	if p.keys%9 > 0 {
		a.Kind, a.Claims = "tpm", 19
		a.Ticket.ID, a.Ticket.ExpiresAt = [16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(p.now.UnixMicro())), p.keys)), p.now.Add(time.Minute)
		a.TPM = &device.TPMState{
			EK: sha256.Sum256(binary.BigEndian.AppendUint64([]byte("ek"), uint64(c.Device))), AK: sha256.Sum256(c.DER), Plain: true,
			ResetCount: uint32(p.keys), RestartCount: 4, Clock: p.keys * 1000, Safe: true, Firmware: 1<<63 | 5, Vendor: "IBM", Model: "SW TPM",
		}
	}
	i.Attestation = a
	i.Entries = append(i.Entries, p.entry(ledger.EvidenceKept, a.Kept(c.ID, c.Device)))
}

func (p *plant) revoke(c device.Credential, kind ledger.Kind, reason int) {
	p.Helper()
	r := status.Revocation{Credential: c.ID, CertSerial: c.CertSerial, Authority: c.Authority, At: p.now, Reason: reason, NotAfter: c.NotAfter}
	p.ok(p.s.Revoke(p.Context(), access.Everything(), r, p.entry(kind, &ledger.Revoked{
		Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: c.Authority, Device: int64(c.Device), Reason: reason, RevokedAt: p.now, NotAfter: c.NotAfter,
	})))
}

func (p *plant) change(id device.ID, edit func(*device.Device)) {
	p.Helper()
	d, err := p.s.Device(p.Context(), access.Everything(), id)
	p.ok(err)
	edit(&d)
	p.ok(p.s.UpdateDevice(p.Context(), access.Everything(), d, p.entry(ledger.DeviceChanged, &ledger.Changed{
		Device: int64(d.ID), Version: d.Version + 1, State: uint8(d.State), Site: d.Site, Owner: d.Owner, Region: d.Region,
		Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash, SecretSpent: d.Secret.SpentAt, SecretSPKI: d.Secret.SpentSPKI,
	})))
}

func (p *plant) signCRL(number int64) {
	p.Helper()
	lease, ok, err := p.s.AcquireLease(p.Context(), "crl", p.s.Node(), 60)
	if err != nil || !ok {
		p.Fatal(ok, err)
	}
	c := status.CRL{Authority: 1, Number: number, ThisUpdate: p.now, NextUpdate: p.now.Add(time.Hour), DER: fmt.Appendf(nil, "list %d", number)}
	p.ok(p.s.SaveCRL(p.Context(), c, lease, p.entry(ledger.CRLSigned, &ledger.SignedCRL{
		Authority: 1, Number: number, ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate, DER: sha256.Sum256(c.DER),
	})))
}

// run is what happens in the plant.
func (p *plant) run() {
	p.Helper()
	ctx := p.Context()
	i := authority.Installation{Organization: "Acme", StatusURL: "http://pki.example.com", CreatedAt: p.now}
	p.ok(p.s.Install(ctx, i, p.entry(ledger.Installed, ledger.JSON(map[string]string{"organization": "Acme"}))))
	p.ok(p.s.FenceNode(ctx, p.s.Node(), p.now))
	p.control()
	devices := p.register(40)
	for round := range 4 {
		for k, d := range devices {
			p.now = p.now.Add(1234567 * time.Microsecond)
			switch (k + round) % 7 {
			case 0, 1, 2:
				p.issue(d.ID, "cloud")
			case 3:
				c := p.issue(d.ID, "service-port")
				p.ok(p.s.Confirm(ctx, device.Confirmation{ID: c.ID, At: p.now}, p.entry(ledger.CertificateUsed, &ledger.Confirmed{Credential: int64(c.ID), Device: int64(d.ID)})))
			case 4:
				p.revoke(p.issue(d.ID, "cloud"), ledger.CertificateRevoked, 1)
			case 5:
				c := p.issue(d.ID, "cloud")
				p.revoke(c, ledger.CertificateHeld, 6)
				if k%2 == 0 {
					p.issue(d.ID, "cloud")
				}
				if k%3 > 0 {
					p.ok(p.s.Release(ctx, access.Everything(), c.ID, p.entry(ledger.CertificateFreed, &ledger.Released{
						Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: 1, Device: int64(d.ID),
					})))
				}
			case 6:
				p.change(d.ID, func(d *device.Device) {
					d.Labels, d.Owner, d.Site = map[string]string{"round": fmt.Sprint(round)}, int64(round), 3
				})
			}
		}
		p.signCRL(int64(round + 1))
		p.register(5)
	}
	p.line()
	reset, kept := 0, 0
	for _, d := range devices {
		x, err := p.s.TPMOf(ctx, access.Everything(), d.ID)
		if fault.Has(err, fault.DeviceUnknown) {
			continue
		}
		p.ok(err)
		if kept++; kept%4 == 0 {
			reset++
			p.ok(p.s.ResetTPM(ctx, x.Device, p.entry(ledger.TPMReset, &ledger.ResetTPM{Device: int64(x.Device)})))
		}
	}
	if reset == 0 || kept == reset {
		p.Fatalf("of %d TPMs %d were reset", kept, reset)
	}
	p.ok(p.s.Record(ctx, p.entry(ledger.EvidenceRefused, &ledger.RefusedEvidence{Code: "BM-9042"})))
}

func TestVerifyOnSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "birthmark.db")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ledger.NewSigner("ledger.example/acme", key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{T: t, s: openStore(t, path, false), now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	p.run()
	sequencer, err := ledger.NewSequencer(ledger.SequencerConfig{
		Store: p.s, Signer: signer, Node: p.s.Node(), Now: func() time.Time { return p.now }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.ok(sequencer.Step(t.Context()))
	p.ok(p.s.Close())

	verify := func(path string) (ledger.Report, error) {
		s := openStore(t, path, true)
		defer s.Close()
		return ledger.Verify(t.Context(), s, ledger.VerifyOptions{Verifiers: []note.Verifier{signer}, Now: func() time.Time { return p.now }})
	}
	r, err := verify(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.Certificates < 100 || r.Devices != 66 || r.Units != 6 || r.Records < 13 || r.Evidence < 30 || r.TPMs < 10 || r.Revocations == 0 || r.CRLs != 1 || r.Checkpoint != r.Entries {
		t.Errorf("%+v", r)
	}

	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	made, named := 0, 0
	for round := range 340 {
		copied := filepath.Join(t.TempDir(), "copy.db")
		p.ok(os.WriteFile(copied, whole, 0o600))
		what := tamper(t, copied, random)
		if what == "" {
			continue
		}
		made++
		_, err := verify(copied)
		if err == nil {
			t.Errorf("round %d: not noticed: %s", round, what)
		}
		if fault.Has(err, fault.LedgerBroken) || fault.Has(err, fault.LedgerRolledBack) {
			named++
		}
	}
	// What makes the database unreadable is an error, but of the store.
	if made < 200 || named < made*9/10 {
		t.Errorf("%d edits were possible, %d were named", made, named)
	}
}

func openSQL(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// guarded are the tables that Verify answers for, with the columns that it does
// not: those only say when, or are derived.
var guarded = map[string][]string{
	"device":         {"changed_at", "batch"},
	"credential":     nil,
	"revocation":     nil,
	"serial_lease":   {"leased_at", "closed_at"},
	"crl":            {"this_update", "next_update", "entries", "digest"}, // the parts are hashed anew
	"crl_part":       {},
	"ledger_head":    nil,
	"ledger_batch":   nil,
	"ledger_tile":    nil,
	"ledger_private": {"id"}, // what is not found was erased
	"checkpoint":     {"made_at"},
	"unit":           {"ended_at", "reason", "shipped_at", "activated_at"},
	"production_order": {
		"terms", "created_at", "opened_at", "closed_at", "shipped", "activated", // who is shipped and active is with the units and devices
	},
	"authority":       {"created_at", "changed_at"},
	"profile_version": {"version", "digest", "author", "approval", "imported_at"}, // the text is hashed anew
	"product":         {"created_at"},
	"est_label":       nil,
	"token":           {"name", "operator", "created_at", "revoked_at"},
	"site":            {"created_at"},
	"station":         {"version", "code_hash", "code_expires_at", "code_spent_at", "code_spki", "credential", "created_at", "changed_at"},
	"manifest_signer": {"pinned_by", "pinned_at", "withdrawn_at"},
	"tpm_roots":       {"imported_by", "imported_at"},
	"tpm_policy":      {"author", "set_at"},
	"evidence":        nil,
	"tpm":             nil,
}

// tamper makes one random edit and says which; "" if nothing changed.
func tamper(t *testing.T, path string, r *mathrand.Rand) string {
	t.Helper()
	db := openSQL(t, path)
	defer db.Close()
	var tables []string
	for name := range guarded {
		tables = append(tables, name)
	}
	slices.Sort(tables)
	table := tables[r.IntN(len(tables))]
	columns := columnsOf(t, db, table)
	key := fmt.Sprintf("rowid = (SELECT rowid FROM %s ORDER BY rowid LIMIT 1 OFFSET abs(random()) %% (SELECT count(*) FROM %s))", table, table)
	if table == "revocation" || table == "crl" { // without rowid
		key = fmt.Sprintf("(authority, shard) IN (SELECT authority, shard FROM %s LIMIT 1)", table)
		if table == "revocation" {
			key = "credential = (SELECT credential FROM revocation ORDER BY random() LIMIT 1)"
		}
	}
	var query string
	switch column := columns[r.IntN(len(columns))]; {
	case r.IntN(4) == 0 && table != "ledger_private" && table != "checkpoint":
		query = fmt.Sprintf("DELETE FROM %s WHERE %s", table, key)
	case slices.Contains(guarded[table], column):
		return ""
	default:
		query = fmt.Sprintf(`UPDATE OR IGNORE %s SET %s = CASE typeof(%s) WHEN 'integer' THEN %s + 1000000 WHEN 'text' THEN %s || 'x'
WHEN 'null' THEN x'01' ELSE CAST(substr(%s, 1, length(%s) - 1) || CASE substr(%s, -1) WHEN x'ee' THEN x'ef' ELSE x'ee' END AS BLOB) END WHERE %s`,
			table, column, column, column, column, column, column, column, key)
		if slices.Contains([]string{"sees_all", "frozen", "repinned", "plain", "safe"}, column) {
			query = fmt.Sprintf("UPDATE %s SET %s = 1 - %s WHERE %s", table, column, column, key)
		}
	}
	result, err := db.ExecContext(t.Context(), query)
	if err != nil {
		return "" // the schema itself refuses
	}
	n, err := result.RowsAffected()
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return ""
	}
	return strings.Join(strings.Fields(query), " ")
}

func columnsOf(t *testing.T, db *sql.DB, table string) (names []string) {
	t.Helper()
	rs, err := db.QueryContext(t.Context(), "SELECT name FROM pragma_table_info('"+table+"')")
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Close()
	for rs.Next() {
		var name string
		if err := rs.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// control is what people set up: one record of each kind.
func (p *plant) control() {
	p.Helper()
	ctx := p.Context()
	body := func(fields ...any) ledger.Body {
		m := map[string]any{}
		for i := 0; i < len(fields); i += 2 {
			m[fields[i].(string)] = fields[i+1]
		}
		return ledger.JSON(m)
	}
	a := authority.Authority{
		Name: "issuing", Kind: authority.Issuing, State: authority.Active, KeyURI: "file:issuing", Certificate: []byte("ca"), CRLShards: 1,
		Hardware: authority.Hardware{Model: "SoftHSM", Level: "none"}, CreatedAt: p.now, ChangedAt: p.now,
	}
	_, err := p.s.AddAuthority(ctx, a, p.entry(ledger.AuthorityCreated, body("name", a.Name, "authority_kind", a.Kind, "state", "active",
		"key_uri", a.KeyURI, "certificate", hexOf(sha256.Sum256(a.Certificate)), "parent", 0, "credential", 0, "crl_shards", 1, "hardware_model", "SoftHSM", "hardware_level", "none")))
	p.ok(err)
	text := []byte("name: cloud\n")
	digest := sha256.Sum256(text)
	_, err = p.s.AddProfileVersion(ctx, authority.ProfileVersion{Name: "cloud", Text: text, Digest: digest, Author: "eve", ImportedAt: p.now},
		p.entry(ledger.ProfileImported, body("name", "cloud", "digest", hexOf(digest))))
	p.ok(err)
	_, err = p.s.AddProduct(ctx, device.Product{Name: "sensor", Profiles: []string{"cloud"}, ChipTypes: []string{"ECC608"}, KeyModel: device.KeyModelOnDevice, CreatedAt: p.now},
		p.entry(ledger.ProductAdded, body("name", "sensor", "profiles", []string{"cloud"}, "chip_types", []string{"ECC608"}, "key_model", "on-device")))
	p.ok(err)
	p.ok(p.s.SetLabel(ctx, authority.Label{Name: "c", Profile: "cloud", Wrap: 64}, p.entry(ledger.LabelSet, body("name", "c", "profile", "cloud", "wrap", 64))))
	token := access.Token{Name: "ci", Hash: sha256.Sum256([]byte("t")), Actions: []access.Action{access.DeviceRead}, All: true, Operator: "eve", CreatedAt: p.now, ExpiresAt: p.now.AddDate(0, 1, 0)}
	_, err = p.s.AddToken(ctx, token, p.entry(ledger.TokenCreated, body("sha256", hexOf(token.Hash), "actions", token.Actions, "all", true, "expires_at", token.ExpiresAt.Unix())))
	p.ok(err)
	_, err = p.s.AddSite(ctx, factory.Site{Name: "Brno", CreatedAt: p.now}, p.entry(ledger.SiteAdded, body("name", "Brno")))
	p.ok(err)
	station := factory.Station{Name: "line-1", Site: 1, State: factory.StationActive, Version: 1, CreatedAt: p.now, ChangedAt: p.now}
	_, err = p.s.AddStation(ctx, station, p.entry(ledger.StationAdded, body("name", station.Name, "site", 1, "state", "active")))
	p.ok(err)
	o := factory.Order{
		Number: "PO-1", Product: 1, Site: 1, State: factory.OrderOpen, Quantity: 10, Spares: 5, Stations: []int64{1}, Version: 1,
		Takt: time.Second, Grace: time.Hour, CreatedAt: p.now, OpenedAt: p.now,
	}
	p.order, err = p.s.AddOrder(ctx, o, p.entry(ledger.OrderCreated, body("number", o.Number, "product", 1, "site", 1, "state", "open",
		"quantity", 10, "spares", 5, "stations", o.Stations, "takt_us", o.Takt.Microseconds(), "grace_us", o.Grace.Microseconds())))
	p.ok(err)
	signer := factory.Signer{Name: "maker", Format: "csv", Certificate: []byte("maker"), Fingerprint: sha256.Sum256([]byte("maker")), PinnedBy: "eve", PinnedAt: p.now}
	_, err = p.s.PinSigner(ctx, signer, p.entry(ledger.SignerPinned, body("name", "maker", "format", "csv", "fingerprint", hexOf(signer.Fingerprint))))
	p.ok(err)
	for version := range int64(2) {
		content := fmt.Appendf(nil, "roots %d", version)
		x := attest.Roots{Name: "makers", Version: version + 1, Content: content, Digest: sha256.Sum256(content), Signer: []byte("key"), ImportedBy: "eve", ImportedAt: p.now}
		_, err = p.s.AddRoots(ctx, x, p.entry(ledger.RootsImported, body("name", x.Name, "version", x.Version, "sha256", hexOf(x.Digest), "signer", hexOf(sha256.Sum256(x.Signer)))))
		p.ok(err)
		_, err = p.s.SetPolicy(ctx, attest.Policy{Product: 1, Version: version + 1, Content: content, Digest: x.Digest, Author: "eve", SetAt: p.now},
			p.entry(ledger.TPMPolicySet, body("product", 1, "version", version+1, "sha256", hexOf(x.Digest))))
		p.ok(err)
	}
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

// unit issues a unit of the order and returns its credential.
func (p *plant) unit(deviceSerial string) device.Credential {
	p.Helper()
	control, err := p.s.Control(p.Context())
	p.ok(err)
	p.keys++
	id := p.s.DeviceID(deviceSerial)
	c := device.Credential{
		ID: p.serial(), Authority: 1, Profile: 1, Kind: "idevid", Device: id, Product: 1, Site: 1, State: device.Issued, KeyKind: device.KeyHardware,
		NotBefore: p.now.Truncate(time.Second), NotAfter: p.now.Truncate(time.Second).AddDate(20, 0, 0), IssuedAt: p.now, DER: fmt.Appendf(nil, "certificate %d", p.keys),
		SPKIDigest: sha256.Sum256(binary.BigEndian.AppendUint64(nil, p.keys)), Idempotency: sha256.Sum256(binary.BigEndian.AppendUint64([]byte("i"), p.keys)),
	}
	c.CertSerial = p.s.CertSerial(p.lease, c.ID)
	d := device.Device{
		ID: id, DeviceSerial: deviceSerial, Product: 1, Site: 1, State: device.Registered, Version: 2, Order: p.order, RegisteredAt: p.now, ChangedAt: p.now,
		Current: map[device.Slot]device.CredentialID{device.IDevIDSlot: c.ID},
	}
	_, err = p.s.StoreIssuance(p.Context(), device.Issuance{
		Credential: c, Lease: p.lease.LeaseRef, ControlEpoch: control.Epoch,
		Unit: &device.UnitIssue{Order: p.order, Station: 1, New: &d, Evidence: "none"},
		Entries: []ledger.Entry{
			p.entry(ledger.DeviceRegistered, &ledger.Registered{
				Device: int64(id), DeviceSerial: deviceSerial, Product: 1, Version: 1, State: uint8(d.State), Site: 1, Labels: ledger.LabelsDigest(nil),
			}),
			p.entry(ledger.CertificateIssued, &ledger.Issued{
				Credential: int64(c.ID), CertSerial: c.CertSerial, Authority: 1, Profile: 1, Kind: c.Kind, Device: int64(id), DeviceSerial: deviceSerial,
				DeviceVersion: 2, DeviceState: uint8(d.State), Slot: string(device.IDevIDSlot), Product: 1, Site: 1, KeyKind: uint8(c.KeyKind),
				NotBefore: c.NotBefore, NotAfter: c.NotAfter, SPKI: c.SPKIDigest, DER: sha256.Sum256(c.DER), Idempotency: c.Idempotency,
			}),
			p.entry(ledger.UnitIssued, &ledger.IssuedUnit{Credential: int64(c.ID), Order: p.order, Device: int64(id), Station: 1, Evidence: "none"}),
		},
	})
	p.ok(err)
	return c
}

// line makes units, reads most of them back and scraps one.
func (p *plant) line() {
	p.Helper()
	for k := range 6 {
		c := p.unit(fmt.Sprintf("U%d", k))
		if k < 5 {
			p.ok(p.s.ConfirmUnit(p.Context(), factory.Confirmation{ID: c.ID, Device: c.Device, Order: p.order, At: p.now},
				p.entry(ledger.UnitConfirmed, &ledger.ConfirmedUnit{Credential: int64(c.ID), Order: p.order, Device: int64(c.Device), Station: 1})))
		}
		if k == 2 {
			p.revoke(c, ledger.CertificateRevoked, 1) // ends the unit too
		}
	}
}
