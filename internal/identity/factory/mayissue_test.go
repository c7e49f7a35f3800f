package factory_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// attempt is one that may issue.
func attempt() factory.Attempt {
	return factory.Attempt{
		Station: &factory.Station{ID: 3, Name: "b1", Site: 1, State: factory.StationActive},
		Order: &factory.Order{
			ID: 7, Number: "PO-1", Product: 2, Site: 1, State: factory.OrderOpen, Quantity: 10, Stations: []int64{3, 4},
			SerialFrom: "SN0001", SerialTo: "SN0100",
		},
		Product:      &device.Product{ID: 2, LeastEvidence: "chip", KeyModel: device.KeyModelOnDevice, ChipTypes: []string{"ECC608", "SE050"}, SerialPattern: "SN[0-9]{4}"},
		DeviceSerial: "SN0042",
		Device:       99,
		Chip:         &factory.Chip{ID: 5, UID: "01", ChipType: "SE050", State: factory.ChipListed},
	}
}

func TestEachConditionRefusesWithItsOwnCode(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*factory.Attempt)
		code   fault.Code // 0: allowed
	}{
		"all is well":                    {func(*factory.Attempt) {}, 0},
		"suspended station":              {func(a *factory.Attempt) { a.Station.State = factory.StationSuspended }, fault.StationState},
		"retired station":                {func(a *factory.Attempt) { a.Station.State = factory.StationRetired }, fault.StationState},
		"another site's station":         {func(a *factory.Attempt) { a.Station.Site = 2 }, fault.OrderUnknown},
		"a station that is not assigned": {func(a *factory.Attempt) { a.Station.ID = 8 }, fault.StationNotAssigned},
		"planned order":                  {func(a *factory.Attempt) { a.Order.State = factory.OrderPlanned }, fault.OrderState},
		"closed order":                   {func(a *factory.Attempt) { a.Order.State = factory.OrderClosed }, fault.OrderState},
		"canceled order":                 {func(a *factory.Attempt) { a.Order.State = factory.OrderCanceled }, fault.OrderState},
		"frozen order":                   {func(a *factory.Attempt) { a.Order.Frozen = true }, fault.OrderFrozen},
		"below the range":                {func(a *factory.Attempt) { a.DeviceSerial = "SN0000" }, fault.UnitSerialRange},
		"above the range":                {func(a *factory.Attempt) { a.DeviceSerial = "SN0101" }, fault.UnitSerialRange},
		"first of the range":             {func(a *factory.Attempt) { a.DeviceSerial = "SN0001" }, 0},
		"last of the range":              {func(a *factory.Attempt) { a.DeviceSerial = "SN0100" }, 0},
		"longer than the range":          {func(a *factory.Attempt) { a.DeviceSerial = "SN00421" }, fault.UnitSerialRange},
		"a letter where both ends have a digit": {func(a *factory.Attempt) {
			a.DeviceSerial, a.Product.SerialPattern = "SN00zz", ""
		}, fault.UnitSerialRange},
		"beside the pattern": {func(a *factory.Attempt) { a.DeviceSerial = "SN00A2" }, fault.UnitSerialRange},
		"a part of it in the pattern": {func(a *factory.Attempt) {
			a.Order.SerialFrom, a.Order.SerialTo, a.DeviceSerial = "", "", "XSN0042"
		}, fault.UnitSerialRange},
		"an alternative of the pattern": {func(a *factory.Attempt) {
			a.Order.SerialFrom, a.Order.SerialTo, a.DeviceSerial, a.Product.SerialPattern = "", "", "AAAA", "A|B"
		}, fault.UnitSerialRange},
		"a serial that is none":  {func(a *factory.Attempt) { a.DeviceSerial = "../SN" }, fault.DeviceSerialInvalid},
		"no chip":                {func(a *factory.Attempt) { a.Chip = nil }, fault.ChipProofMissing},
		"no chip and none asked": {func(a *factory.Attempt) { a.Chip, a.Product.LeastEvidence = nil, "" }, 0},
		"no chip, pre-provisioned": {func(a *factory.Attempt) {
			a.Chip, a.Product.LeastEvidence, a.Product.KeyModel = nil, "", device.KeyModelProvisioned
		}, fault.ChipProofMissing},
		"withdrawn chip":        {func(a *factory.Attempt) { a.Chip.State = factory.ChipWithdrawn }, fault.ChipWithdrawn},
		"another device's chip": {func(a *factory.Attempt) { a.Chip.State, a.Chip.Device = factory.ChipUsed, 98 }, fault.ChipUsed},
		"the device's own chip": {func(a *factory.Attempt) { a.Chip.State, a.Chip.Device = factory.ChipUsed, 99 }, 0},
		"nobody's used chip":    {func(a *factory.Attempt) { a.Chip.State, a.Chip.Device, a.Device = factory.ChipUsed, 0, 0 }, fault.ChipUsed},
		"another order's chip":  {func(a *factory.Attempt) { a.Chip.State, a.Chip.Order = factory.ChipAllotted, 8 }, fault.ChipOtherOrder},
		"the order's chip":      {func(a *factory.Attempt) { a.Chip.State, a.Chip.Order = factory.ChipAllotted, 7 }, 0},
		"not provable":          {func(a *factory.Attempt) { a.Chip.State = factory.ChipNotProvable }, fault.ChipNotProvable},
		"not provable, none asked": {func(a *factory.Attempt) {
			a.Chip.State, a.Product.LeastEvidence = factory.ChipNotProvable, ""
		}, 0},
		"another product's chip":    {func(a *factory.Attempt) { a.Chip.Product = 9 }, fault.ChipOtherProduct},
		"the product's chip":        {func(a *factory.Attempt) { a.Chip.Product = 2 }, 0},
		"another chip type":         {func(a *factory.Attempt) { a.Chip.ChipType = "TPM" }, fault.ChipOtherProduct},
		"narrowed to second source": {func(a *factory.Attempt) { a.Order.ChipTypes = []string{"ECC608"} }, fault.ChipOtherProduct},
		"a chip of no state":        {func(a *factory.Attempt) { a.Chip.State = 0 }, fault.ChipUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			a := attempt()
			row.change(&a)
			err := factory.MayIssue(factory.Indexed(factory.Plane{}), &a)
			if row.code == 0 && err != nil || row.code != 0 && !fault.Has(err, row.code) {
				t.Errorf("got %v, want %v", err, row.code)
			}
		})
	}
}

