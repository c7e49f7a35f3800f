package rest

import (
	"context"
	"net/http"

	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// Chip is an entry of a manifest.
type Chip struct {
	Vendor   string    `json:"vendor"`
	UID      string    `json:"uid"`
	Type     string    `json:"chip_type"`
	State    string    `json:"state" enum:"listed,not provable,allotted,used,withdrawn"`
	Manifest int64     `json:"manifest"`
	Entry    int64     `json:"entry" doc:"Number of its entry in the manifest"`
	Order    string    `json:"order,omitempty" doc:"While allotted"`
	Device   string    `json:"device,omitempty" doc:"Id of the device that has it"`
	Keys     []ChipKey `json:"keys,omitempty"`
}

// ChipKey is a public key of a chip.
type ChipKey struct {
	Slot        string `json:"slot,omitempty"`
	PublicKey   []byte `json:"public_key" doc:"DER SubjectPublicKeyInfo, base64"`
	Certificate bool   `json:"certificate" doc:"The manifest lists a certificate for it"`
	MakersRoot  bool   `json:"makers_root" doc:"Whose path leads to a chip maker's root"`
}

func (a *API) chips() {
	add(a, op{method: http.MethodGet, path: "/chips", action: access.FactoryRead, summary: "List chips of a manifest, order or state"}, a.listChips)
	add(a, op{method: http.MethodGet, path: "/chips/{uid}", action: access.FactoryRead, summary: "Show a chip"}, a.showChip)
	add(a, op{method: http.MethodPost, path: "/chips/{uid}/withdrawal", action: access.ManifestManage, summary: "Keep a chip from being used", everywhere: true}, a.withdrawChip)
}

// ChipPath names a chip in a path.
type ChipPath struct {
	UID    string `path:"uid" maxLength:"128"`
	Vendor string `query:"vendor" maxLength:"64" doc:"Needed only where two makers have the UID"`
}

// showChip shows a row; orders that the caller does not see stay unnamed.
func (a *API) chip(ctx context.Context, c *access.Caller, row *factory.Chip) (Chip, error) {
	out := Chip{
		Vendor: row.Vendor, UID: row.UID, Type: row.ChipType, State: row.State.String(), Manifest: row.Manifest, Entry: row.Entry,
	}
	for _, k := range row.Keys {
		out.Keys = append(out.Keys, ChipKey{Slot: k.Slot, PublicKey: k.SPKI, Certificate: len(k.Chain) > 0, MakersRoot: k.VendorProof})
	}
	if row.Device != 0 {
		out.Device = row.Device.String()
	}
	if row.Order == 0 {
		return out, nil
	}
	o, err := a.cfg.Factory.OrderByID(ctx, *c, row.Order)
	if notFound(err) {
		return out, nil
	}
	out.Order = o.Number
	return out, err
}

func (a *API) answerChip(ctx context.Context, c *access.Caller, row *factory.Chip, err error) (*one[Chip], error) {
	if err != nil {
		return nil, err
	}
	out, err := a.chip(ctx, c, row)
	return &one[Chip]{out}, err
}

func (a *API) listChips(ctx context.Context, c *access.Caller, in *struct {
	Page
	Manifest int64  `query:"manifest" minimum:"0"`
	Order    string `query:"order" maxLength:"64"`
	State    string `query:"state" doc:"listed, not provable, allotted, used, withdrawn"`
},
) (*list[Chip], error) {
	q := factory.ChipQuery{Page: factory.Page{After: in.After, Limit: in.Limit}, Manifest: in.Manifest}
	var err error
	if q.State, err = anyOr(in.State, factory.ParseChipState); err != nil {
		return nil, err
	}
	if in.Order != "" {
		o, err := a.cfg.Factory.Order(ctx, *c, in.Order)
		if err != nil {
			return nil, err
		}
		q.Order = o.ID
	}
	rows, next, err := a.cfg.Factory.Chips(ctx, *c, q)
	if err != nil {
		return nil, err
	}
	items := make([]Chip, len(rows))
	for i := range rows {
		if items[i], err = a.chip(ctx, c, &rows[i]); err != nil {
			return nil, err
		}
	}
	return newList(items, next), nil
}

func (a *API) showChip(ctx context.Context, c *access.Caller, in *ChipPath) (*one[Chip], error) {
	row, err := a.cfg.Factory.Chip(ctx, *c, in.Vendor, in.UID)
	return a.answerChip(ctx, c, &row, err)
}

func (a *API) withdrawChip(ctx context.Context, c *access.Caller, in *struct {
	ChipPath
	Body Reason
},
) (*one[Chip], error) {
	row, err := a.cfg.Factory.WithdrawChip(ctx, *c, in.Vendor, in.UID, in.Body.Reason)
	return a.answerChip(ctx, c, &row, err)
}
