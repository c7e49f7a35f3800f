package rest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// TPMRoots is a version of a bundle: whose TPMs are genuine.
type TPMRoots struct {
	Name       string     `json:"name"`
	Version    int64      `json:"version"`
	IssuedAt   time.Time  `json:"issued_at"`
	Makers     []TPMMaker `json:"makers"`
	Deny       []TPMDeny  `json:"deny,omitempty" doc:"TPMs that are not trusted all the same"`
	Signer     string     `json:"signer" doc:"SHA-256 of the pinned signer's public key (DER SubjectPublicKeyInfo), hex"`
	Repinned   bool       `json:"repinned,omitempty" doc:"An operator accepted another signer than that of the version before"`
	Digest     string     `json:"sha256" doc:"Of the content, hex"`
	ImportedBy string     `json:"imported_by"`
	ImportedAt time.Time  `json:"imported_at"`
}

// TPMMaker is a maker of TPMs.
type TPMMaker struct {
	Name          string        `json:"name"`
	Vendors       []string      `json:"vendors,omitempty" doc:"tpmManufacturer of its EK certificates; absent: any"`
	Roots         []TPMMakersCA `json:"roots"`
	Intermediates []TPMMakersCA `json:"intermediates,omitempty"`
	AcceptExpired bool          `json:"accept_expired,omitempty" doc:"EK certificates count beyond their end"`
}

// TPMMakersCA is a certificate of a maker's authority.
type TPMMakersCA struct {
	Subject     string    `json:"subject"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint" doc:"SHA-256 of the certificate, hex"`
}

// TPMDeny is a range of TPMs that is not trusted. What is absent is any.
type TPMDeny struct {
	Vendor       string `json:"vendor,omitempty"`
	Model        string `json:"model,omitempty"`
	VersionFrom  string `json:"version_from,omitempty"`
	VersionTo    string `json:"version_to,omitempty"`
	FirmwareFrom string `json:"firmware_from,omitempty" doc:"16 hex digits"`
	FirmwareTo   string `json:"firmware_to,omitempty" doc:"16 hex digits"`
	Reason       string `json:"reason"`
}

// ImportedTPMRoots is what became of an import.
type ImportedTPMRoots struct {
	TPMRoots
	Again  bool `json:"again,omitempty" doc:"The same content was imported before"`
	Pinned bool `json:"pinned,omitempty" doc:"Its signer is pinned from now on"`
}

// TPMPolicy says which firmware states a product's TPMs may be in.
type TPMPolicy struct {
	Product string    `json:"product"`
	Version int64     `json:"version"`
	Policy  string    `json:"policy" doc:"JSON as it was set: bank (sha256, sha384, sha512), states (name, pcrs: register to hex value), eventLog"`
	Digest  string    `json:"sha256" doc:"Of it, hex"`
	Author  string    `json:"author"`
	SetAt   time.Time `json:"set_at"`
}

// TPM is a device's TPM as its last evidence showed it.
type TPM struct {
	Device       string    `json:"device" doc:"Device id"`
	Serial       string    `json:"serial" doc:"Device serial"`
	EK           string    `json:"ek" doc:"SHA-256 of the endorsement key (DER SubjectPublicKeyInfo), hex"`
	Vendor       string    `json:"vendor,omitempty"`
	Model        string    `json:"model,omitempty"`
	Chip         string    `json:"chip,omitempty" doc:"UID of the manifest's entry"`
	ResetCount   uint32    `json:"reset_count"`
	RestartCount uint32    `json:"restart_count"`
	Clock        uint64    `json:"clock_ms" doc:"Milliseconds"`
	Firmware     string    `json:"firmware" doc:"16 hex digits"`
	Plain        bool      `json:"plain" doc:"Counts and firmware are the TPM's own, not masked for one attestation key"`
	SeenAt       time.Time `json:"seen_at"`
}

