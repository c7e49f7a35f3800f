package store

import "strings"

// tableForm is a table as backups keep it: columns with ":t" for text, ":b" for
// bytes and nothing for numbers, and the order of rows, so that equal content is
// equal bytes whatever the engine. Tables with a textual key are small and have
// no order. A test compares this list with the schema.
type tableForm struct {
	name    string
	columns string
	order   string
}

// tableForms are all tables but those of leftOut, and schema_info, which says how
// the database is built and not what is in it.
var tableForms = []tableForm{
	{"installation", "id installation_id:b organization:t status_url:t quickstart restore_epoch created_at", "id"},
	{"store_key", "id hash_key:b serial_key:b", "id"},
	{"control", "id epoch", "id"},
	{"clock_mark", "id mark_at", "id"},
	{"device", "id device_serial:t product site owner region:t labels:t state version slots:t secret_hash:b secret_spent_at secret_spki:b registered_at changed_at batch order_id chip built_into", "id"},
	{"credential", "id cert_serial:b authority authority_index profile kind:t purpose:t device product site owner state reason revoked_at key_kind not_before not_after spki:b idempotency:b previous issued_at confirmed_at der:b", "id"},
	{"spki_key", "id credential", "id"},
	{"authority_counter", "authority next_index", "authority"},
	{"tally", "product site owner kind bucket total", "kind, bucket, product, site, owner"},
	{"node", "name:t fence", ""},
	{"serial_head", "id next_id", "id"},
	{"serial_lease", "id node:t fence size seed:b leased_at closed_at", "id"},
	{"lease", "job:t node:t run fence expires_at", ""},
	{"ledger_head", "id size", "id"},
	{"ledger_batch", "id size classes leaves:b", "id"},
	{"ledger_private", "id salt:b value:t", "id"},
	{"ledger_tile", "level n hashes:b", "level, n"},
	{"checkpoint", "id root:b note:b made_at", "id"},
	{"authority", "id name:t kind:t state key_uri:t certificate:b parent credential crl_shards created_at changed_at hardware_model:t hardware_certificate:t hardware_level:t", "id"},
	{"profile_version", "id name:t version body:b digest:b author:t approval imported_at", "id"},
	{"product", "id name:t description:t part_numbers:t profiles:t least_evidence:t created_at chip_types:t key_model:t idevid_profile:t serial_pattern:t external_ref:t", "id"},
	{"est_label", "name:t profile:t purpose:t wrap", ""},
	{"site", "id name:t created_at", "id"},
	{"owner", "id name:t created_at", "id"},
	{"operator", "name:t roles:t disabled products:t sites:t owners:t sees_all created_at", ""},
	{"token", "id name:t hash:b actions:t products:t sites:t owners:t sees_all operator:t created_at expires_at revoked_at", "id"},
	{"approval", "id kind:t params:b digest:b requester:t reason:t state decided_by:t requested_at decided_at expires_at", "id"},
	{"revocation", "authority shard credential cert_serial:b revoked_at reason not_after", "authority, shard, credential"},
	{"crl", "authority shard number this_update next_update entries parts digest:b", "authority, shard"},
	{"crl_part", "authority shard number part data:b", "authority, shard, number, part"},
	{"crl_number", "authority shard counter this_update", "authority, shard"},
	{"overlap", "credential ends_at", "credential"},
	{"device_batch", "id name:t staged digest:b totals:t visible", "id"},
	{"station", "id name:t site state version code_hash:b code_expires_at code_spent_at code_spki:b credential created_at changed_at", "id"},
	{"production_order", "id number:t product site state terms quantity spares stations:t chip_types:t serial_from:t serial_to:t external_ref:t takt grace frozen created_at opened_at closed_at issued live confirmed scrapped shipped activated", "id"},
	{"manifest_signer", "id name:t format:t fingerprint:b certificate:b pinned_by:t pinned_at withdrawn_at", "id"},
	{"manifest", "id name:t format:t digest:b signer product importer:t imported_at chips not_provable findings:t staged visible", "id"},
	{"chip_part", "manifest part chips:b", "manifest, part"},
	{"chip_vendor", "name:t", ""},
	{"chip", "id vendor:t uid:t chip_type:t manifest entry product state order_id device keys:b", "id"},
	{"chip_key", "id chip", "id"},
	{"nonce_block", "id order_id station size key:b used:b expires_at offline", "id"},
	{"unit", "id order_id device chip station state spare reference:t evidence:t confirm_nonce:b issued_at confirmed_at ended_at reason:t shipped_at activated_at", "id"},
	{"unit_reference", "id order_id reference:t unit", "id"},
	{"wrapped_key", "id wrapped:b until_at", "id"},
	{"alarm", "id kind:t subject:t state message:t order_id station product site total raised_at last_at acknowledged_by:t closed_at", "id"},
	{"kpi", "order_id station day measure bucket site product total", "order_id, station, day, measure, bucket, site, product"},
	{"webhook", "id name:t url:t secret:b events:t cursor disabled failure:t created_at changed_at", "id"},
	{"tpm_roots", "id name:t version content:b digest:b signer:b repinned imported_by:t imported_at", "id"},
	{"tpm_policy", "id product version content:b digest:b author:t set_at", "id"},
	{"evidence", "id device kind:t claims content:b digest:b made_at", "id"},
	{"tpm", "id ek:b device chip ak:b plain reset_count restart_count clock safe firmware vendor:t model:t seen_at", "id"},
}

// leftOut are the tables that no backup holds, and a restore empties: what was
// answered to challenges of the former life must not count in the second, so it
// seals them under a key of its own.
var leftOut = []string{"attest_ticket", "attest_key"}

// column is one column of a table and the tag of its values in a backup.
type column struct {
	name string
	tag  byte
}

func (f *tableForm) list() []column {
	var cs []column
	for c := range strings.FieldsSeq(f.columns) {
		name, tag, _ := strings.Cut(c, ":")
		cs = append(cs, column{name, map[string]byte{"": valueInt, "t": valueText, "b": valueBlob}[tag]})
	}
	return cs
}

// names is the list of columns as SQL has it.
func names(cs []column) string {
	all := make([]string, len(cs))
	for i, c := range cs {
		all[i] = c.name
	}
	return strings.Join(all, ", ")
}

// index returns the place of a column.
func (f *tableForm) index(name string) int {
	for i, c := range f.list() {
		if c.name == name {
			return i
		}
	}
	panic("store: " + f.name + " has no column " + name)
}

func formOf(table string) (*tableForm, bool) {
	for i := range tableForms {
		if tableForms[i].name == table {
			return &tableForms[i], true
		}
	}
	return nil, false
}
