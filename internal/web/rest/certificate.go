package rest

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/status"
)

// Status is what the API needs of package status: revocation by certificate
// serial, within the caller's scope.
type Status interface {
	Revoke(ctx context.Context, c *access.Caller, certSerial []byte, reason string) error
	Hold(ctx context.Context, c *access.Caller, certSerial []byte) error
	Release(ctx context.Context, c *access.Caller, certSerial []byte) error
}

// Certificate is a credential as the API shows it.
type Certificate struct {
	Serial      string     `json:"serial" doc:"Certificate serial, hexadecimal"`
	Number      int64      `json:"number" doc:"The register's number"`
	Authority   string     `json:"authority"`
	Profile     string     `json:"profile"`
	Kind        string     `json:"kind"`
	Purpose     string     `json:"purpose,omitempty"`
	Device      string     `json:"device,omitempty" doc:"Device id"`
	State       string     `json:"state"`
	Reason      string     `json:"reason,omitempty"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	Key         string     `json:"key" doc:"Where the private key lives"`
	NotBefore   time.Time  `json:"not_before"`
	NotAfter    time.Time  `json:"not_after"`
	IssuedAt    time.Time  `json:"issued_at"`
	ConfirmedAt *time.Time `json:"confirmed_at,omitempty"`
	PEM         string     `json:"pem,omitempty"`
}

func (a *API) certificates() {
	add(a, op{method: http.MethodGet, path: "/certificates", action: access.CertificateRead, summary: "List certificates, newest first"}, a.listCertificates)
	add(a, op{method: http.MethodGet, path: "/certificates/{serial}", action: access.CertificateRead, summary: "Show a certificate"}, a.showCertificate)
	add(a, op{method: http.MethodPost, path: "/certificates/{serial}/revocation", action: access.CertificateRevoke, summary: "Revoke a certificate for good"}, a.revokeCertificate)
	add(a, op{method: http.MethodPost, path: "/certificates/{serial}/hold", action: access.CertificateRevoke, summary: "Put a certificate on hold"}, a.holdCertificate)
	add(a, op{method: http.MethodDelete, path: "/certificates/{serial}/hold", action: access.CertificateRevoke, summary: "Release a certificate from hold"}, a.releaseCertificate)
	add(a, op{method: http.MethodGet, path: "/expiry", action: access.CertificateRead, summary: "Certificates that end, by day and product"}, a.listExpiry)
}

type certificateFilter struct {
	Page
	Device    string `query:"device" doc:"Device id or serial"`
	Authority string `query:"authority"`
	Product   string `query:"product"`
	Kind      string `query:"kind"`
	State     string `query:"state"`
}

func (a *API) listCertificates(ctx context.Context, c *access.Caller, in *certificateFilter) (*list[Certificate], error) {
	plane, err := a.cfg.Authority.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	q, err := a.certificateQuery(ctx, c, plane, in)
	if err != nil {
		return nil, err
	}
	rows, next, err := a.cfg.Devices.Credentials(ctx, c.Scope, q)
	if err != nil {
		return nil, err
	}
	items := make([]Certificate, len(rows))
	for i := range rows {
		items[i] = showCertificate(plane, &rows[i])
	}
	return newList(items, next), nil
}

func (a *API) certificateQuery(ctx context.Context, c *access.Caller, plane *authority.Snapshot, in *certificateFilter) (q device.CredentialQuery, err error) {
	q = device.CredentialQuery{Kind: in.Kind, After: in.After, Limit: in.Limit}
	if in.State != "" {
		if q.State, err = device.ParseCredentialState(in.State); err != nil {
			return q, err
		}
	}
	if in.Device != "" {
		d, err := a.cfg.Register.Find(ctx, c, in.Device)
		if err != nil {
			return q, err
		}
		q.Device = d.ID
	}
	if in.Authority != "" {
		m, err := plane.Authority(in.Authority)
		if err != nil {
			return q, err
		}
		q.Authority = m.ID
	}
	if in.Product != "" {
		names, err := a.productNames(ctx, c)
		if err != nil {
			return q, err
		}
		if q.Product = names.id(in.Product); q.Product == 0 {
			return q, fault.New(fault.ProductUnknown, in.Product)
		}
	}
	return q, nil
}

func showCertificate(plane *authority.Snapshot, c *device.Credential) Certificate {
	out := Certificate{
		Serial: hexSerial(c.CertSerial), Number: int64(c.ID), Profile: plane.ProfileName(c.Profile), Kind: c.Kind,
		Purpose: c.Purpose, State: c.State.String(), Key: c.KeyKind.String(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, IssuedAt: c.IssuedAt,
	}
	if m, ok := plane.AuthorityByID(c.Authority); ok {
		out.Authority = m.Name
	}
	if c.Device != 0 {
		out.Device = c.Device.String()
	}
	if c.State == device.Revoked || c.State == device.Held {
		out.Reason, out.RevokedAt = string(status.ReasonName(c.Reason)), &c.RevokedAt
	}
	if !c.ConfirmedAt.IsZero() {
		out.ConfirmedAt = &c.ConfirmedAt
	}
	return out
}

// SerialPath names a certificate in a path.
type SerialPath struct {
	Serial string `path:"serial" minLength:"1" maxLength:"60" doc:"Certificate serial, hexadecimal, with or without colons"`
}

// parse reads a serial as tools print it.
func (p *SerialPath) parse() ([]byte, error) {
	text := strings.NewReplacer(":", "", " ", "").Replace(strings.TrimPrefix(strings.ToLower(p.Serial), "0x"))
	if len(text)%2 == 1 {
		text = "0" + text
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) == 0 || len(raw) > 21 {
		return nil, fault.New(fault.ParameterInvalid, "serial: hexadecimal digits of at most 20 octets")
	}
	for len(raw) > 1 && raw[0] == 0 {
		raw = raw[1:]
	}
	return raw, nil
}

func (a *API) showCertificate(ctx context.Context, c *access.Caller, in *SerialPath) (*one[Certificate], error) {
	raw, err := in.parse()
	if err != nil {
		return nil, err
	}
	row, err := a.cfg.Devices.CredentialBySerial(ctx, c.Scope, raw)
	if err != nil {
		return nil, err
	}
	plane, err := a.cfg.Authority.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := showCertificate(plane, &row)
	out.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: row.DER}))
	return &one[Certificate]{out}, nil
}

func (a *API) revokeCertificate(ctx context.Context, c *access.Caller, in *struct {
	SerialPath
	Body struct {
		Reason string `json:"reason" doc:"RFC 5280 reason, for example keyCompromise"`
	}
},
) (*one[Certificate], error) {
	raw, err := in.parse()
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Status.Revoke(ctx, c, raw, in.Body.Reason); err != nil {
		return nil, err
	}
	return a.showCertificate(ctx, c, &in.SerialPath)
}

func (a *API) holdCertificate(ctx context.Context, c *access.Caller, in *SerialPath) (*one[Certificate], error) {
	raw, err := in.parse()
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Status.Hold(ctx, c, raw); err != nil {
		return nil, err
	}
	return a.showCertificate(ctx, c, in)
}

func (a *API) releaseCertificate(ctx context.Context, c *access.Caller, in *SerialPath) (*one[Certificate], error) {
	raw, err := in.parse()
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Status.Release(ctx, c, raw); err != nil {
		return nil, err
	}
	return a.showCertificate(ctx, c, in)
}

// Expiry is how many live certificates of a product end on a day.
type Expiry struct {
	Day     string `json:"day" format:"date"`
	Product string `json:"product"`
	Count   int64  `json:"count"`
}

const daySeconds = 24 * 60 * 60

func (a *API) listExpiry(ctx context.Context, c *access.Caller, in *struct {
	Days int `query:"days" minimum:"1" maximum:"3660" default:"30" doc:"How far to look ahead"`
},
) (*list[Expiry], error) {
	today := a.now().Unix() / daySeconds
	counts, err := a.cfg.Devices.Expiring(ctx, c.Scope, today, today+int64(in.Days))
	if err != nil {
		return nil, err
	}
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	items := make([]Expiry, len(counts))
	for i, n := range counts {
		items[i] = Expiry{Day: time.Unix(n.Day*daySeconds, 0).UTC().Format(time.DateOnly), Product: names[n.Product], Count: n.Count}
	}
	return newList(items, ""), nil
}