func (a *API) tpms() {
	read, manage := access.AttestRead, access.AttestManage
	add(a, op{method: http.MethodGet, path: "/tpm/roots", action: read, summary: "List bundles of TPM makers' roots, the newest version of each"}, a.listTPMRoots)
	add(a, op{method: http.MethodPost, path: "/tpm/roots", action: manage, summary: "Import a signed bundle of TPM makers' roots", everywhere: true, status: http.StatusCreated, maxBody: maxRoots}, a.importTPMRoots)
	add(a, op{method: http.MethodGet, path: "/tpm/roots/{name}", action: read, summary: "List the versions of a bundle, newest first"}, a.showTPMRoots)
	add(a, op{method: http.MethodGet, path: "/tpm/policies", action: read, summary: "List firmware policies of products"}, a.listTPMPolicies)
	add(a, op{method: http.MethodGet, path: "/tpm/policies/{name}", action: read, summary: "Show the firmware policy of a product"}, a.showTPMPolicy)
	add(a, op{method: http.MethodPut, path: "/tpm/policies/{name}", action: manage, summary: "Set the firmware policy of a product"}, a.setTPMPolicy)
	add(a, op{method: http.MethodDelete, path: "/tpm/policies/{name}", action: manage, summary: "End the firmware policy of a product"}, a.endTPMPolicy)
	add(a, op{method: http.MethodGet, path: "/devices/{device}/tpm", action: read, summary: "Show the TPM of a device"}, a.showTPM)
	add(a, op{method: http.MethodPost, path: "/devices/{device}/tpm/reset", action: manage, summary: "Accept that a TPM was cleared: its counters begin anew"}, a.resetTPM)
}

// maxRoots is the largest bundle, as JSON inside JSON.
const maxRoots = 10 << 20

func showMakersCAs(ders [][]byte) []TPMMakersCA {
	var out []TPMMakersCA
	for _, der := range ders {
		digest := sha256.Sum256(der)
		shown := TPMMakersCA{Fingerprint: hex.EncodeToString(digest[:])}
		if cert, err := x509.ParseCertificate(der); err == nil { // it was checked when it was imported
			shown.Subject, shown.NotAfter = cert.Subject.String(), cert.NotAfter
		}
		out = append(out, shown)
	}
	return out
}

func showTPMRoots(r *attest.Roots) (TPMRoots, error) {
	var file attest.RootsFile
	if err := json.Unmarshal(r.Content, &file); err != nil {
		return TPMRoots{}, err
	}
	out := TPMRoots{
		Name: r.Name, Version: r.Version, IssuedAt: file.IssuedAt, Makers: []TPMMaker{}, Signer: attest.Fingerprint(r.Signer), Repinned: r.Repinned,
		Digest: hex.EncodeToString(r.Digest[:]), ImportedBy: r.ImportedBy, ImportedAt: r.ImportedAt,
	}
	for _, m := range file.Makers {
		out.Makers = append(out.Makers, TPMMaker{
			Name: m.Name, Vendors: m.Vendors, Roots: showMakersCAs(m.Roots), Intermediates: showMakersCAs(m.Intermediates), AcceptExpired: m.AcceptExpired,
		})
	}
	for _, d := range file.Deny {
		shown := TPMDeny{Vendor: d.Vendor, Model: d.Model, VersionFrom: d.VersionFrom, VersionTo: d.VersionTo, Reason: d.Reason}
		if d.FirmwareFrom != 0 || d.FirmwareTo != 0 {
			shown.FirmwareFrom, shown.FirmwareTo = firmware(d.FirmwareFrom), firmware(d.FirmwareTo)
		}
		out.Deny = append(out.Deny, shown)
	}
	return out, nil
}

func firmware(version uint64) string { return fmt.Sprintf("%016x", version) }

func listTPMRoots(rows []attest.Roots) (*list[TPMRoots], error) {
	items := make([]TPMRoots, len(rows))
	for i := range rows {
		var err error
		if items[i], err = showTPMRoots(&rows[i]); err != nil {
			return nil, err
		}
	}
	return newList(items, ""), nil
}

func (a *API) listTPMRoots(ctx context.Context, c *access.Caller, _ *nothing) (*list[TPMRoots], error) {
	rows, err := a.cfg.Attest.Roots(ctx, *c)
	if err != nil {
		return nil, err
	}
	return listTPMRoots(rows)
}

func (a *API) showTPMRoots(ctx context.Context, c *access.Caller, in *NamePath) (*list[TPMRoots], error) {
	rows, err := a.cfg.Attest.RootsHistory(ctx, *c, in.Name)
	if err != nil {
		return nil, err
	}
	return listTPMRoots(rows)
}

// TPMRootsImport is a bundle with the word of whoever imports it on its signer.
type TPMRootsImport struct {
	Bundle string `json:"bundle" minLength:"1" doc:"The bundle: a JSON object with content, signature and signer, each in base64"`
	Signer string `json:"signer" minLength:"64" maxLength:"95" doc:"SHA-256 of the signer's public key (DER SubjectPublicKeyInfo), hex, as whoever issues the bundle says it"`
	Repin  bool   `json:"repin,omitempty" doc:"Accept another signer than that of the version before"`
}

