package stationtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// Batch answers a bundle as the server does: all of it only if the signature is
// that of the station's current certificate.
func (s *Server) Batch(bundle []byte) ([]byte, error) {
	var in station.Bundle
	d := json.NewDecoder(bytes.NewReader(bundle))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, fault.Wrap(fault.BundleInvalid, err)
	}
	unsigned := in
	unsigned.Signature = nil
	text, err := json.Marshal(&unsigned)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(in.Certificate)
	if err != nil || !bytes.Equal(in.Certificate, s.current) {
		return nil, fault.New(fault.StationCertificate)
	}
	digest := sha256.Sum256(text)
	if !ecdsa.VerifyASN1(certificate.PublicKey.(*ecdsa.PublicKey), digest[:], in.Signature) {
		return nil, fault.New(fault.BundleSignature)
	}
	whole := sha256.Sum256(bundle)
	out := station.Reply{Station: in.Station, Order: in.Order, Bundle: whole[:]}
	for i := range in.Units {
		out.Results = append(out.Results, s.unit(&in.Units[i]))
	}
	if text, err = json.Marshal(&out); err != nil {
		return nil, err
	}
	out.Signature = s.SignStatement(text)
	return json.Marshal(&out)
}
