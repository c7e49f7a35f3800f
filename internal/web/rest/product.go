package rest

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Product is a product as the API shows and takes it.
type Product struct {
	Name          string    `json:"name" minLength:"1" maxLength:"64"`
	Description   string    `json:"description,omitempty" maxLength:"500"`
	PartNumbers   []string  `json:"part_numbers,omitempty" maxItems:"64"`
	Profiles      []string  `json:"profiles,omitempty" maxItems:"64" doc:"Profiles under which its devices may enroll; the first is the default"`
	LeastEvidence string    `json:"least_evidence,omitempty" maxLength:"32" doc:"Least level of evidence: none, listed, chip, tpm, tpm-genuine, tpm-listed, tpm-firmware; see /evidence/kinds"`
	ChipTypes     []string  `json:"chip_types,omitempty" maxItems:"32" doc:"Chips it may be built with, as manifests name them"`
	KeyModel      string    `json:"key_model,omitempty" enum:"on-device,pre-provisioned,adopted,injected" doc:"How the key of the initial identity gets into a unit; absent: not made at stations"`
	IDevIDProfile string    `json:"idevid_profile,omitempty" maxLength:"64" doc:"Profile of the initial identity that stations ask for"`
	SerialPattern string    `json:"serial_pattern,omitempty" maxLength:"200" doc:"Regular expression (RE2) that a whole device serial must match"`
	ExternalRef   string    `json:"external_ref,omitempty" maxLength:"128" doc:"The maker's own number for it"`
	CreatedAt     time.Time `json:"created_at,omitzero" readOnly:"true"`
}

// defaultProfiles are a product's profiles when nothing is said: an operational
// identity first, the initial identity on request.
var defaultProfiles = []string{"ldevid-cloud", "idevid"}

func (a *API) products() {
	add(a, op{method: http.MethodGet, path: "/products", action: access.ProductRead, summary: "List products"}, a.listProducts)
	add(a, op{method: http.MethodPost, path: "/products", action: access.ProductManage, summary: "Add a product", everywhere: true, status: http.StatusCreated}, a.addProduct)
	add(a, op{method: http.MethodPut, path: "/products/{name}", action: access.ProductManage, summary: "Change a product"}, a.changeProduct)
}

func (a *API) listProducts(ctx context.Context, c *access.Caller, _ *nothing) (*list[Product], error) {
	all, err := a.cfg.Devices.Products(ctx, c.Scope)
	if err != nil {
		return nil, err
	}
	items := make([]Product, len(all))
	for i := range all {
		items[i] = showProduct(&all[i])
	}
	return newList(items, ""), nil
}

func showProduct(p *device.Product) Product {
	return Product{
		Name: p.Name, Description: p.Description, PartNumbers: p.PartNumbers, Profiles: p.Profiles,
		LeastEvidence: p.LeastEvidence, ChipTypes: p.ChipTypes, KeyModel: string(p.KeyModel), IDevIDProfile: p.IDevIDProfile,
		SerialPattern: p.SerialPattern, ExternalRef: p.ExternalRef, CreatedAt: p.CreatedAt,
	}
}

func (in *Product) row() device.Product {
	return device.Product{
		Name: in.Name, Description: in.Description, PartNumbers: in.PartNumbers, Profiles: in.Profiles, LeastEvidence: in.LeastEvidence,
		ChipTypes: in.ChipTypes, KeyModel: device.KeyModel(in.KeyModel), IDevIDProfile: in.IDevIDProfile,
		SerialPattern: in.SerialPattern, ExternalRef: in.ExternalRef,
	}
}

func (a *API) addProduct(ctx context.Context, c *access.Caller, in *one[Product]) (*one[Product], error) {
	p := in.Body.row()
	if len(p.Profiles) == 0 {
		p.Profiles = defaultProfiles
	}
	added, err := a.cfg.Authority.AddProduct(ctx, c.Name, p)
	if err != nil {
		return nil, err
	}
	return &one[Product]{showProduct(&added)}, nil
}

func (a *API) changeProduct(ctx context.Context, c *access.Caller, in *struct {
	Name string `path:"name" maxLength:"64"`
	one[Product]
},
) (*one[Product], error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	p := in.Body.row()
	if p.ID = names.id(in.Name); p.ID == 0 {
		return nil, fault.New(fault.ProductUnknown, in.Name)
	}
	if err := a.cfg.Authority.ChangeProduct(ctx, c.Name, p); err != nil {
		return nil, err
	}
	return &one[Product]{showProduct(&p)}, nil
}

// productNames maps ids to names for one answer, within the caller's scope.
type productNames map[int64]string

func (a *API) productNames(ctx context.Context, c *access.Caller) (productNames, error) {
	all, err := a.cfg.Devices.Products(ctx, c.Scope)
	if err != nil {
		return nil, err
	}
	names := make(productNames, len(all))
	for _, p := range all {
		names[p.ID] = p.Name
	}
	return names, nil
}

// names are the names of products, without those that the caller does not see.
func (n productNames) names(ids []int64) (names []string) {
	for _, id := range ids {
		if name, ok := n[id]; ok {
			names = append(names, name)
		}
	}
	return names
}

func (n productNames) id(name string) int64 {
	for id, have := range n {
		if have == name {
			return id
		}
	}
	return 0
}

func (n productNames) device(d *device.Device) Device {
	out := Device{
		ID: d.ID.String(), Serial: d.DeviceSerial, Product: n[d.Product], State: d.State.String(), Region: d.Region,
		Labels: d.Labels, Version: d.Version, OneTime: "none", RegisteredAt: d.RegisteredAt, ChangedAt: d.ChangedAt,
	}
	if d.Secret.Set {
		out.OneTime = "ready"
		if !d.Secret.SpentAt.IsZero() {
			out.OneTime = "spent"
		}
	}
	return out
}

func hexSerial(certSerial []byte) string { return strings.ToUpper(hex.EncodeToString(certSerial)) }

func cut(s string) (key, value string, ok bool) { return strings.Cut(s, "=") }
