package device

import "github.com/birthmark/birthmark/internal/identity/ledger"

func registeredBody(d *Device) ledger.Body {
	return &ledger.Registered{
		Device: int64(d.ID), DeviceSerial: d.DeviceSerial, Product: d.Product, Version: d.Version,
		State: uint8(d.State), Site: d.Site, Owner: d.Owner, Region: d.Region,
		Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash,
	}
}

func changedBody(d *Device) ledger.Body {
	return &ledger.Changed{
		Device: int64(d.ID), Version: d.Version, State: uint8(d.State), Site: d.Site, Owner: d.Owner,
		Region: d.Region, Labels: ledger.LabelsDigest(d.Labels), Secret: d.Secret.Hash,
		SecretSpent: d.Secret.SpentAt, SecretSPKI: d.Secret.SpentSPKI,
	}
}
