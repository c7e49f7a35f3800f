package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/pki/keypool"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// made is the key of a unit's identity and where it came from.
type made struct {
	spki   []byte
	digest [32]byte // SHA-256 of spki
	kind   device.KeyKind
	// adopted is the certificate that the chip maker issued, and its chain.
	adopted *x509.Certificate
	chain   [][]byte
	// injected is the private key, while it is here.
	injected *keypool.Key
}

func (m *made) erase() {
	if m.injected != nil {
		m.injected.Erase()
		m.injected = nil
	}
}

// findChip reads the chip that the unit names, and the key of it that signs.
func (e *Enroller) findChip(ctx context.Context, a *attempt) error {
	a.chip, a.chipKey = nil, nil
	named := a.unit.Chip
	if named == nil {
		return nil
	}
	uid := strings.ToLower(named.UID)
	if uid == "" || len(uid) > proof.MaxField {
		return fault.New(fault.ChipUnknown)
	}
	if named.Vendor != "" {
		c, err := e.line.Store.Chip(ctx, e.line.Store.ChipID(strings.ToLower(named.Vendor), uid))
		if err != nil {
			return err
		}
		a.chip = &c
	} else {
		found, err := e.line.Store.FindChips(ctx, uid)
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			return fault.New(fault.ChipUnknown, uid)
		case len(found) > 1:
			return fault.New(fault.ChipUnknown, uid, "is a chip of several vendors: name the vendor")
		}
		a.chip = &found[0]
	}
	a.shown = shown{kind: attest.ChipListed, claims: attest.Listed}
	i := 0
	if named.Slot != "" {
		i = slices.IndexFunc(a.chip.Keys, func(k factory.ChipKey) bool { return k.Slot == named.Slot })
	}
	if i >= 0 && i < len(a.chip.Keys) {
		a.chipKey = &a.chip.Keys[i]
	}
	return nil
}

// decideKey judges the key as the product's key model wants it.
func (e *Enroller) decideKey(ctx context.Context, a *attempt) error {
	var err error
	switch a.product.KeyModel {
	case device.KeyModelOnDevice:
		err = a.onDevice()
	case device.KeyModelProvisioned:
		err = a.provisioned()
	case device.KeyModelAdopted:
		if err = a.provisioned(); err == nil {
			err = a.adopt(e.now())
		}
	case device.KeyModelInjected:
		err = e.inject(ctx, a)
	default:
		err = fault.New(fault.KeyModel, string(a.product.KeyModel))
	}
	if err != nil {
		return err
	}
	return a.need.check(a.shown)
}

// onDevice judges a request for a key that the device made.
func (a *attempt) onDevice() error {
	if err := a.parse(); err != nil {
		return err
	}
	if !a.road.Profile.Allows(a.csr.KeyType) {
		return fault.New(fault.KeyNotAllowed, string(a.csr.KeyType))
	}
	a.made = made{spki: a.csr.SPKI, digest: a.csr.SPKIDigest, kind: device.KeySoftware}
	if len(a.unit.Proof) == 0 {
		return nil
	}
	if err := a.prove(proof.Chip(a.unit.Nonce, a.order.Number, a.unit.DeviceSerial, a.csr.SPKI)); err != nil {
		return err
	}
	a.shown = shown{kind: attest.ChipProof, claims: attest.Listed | attest.Fresh, vouched: true}
	a.made.kind = device.KeyHardware
	return nil
}

// parse judges the request once; a request that never changes needs its signature
// checked no second time.
func (a *attempt) parse() (err error) {
	if len(a.unit.CSR) == 0 {
		return fault.New(fault.KeyModel, "the device sends a certificate request")
	}
	if a.csr == nil {
		a.csr, err = request.Parse(a.unit.CSR)
	}
	return err
}

