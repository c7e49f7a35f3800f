package stationtest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/proof"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/pki/pkcs12"
)

func refused(id string, err error) station.Result {
	f := fault.Of(err)
	return station.Result{
		ID: id, Code: f.Code.String(), Kind: f.Kind.String(), Message: f.Message, Detail: f.Detail, Remedy: f.Remedy, Who: "who the server says",
	}
}

func (s *Server) unit(in *station.Unit) station.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, replayed, err := s.issue(in)
	if err != nil {
		return refused(in.ID, err)
	}
	return station.Result{
		ID: in.ID, DeviceSerial: in.DeviceSerial, OK: true, Replayed: replayed, Certificate: u.certificate,
		Chain: [][]byte{s.Root.Raw}, ConfirmNonce: u.nonce, Wrapped: u.wrapped,
	}
}

// Issue answers a unit of a batch, as the server does with a bundle.
func (s *Server) Issue(in *station.Unit) station.Result { return s.unit(in) }

func (s *Server) issue(in *station.Unit) (*unit, bool, error) {
	o := s.orders[in.Order]
	switch {
	case o == nil:
		return nil, false, fault.New(fault.StationNotAssigned)
	case o.State != "open":
		return nil, false, fault.New(fault.OrderState)
	case in.DeviceSerial == "":
		return nil, false, fault.New(fault.RequestMalformed)
	}
	spki, err := s.unitKey(o, in)
	if err != nil {
		return nil, false, err
	}
	old := s.units[in.DeviceSerial]
	if old != nil && !old.scrapped && spki != nil && bytes.Equal(old.spki, spki) {
		return old, true, nil
	}
	if err := s.proved(o, in, spki); err != nil {
		return nil, false, err
	}
	if old != nil && !old.scrapped && in.Rework == nil {
		return nil, false, fault.New(fault.UnitSerialTaken)
	}
	if old != nil && !old.scrapped {
		o.Live--
		if old.confirmed {
			o.Confirmed--
		}
	}
	switch {
	case o.Live >= o.Quantity:
		return nil, false, fault.New(fault.OrderFull)
	case o.Issued >= o.Quantity+o.Spares:
		return nil, false, fault.New(fault.SparesUsed)
	}
	u := &unit{order: o.Number, spki: spki, nonce: make([]byte, 32)}
	if in.Chip != nil {
		if by, ok := s.used[in.Chip.UID]; ok && (by != in.DeviceSerial || old != nil) {
			return nil, false, fault.New(fault.ChipUsed)
		}
		s.used[in.Chip.UID] = in.DeviceSerial
		u.uid = in.Chip.UID
	}
	_, _ = rand.Read(u.nonce)
	if err := s.certifyUnit(o, in, u); err != nil {
		return nil, false, err
	}
	s.units[in.DeviceSerial] = u
	o.Issued++
	o.Live++
	return u, false, nil
}

// unitKey returns the key that gets the certificate; nil: ours.
func (s *Server) unitKey(o *station.Order, in *station.Unit) ([]byte, error) {
	switch o.KeyModel {
	case "on-device":
		csr, err := x509.ParseCertificateRequest(in.CSR)
		if err != nil || csr.CheckSignature() != nil {
			return nil, fault.New(fault.RequestMalformed)
		}
		return csr.RawSubjectPublicKeyInfo, nil
	case "pre-provisioned", "adopted":
		if len(in.CSR) > 0 || in.Chip == nil {
			return nil, fault.New(fault.KeyModel)
		}
		if s.chips[in.Chip.UID] == nil {
			return nil, fault.New(fault.ChipUnknown)
		}
		return s.chips[in.Chip.UID], nil
	}
	return nil, nil
}

func (s *Server) proved(o *station.Order, in *station.Unit, spki []byte) error {
	if in.TPM != nil {
		return s.attested(in, spki)
	}
	if o.Evidence == "tpm" {
		return fault.New(fault.EvidenceMissing)
	}
	if o.KeyModel == "injected" || o.KeyModel == "on-device" && !o.Proof {
		return nil
	}
	if in.Chip == nil || len(in.Proof) == 0 {
		return fault.New(fault.ChipProofMissing)
	}
	if s.nonces[string(in.Nonce)] != o.Number {
		return fault.New(fault.NonceInvalid)
	}
	chip := s.chips[in.Chip.UID]
	if chip == nil {
		return fault.New(fault.ChipUnknown)
	}
	digest := proof.Chip(in.Nonce, in.Order, in.DeviceSerial, spki)
	if o.KeyModel != "on-device" {
		digest = proof.Held(in.Nonce, in.Order, in.DeviceSerial, spki)
	}
	if err := proof.Verify(chip, digest, in.Proof, fault.ChipProof); err != nil {
		return err
	}
	delete(s.nonces, string(in.Nonce))
	return nil
}

func (s *Server) certifyUnit(o *station.Order, in *station.Unit, u *unit) error {
	c := &x509.Certificate{Subject: pkix.Name{SerialNumber: in.DeviceSerial}, NotAfter: s.Now().Add(20 * 365 * 24 * time.Hour)}
	if o.KeyModel == "injected" {
		key := s.newKey()
		certificate := s.sign(c, s.Root, &key.PublicKey)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if in.Form != "pkcs12" {
			return fault.New(fault.RecipientInvalid)
		}
		u.certificate, u.spki = certificate.Raw, certificate.RawSubjectPublicKeyInfo
		u.wrapped, err = pkcs12.Seal(pkcs8, certificate.Raw, nil, in.Password, rand.Reader)
		return err
	}
	public, err := x509.ParsePKIXPublicKey(u.spki)
	if err != nil {
		return err
	}
	u.certificate = s.sign(c, s.Root, public).Raw
	return nil
}

// Adopt makes the certificate of an adopted unit the one that the chip's maker
// gave it.
func (s *Server) Adopt(deviceSerial string, certificate []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units[deviceSerial].certificate = certificate
}

func (s *Server) confirm(in *station.Confirm) station.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[in.DeviceSerial]
	switch {
	case u == nil || u.order != in.Order:
		return refused(in.ID, fault.New(fault.UnitUnknown))
	case u.scrapped:
		return refused(in.ID, fault.New(fault.UnitState))
	case !bytes.Equal(u.certificate, in.Certificate):
		return refused(in.ID, fault.New(fault.ReadBackWrong))
	}
	if err := proof.Verify(u.spki, proof.Confirm(u.nonce, in.DeviceSerial, in.Certificate), in.Signature, fault.ReadBackWrong); err != nil {
		return refused(in.ID, err)
	}
	replayed := u.confirmed
	u.confirms++
	if !u.confirmed {
		u.confirmed, u.wrapped = true, nil
		s.orders[in.Order].Confirmed++
	}
	s.ledger = append(s.ledger, "confirm "+in.DeviceSerial)
	return station.Result{ID: in.ID, DeviceSerial: in.DeviceSerial, OK: true, Replayed: replayed}
}

func (s *Server) scrap(in *station.Scrap) station.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[in.DeviceSerial]
	if u == nil || u.order != in.Order {
		return refused(in.ID, fault.New(fault.UnitUnknown))
	}
	if !u.scrapped {
		u.scrapped = true
		o := s.orders[in.Order]
		o.Live--
		o.Scrapped++
		if u.confirmed {
			o.Confirmed--
		}
	}
	s.ledger = append(s.ledger, "scrap "+in.DeviceSerial)
	return station.Result{ID: in.ID, DeviceSerial: in.DeviceSerial, OK: true}
}

func (s *Server) fail(in *station.Failed) station.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, *in)
	return station.Result{ID: in.ID, OK: true}
}