// TestNothingIsIssuedOutsideTheTerms says the whole rule a second time, plainly,
// and compares. Most draws differ from the terms in little, so that both answers
// are frequent.
func TestNothingIsIssuedOutsideTheTerms(t *testing.T) {
	serials := []string{"SN0000", "SN0001", "SN0100", "SN0101", "SN00050", "sn0050", "SN005", "AB0050", ""}
	answers := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		a := attempt()
		a.Chip.State = factory.ChipState(rapid.Uint8Range(1, 4).Draw(t, "chip's state"))
		a.Chip.Order, a.Chip.Device = 7, 99
		changes := []func(){
			func() { a.Station.ID = rapid.Int64Range(2, 5).Draw(t, "station") },
			func() { a.Station.Site = rapid.Int64Range(1, 2).Draw(t, "station's site") },
			func() { a.Station.State = factory.StationState(rapid.Uint8Range(1, 3).Draw(t, "station's state")) },
			func() { a.Order.State = factory.OrderState(rapid.Uint8Range(1, 4).Draw(t, "order's state")) },
			func() { a.Order.Frozen = rapid.Bool().Draw(t, "frozen") },
			func() { a.Order.SerialFrom, a.Order.SerialTo = "", "" },
			func() {
				a.Order.ChipTypes = rapid.SampledFrom([][]string{{"ECC608"}, {"SE050"}}).Draw(t, "narrowed")
			},
			func() { a.Product.LeastEvidence = rapid.SampledFrom([]string{"", "none"}).Draw(t, "evidence") },
			func() { a.Product.SerialPattern = "" },
			func() { a.DeviceSerial = rapid.SampledFrom(serials).Draw(t, "serial") },
			func() { a.Chip = nil },
			func() {
				a.Chip = &factory.Chip{
					UID: "01", ChipType: rapid.SampledFrom([]string{"ECC608", "SE050", "TPM", ""}).Draw(t, "chip type"),
					State: factory.ChipState(rapid.Uint8Range(0, 6).Draw(t, "chip's state")), Order: rapid.Int64Range(6, 8).Draw(t, "chip's order"),
					Device: device.ID(rapid.Int64Range(98, 100).Draw(t, "chip's device")), Product: rapid.Int64Range(0, 3).Draw(t, "chip's product"),
				}
			},
		}
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(changes)-1), 0, 3, rapid.ID).Draw(t, "changes") {
			changes[i]()
		}
		err := factory.MayIssue(factory.Indexed(factory.Plane{}), &a)
		allowed := allowed(&a)
		answers[allowed]++
		if allowed != (err == nil) {
			t.Fatalf("allowed %v, got %v", allowed, err)
		}
	})
	if answers[true] == 0 || answers[false] == 0 {
		t.Errorf("the draws are one-sided: %v", answers)
	}
}

func allowed(a *factory.Attempt) bool {
	station := a.Station.State == factory.StationActive && a.Station.Site == 1 && (a.Station.ID == 3 || a.Station.ID == 4)
	order := a.Order.State == factory.OrderOpen && !a.Order.Frozen
	number := strings.TrimPrefix(a.DeviceSerial, "SN")
	patterned := len(number) == 4 && len(a.DeviceSerial) == 6 && strings.Trim(number, "0123456789") == ""
	serial := a.DeviceSerial != "" && (a.Product.SerialPattern == "" || patterned) &&
		(a.Order.SerialFrom == "" || slices.Contains([]string{"SN0001", "SN0042", "SN0100"}, a.DeviceSerial))
	if a.Chip == nil {
		return station && order && serial && a.Product.LeastEvidence != "chip"
	}
	types := []string{"ECC608", "SE050"}
	if a.Order.ChipTypes != nil {
		types = a.Order.ChipTypes
	}
	chip := slices.Contains(types, a.Chip.ChipType) && (a.Chip.Product == 0 || a.Chip.Product == 2)
	switch a.Chip.State {
	case factory.ChipListed:
	case factory.ChipNotProvable:
		chip = chip && a.Product.LeastEvidence != "chip"
	case factory.ChipAllotted:
		chip = chip && a.Chip.Order == 7
	case factory.ChipUsed:
		chip = chip && a.Chip.Device == 99
	default:
		chip = false
	}
	return station && order && serial && chip
}

func TestPatternsThatDoNotCompileRefuse(t *testing.T) {
	a := attempt()
	a.Product.SerialPattern = "("
	if err := factory.MayIssue(factory.Indexed(factory.Plane{}), &a); !fault.Has(err, fault.UnitSerialRange) {
		t.Errorf("got %v", err)
	}
}
