package tpm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/cryptobyte"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// TPM is what a claim says, as far as it was believed. MarshalBinary makes it part
// of a ticket.
type TPM struct {
	EK            [32]byte // SHA-256 of EKSPKI: the TPM's name everywhere else
	EKSPKI        []byte   // DER SubjectPublicKeyInfo of the EK
	EKForm        string   // which of the TCG's templates the EK was made from: "L-1", "H-3"
	EKCertificate []byte   // DER; empty: the TPM has none
	EKChain       [][]byte // DER of those authorities on the way to the root that no bundle has
	Genuine       bool     // the certificate leads to a maker's root
	Expired       bool     // it is over, and its maker's are accepted all the same
	Maker         string   // the maker's name in its bundle
	Bundle        string   // name and version of the bundle: "tpm-makers 4"
	// Vendor, Model and Version are tpmManufacturer, tpmModel and tpmVersion of the
	// EK certificate, the maker's word; empty where not Genuine.
	Vendor, Model, Version string
	// HardwareSerial is "<vendor, 8 hex>:<EK certificate's AKI, hex>:<its serial
	// number, hex>" as hardwareModuleName has it (TCG, TPM 2.0 Keys for Device
	// Identity and Attestation, section 8); empty where not Genuine.
	HardwareSerial string
	EKPublic       []byte // TPMT_PUBLIC, as rebuilt
	AKPublic       []byte // TPMT_PUBLIC
}

// EKCertificateDigest returns the SHA-256 of the EK certificate (permanentIdentifier
// of an IDevID), and false where there is none, or none that a maker made.
func (x *TPM) EKCertificateDigest() ([32]byte, bool) {
	if !x.Genuine {
		return [32]byte{}, false
	}
	return sha256.Sum256(x.EKCertificate), true
}

// names returns what the EK certificate says of the TPM, whoever made it, and false
// where there is none.
func (x *TPM) names() (wire.EKNames, bool) {
	if len(x.EKCertificate) == 0 {
		return wire.EKNames{}, false
	}
	cert, err := parseEKCertificate(x.EKCertificate)
	if err != nil {
		return wire.EKNames{}, false
	}
	return cert.names, true
}

// AK returns the TPM's attestation key.
func (x *TPM) AK() (*AK, error) {
	k, err := ParseAK(x.AKPublic)
	if err != nil {
		return nil, err
	}
	ek, err := wire.ParsePublic(x.EKPublic)
	if err != nil {
		return nil, err
	}
	below := qualified(ek.NameAlg, binary.BigEndian.AppendUint32(nil, endorsement), ek.Name())
	k.unmasked = append(k.unmasked, qualified(wire.Alg(binary.BigEndian.Uint16(k.name)), below, k.name))
	return k, nil
}

// binaryVersion is the first octet of a TPM in binary form.
const binaryVersion = 1

// MarshalBinary returns the TPM in a compact form of this version of the program.
func (x *TPM) MarshalBinary() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, 1024+len(x.EKCertificate)))
	b.AddUint8(binaryVersion)
	flags := uint8(0)
	if x.Genuine {
		flags |= 1
	}
	if x.Expired {
		flags |= 2
	}
	b.AddUint8(flags)
	for _, octets := range [][]byte{x.EKSPKI, x.EKCertificate, x.EKPublic, x.AKPublic} {
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(octets) })
	}
	for _, text := range x.texts() {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(*text)) })
	}
	for _, der := range x.EKChain {
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
	}
	return b.Bytes()
}

func (x *TPM) texts() []*string {
	return []*string{&x.EKForm, &x.Maker, &x.Bundle, &x.Vendor, &x.Model, &x.Version, &x.HardwareSerial}
}

// UnmarshalBinary reads what MarshalBinary wrote. It copies nothing: the TPM shares
// b's memory.
func (x *TPM) UnmarshalBinary(b []byte) error {
	*x = TPM{}
	in := cryptobyte.String(b)
	var version, flags uint8
	ok := in.ReadUint8(&version) && in.ReadUint8(&flags) && version == binaryVersion && flags < 4
	x.Genuine, x.Expired = flags&1 != 0, flags&2 != 0
	for _, octets := range []*[]byte{&x.EKSPKI, &x.EKCertificate, &x.EKPublic, &x.AKPublic} {
		ok = ok && in.ReadUint24LengthPrefixed((*cryptobyte.String)(octets))
	}
	for _, text := range x.texts() {
		var octets cryptobyte.String
		ok = ok && in.ReadUint16LengthPrefixed(&octets)
		*text = string(octets)
	}
	for ok && !in.Empty() {
		var der cryptobyte.String
		ok = in.ReadUint24LengthPrefixed(&der)
		x.EKChain = append(x.EKChain, der)
	}
	if !ok {
		return errors.New("not a TPM as this version of the program writes it")
	}
	x.EK = sha256.Sum256(x.EKSPKI)
	return nil
}
