package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// Device is a device as the API shows it.
type Device struct {
	ID           string            `json:"id" doc:"16 hex digits"`
	Serial       string            `json:"serial" doc:"The maker's number on the label"`
	Product      string            `json:"product"`
	State        string            `json:"state"`
	Region       string            `json:"region,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	Version      int64             `json:"version"`
	OneTime      string            `json:"one_time_secret" enum:"none,ready,spent"`
	Credentials  map[string]string `json:"credentials,omitempty" doc:"Certificate serial of the newest credential of each slot"`
	Evidence     []Proof           `json:"evidence,omitempty" doc:"What was proven of the hardware for each of them; not in lists"`
	RegisteredAt time.Time         `json:"registered_at"`
	ChangedAt    time.Time         `json:"changed_at"`
}

// NewDevice is what a caller says of a device to register.
type NewDevice struct {
	Serial        string            `json:"serial" minLength:"1" maxLength:"64"`
	Product       string            `json:"product" minLength:"1" maxLength:"64"`
	Region        string            `json:"region,omitempty" maxLength:"64"`
	Labels        map[string]string `json:"labels,omitempty"`
	WithoutSecret bool              `json:"without_secret,omitempty" doc:"The device enrolls by other proof only"`
}

// AddedDevice is a registered device with its one-time secret.
type AddedDevice struct {
	Device
	Secret string `json:"secret,omitempty" doc:"One-time secret for EST's HTTP Basic (user: serial); shown once"`
}

func (a *API) devices() {
	add(a, op{method: http.MethodGet, path: "/devices", action: access.DeviceRead, summary: "List devices"}, a.listDevices)
	add(a, op{method: http.MethodPost, path: "/devices", action: access.DeviceRegister, summary: "Register devices, all or none", status: http.StatusCreated}, a.addDevices)
	add(a, op{method: http.MethodGet, path: "/devices/{device}", action: access.DeviceRead, summary: "Show a device by id or serial"}, a.showDevice)
	add(a, op{method: http.MethodPatch, path: "/devices/{device}", action: access.DeviceManage, summary: "Change a device's labels"}, a.labelDevice)
	add(a, op{method: http.MethodPost, path: "/devices/{device}/state", action: access.DeviceManage, summary: "Move a device to another state"}, a.moveDevice)
	add(a, op{method: http.MethodPost, path: "/devices/{device}/secret", action: access.DeviceManage, summary: "Make a new one-time secret"}, a.renewSecret)
}

type deviceFilter struct {
	Page
	Product string `query:"product" doc:"Product name"`
	State   string `query:"state"`
	Serial  string `query:"serial" doc:"Exact serial"`
	Label   string `query:"label" doc:"key=value"`
}

func (a *API) listDevices(ctx context.Context, c *access.Caller, in *deviceFilter) (*list[Device], error) {
	q := device.DeviceQuery{DeviceSerial: in.Serial, After: in.After, Limit: in.Limit}
	var err error
	if in.State != "" {
		if q.State, err = device.ParseState(in.State); err != nil {
			return nil, err
		}
	}
	if in.Label != "" {
		key, value, ok := cut(in.Label)
		if !ok {
			return nil, fault.New(fault.ParameterInvalid, "label: key=value")
		}
		q.Label = [2]string{key, value}
	}
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	if in.Product != "" {
		if q.Product = names.id(in.Product); q.Product == 0 {
			return nil, fault.New(fault.ProductUnknown, in.Product)
		}
	}
	devices, next, err := a.cfg.Register.Devices(ctx, c, q)
	if err != nil {
		return nil, err
	}
	items := make([]Device, len(devices))
	for i := range devices {
		items[i] = names.device(&devices[i])
	}
	return newList(items, next), nil
}

func (a *API) addDevices(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Devices []NewDevice `json:"devices" minItems:"1" maxItems:"2000"`
	}
},
) (*list[AddedDevice], error) {
	wanted := make([]device.NewDevice, len(in.Body.Devices))
	for i, n := range in.Body.Devices {
		wanted[i] = device.NewDevice{DeviceSerial: n.Serial, Product: n.Product, Region: n.Region, Labels: n.Labels, WithoutSecret: n.WithoutSecret}
	}
	added, err := a.cfg.Register.Add(ctx, c, wanted)
	if err != nil {
		return nil, err
	}
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	items := make([]AddedDevice, len(added))
	for i := range added {
		items[i] = AddedDevice{Device: names.device(&added[i].Device), Secret: added[i].Secret}
	}
	return newList(items, ""), nil
}

// DevicePath names a device in a path.
type DevicePath struct {
	Device string `path:"device" maxLength:"64" doc:"Device id or serial"`
}

// answerDevice shows a device; credentials' serials are looked up, since people
// know certificates by them.
func (a *API) answerDevice(ctx context.Context, c *access.Caller, d *device.Device) (*one[Device], error) {
	names, err := a.productNames(ctx, c)
	if err != nil {
		return nil, err
	}
	out := names.device(d)
	current, err := a.currentEvidence(ctx, c, d)
	if err != nil {
		return nil, err
	}
	for _, e := range current {
		if out.Credentials == nil {
			out.Credentials = map[string]string{}
		}
		out.Credentials[e.Slot] = e.Certificate
		out.Evidence = append(out.Evidence, e.Proof)
	}
	return &one[Device]{out}, nil
}

func (a *API) showDevice(ctx context.Context, c *access.Caller, in *DevicePath) (*one[Device], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	return a.answerDevice(ctx, c, &d)
}

func (a *API) labelDevice(ctx context.Context, c *access.Caller, in *struct {
	DevicePath
	Body struct {
		Labels map[string]string `json:"labels" doc:"Merged into the device's; an empty value removes the key"`
	}
},
) (*one[Device], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	if d, err = a.cfg.Register.SetLabels(ctx, c, d.ID, in.Body.Labels); err != nil {
		return nil, err
	}
	return a.answerDevice(ctx, c, &d)
}

func (a *API) moveDevice(ctx context.Context, c *access.Caller, in *struct {
	DevicePath
	Body struct {
		State string `json:"state" doc:"registered, provisioned, shipped, active, suspended, in repair, decommissioned, scrapped"`
	}
},
) (*one[Device], error) {
	state, err := device.ParseState(in.Body.State)
	if err != nil {
		return nil, err
	}
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	if d, err = a.cfg.Register.Move(ctx, c, d.ID, state); err != nil {
		return nil, err
	}
	return a.answerDevice(ctx, c, &d)
}

func (a *API) renewSecret(ctx context.Context, c *access.Caller, in *DevicePath) (*one[AddedDevice], error) {
	d, err := a.cfg.Register.Find(ctx, c, in.Device)
	if err != nil {
		return nil, err
	}
	added, err := a.cfg.Register.RenewSecret(ctx, c, d.ID)
	if err != nil {
		return nil, err
	}
	shown, err := a.answerDevice(ctx, c, &added.Device)
	if err != nil {
		return nil, err
	}
	return &one[AddedDevice]{AddedDevice{Device: shown.Body, Secret: added.Secret}}, nil
}