// provisioned judges the proof that the chip holds the key which its maker
// listed. There is no request.
func (a *attempt) provisioned() error {
	if len(a.unit.CSR) > 0 {
		return fault.New(fault.KeyModel, "the chip's own key is certified, without a certificate request")
	}
	if a.chip == nil {
		return fault.New(fault.ChipProofMissing)
	}
	if a.chipKey == nil {
		return fault.New(fault.ChipNotProvable, a.chip.UID)
	}
	_, kind, err := request.PublicKey(a.chipKey.SPKI)
	if err != nil {
		return err
	}
	if a.product.KeyModel == device.KeyModelProvisioned && !a.road.Profile.Allows(kind) {
		return fault.New(fault.KeyNotAllowed, string(kind))
	}
	if err := a.prove(proof.Held(a.unit.Nonce, a.order.Number, a.unit.DeviceSerial, a.chipKey.SPKI)); err != nil {
		return err
	}
	a.made = made{spki: a.chipKey.SPKI, digest: sha256.Sum256(a.chipKey.SPKI), kind: device.KeyHardware}
	a.shown = shown{kind: attest.ChipProof, claims: attest.Listed | attest.Fresh | attest.KeyInChip}
	if a.chipKey.VendorProof {
		a.shown.claims |= attest.Genuine
	}
	return nil
}

// prove wants the chip's signature over a statement with a nonce of ours.
func (a *attempt) prove(digest [32]byte) error {
	switch {
	case a.chip == nil || len(a.unit.Proof) == 0:
		return fault.New(fault.ChipProofMissing)
	case a.chipKey == nil:
		return fault.New(fault.ChipNotProvable, a.chip.UID)
	case a.nonce.Block == 0:
		return fault.New(fault.NonceInvalid)
	}
	return proof.Verify(a.chipKey.SPKI, digest, a.unit.Proof, fault.ChipProof)
}

// adopt takes the certificate that the chip maker issued for the proven key.
func (a *attempt) adopt(now time.Time) error {
	if len(a.chipKey.Chain) == 0 || !a.chipKey.VendorProof {
		return fault.New(fault.ChipNotProvable, a.chip.UID, "has no certificate of its maker")
	}
	leaf, err := x509.ParseCertificate(a.chipKey.Chain[0])
	if err != nil {
		return fault.Wrap(fault.ChipNotProvable, err, a.chip.UID)
	}
	switch {
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, a.chipKey.SPKI):
		return fault.New(fault.ChipNotProvable, a.chip.UID, "has a certificate for another key")
	case leaf.IsCA || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter):
		return fault.New(fault.ChipNotProvable, a.chip.UID, "has a certificate that is not valid now")
	}
	a.made.adopted, a.made.chain = leaf, a.chipKey.Chain[1:]
	return nil
}

// inject takes a key from the pool, once.
func (e *Enroller) inject(ctx context.Context, a *attempt) (err error) {
	if len(a.unit.CSR) > 0 {
		return fault.New(fault.KeyModel, "the key is made by us, without a certificate request")
	}
	if a.road.Profile.RequireHardware {
		return fault.New(fault.KeyModel, "the profile wants a key that lives in a chip")
	}
	if a.need.chip() { // the chip vouches for no key that we made
		return fault.New(fault.KeyModel, "an injected key cannot have a chip's proof")
	}
	if a.sealing, err = sealingOf(a.unit); err != nil {
		return err
	}
	if a.made.injected != nil {
		return nil
	}
	i := slices.IndexFunc(keypool.Types(), a.road.Profile.Allows)
	if i < 0 {
		return fault.New(fault.KeyNotAllowed)
	}
	kind := keypool.Types()[i]
	for _, wanted := range a.road.Profile.Keys { // the profile's order says what it prefers
		if slices.Contains(keypool.Types(), wanted) {
			kind = wanted
			break
		}
	}
	key, err := e.line.Keys.Take(ctx, kind)
	if err != nil {
		return err
	}
	a.made = made{spki: key.SPKI, digest: sha256.Sum256(key.SPKI), kind: device.KeyInjected, injected: key}
	return nil
}