func (a *API) importTPMRoots(ctx context.Context, c *access.Caller, in *one[TPMRootsImport]) (*one[ImportedTPMRoots], error) {
	done, err := a.cfg.Attest.ImportRoots(ctx, *c, attest.RootsImport{
		Bundle: []byte(in.Body.Bundle), Fingerprint: in.Body.Signer, Repin: in.Body.Repin,
	})
	if err != nil {
		return nil, err
	}
	shown, err := showTPMRoots(&done.Roots)
	return &one[ImportedTPMRoots]{ImportedTPMRoots{TPMRoots: shown, Again: done.Again, Pinned: done.Pinned}}, err
}

func showTPMPolicy(names productNames, p *attest.Policy) TPMPolicy {
	return TPMPolicy{
		Product: names[p.Product], Version: p.Version, Policy: string(p.Content), Digest: hex.EncodeToString(p.Digest[:]), Author: p.Author, SetAt: p.SetAt,
	}
}

func (a *API) listTPMPolicies(ctx context.Context, c *access.Caller, _ *nothing) (*list[TPMPolicy], error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	rows, err := a.cfg.Attest.Policies(ctx, *c)
	if err != nil {
		return nil, err
	}
	items := make([]TPMPolicy, len(rows))
	for i := range rows {
		items[i] = showTPMPolicy(names, &rows[i])
	}
	return newList(items, ""), nil
}

// productNamed finds a product within the caller's scope.
func (a *API) productNamed(ctx context.Context, c *access.Caller, name string) (productNames, int64, error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	id := names.id(name)
	if id == 0 {
		return nil, 0, fault.New(fault.ProductUnknown, name)
	}
	return names, id, nil
}

func (a *API) showTPMPolicy(ctx context.Context, c *access.Caller, in *NamePath) (*one[TPMPolicy], error) {
	names, id, err := a.productNamed(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	p, err := a.cfg.Attest.PolicyOf(ctx, *c, id)
	if err != nil {
		return nil, err
	}
	return &one[TPMPolicy]{showTPMPolicy(names, &p)}, nil
}

func (a *API) setTPMPolicy(ctx context.Context, c *access.Caller, in *struct {
	NamePath
	Body struct {
		Policy string `json:"policy" minLength:"2" doc:"The policy's JSON"`
	}
},
) (*one[TPMPolicy], error) {
	names, id, err := a.productNamed(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	p, err := a.cfg.Attest.SetPolicy(ctx, *c, id, []byte(in.Body.Policy))
	if err != nil {
		return nil, err
	}
	return &one[TPMPolicy]{showTPMPolicy(names, &p)}, nil
}

func (a *API) endTPMPolicy(ctx context.Context, c *access.Caller, in *NamePath) (*nothing, error) {
	_, id, err := a.productNamed(ctx, c, in.Name)
	if err != nil {
		return nil, err
	}
	_, err = a.cfg.Attest.SetPolicy(ctx, *c, id, nil)
	return nil, err
}

func (a *API) showTPM(ctx context.Context, c *access.Caller, in *DevicePath) (*one[TPM], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	r, err := a.cfg.Attest.TPMOf(ctx, *c, d.ID)
	if err != nil {
		return nil, noTPM(err)
	}
	out := TPM{
		Device: d.ID.String(), Serial: d.DeviceSerial, EK: hex.EncodeToString(r.EK[:]), Vendor: r.Vendor, Model: r.Model,
		ResetCount: r.ResetCount, RestartCount: r.RestartCount, Clock: r.Clock, Firmware: firmware(r.Firmware), Plain: r.Plain, SeenAt: r.SeenAt,
	}
	if r.Chip != 0 {
		chip, err := a.cfg.Factory.ChipByID(ctx, r.Chip)
		if err != nil {
			return nil, err
		}
		out.Chip = chip.UID
	}
	return &one[TPM]{out}, nil
}

// noTPM says that a device which is there has no TPM.
func noTPM(err error) error {
	if fault.Has(err, fault.DeviceUnknown) {
		return fault.New(fault.TPMUnknown)
	}
	return err
}

func (a *API) resetTPM(ctx context.Context, c *access.Caller, in *struct {
	DevicePath
	Body struct {
		Reason string `json:"reason" minLength:"1" maxLength:"500"`
	}
},
) (*one[TPM], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Attest.ResetTPM(ctx, *c, d.ID, in.Body.Reason); err != nil {
		return nil, noTPM(err)
	}
	return a.showTPM(ctx, c, &in.DevicePath)
}
