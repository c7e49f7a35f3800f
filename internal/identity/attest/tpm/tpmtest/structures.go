package tpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"maps"
	"slices"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// Area is what a TPMT_PUBLIC says besides the key itself. The zero Scheme, KDF and
// Symmetric are written as TPM_ALG_NULL.
type Area struct {
	Type       wire.Alg
	NameAlg    wire.Alg
	Attributes wire.Attributes
	AuthPolicy []byte
	Symmetric  wire.Symmetric
	Scheme     wire.Scheme
	KDF        wire.Scheme
	Bits       int // RSA
	Exponent   uint32
	Curve      wire.Curve
	Tail       []byte // what must not follow
}

const bound = wire.FixedTPM | wire.FixedParent | wire.SensitiveDataOrigin | wire.UserWithAuth | wire.NoDA

// AKArea is the public area of an attestation key as birthmark-agent makes it.
func AKArea(k wire.KeyKind) Area {
	a := area(k)
	a.Attributes |= wire.Restricted
	return a
}

// SubjectArea is the public area of a key to be certified.
func SubjectArea(k wire.KeyKind) Area {
	a := area(k)
	a.Scheme = wire.Scheme{Alg: wire.AlgNull}
	return a
}

func area(k wire.KeyKind) Area {
	a := Area{NameAlg: wire.AlgSHA256, Attributes: bound | wire.Sign}
	switch k {
	case wire.RSA2048:
		a.Type, a.Bits, a.Scheme = wire.AlgRSA, 2048, wire.Scheme{Alg: wire.AlgRSASSA, Hash: wire.AlgSHA256}
	case wire.ECP384:
		a.Type, a.Curve, a.Scheme = wire.AlgECC, wire.P384, wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA384}
		a.NameAlg = wire.AlgSHA384
	default:
		a.Type, a.Curve, a.Scheme = wire.AlgECC, wire.P256, wire.Scheme{Alg: wire.AlgECDSA, Hash: wire.AlgSHA256}
	}
	return a
}

// Bytes returns the TPMT_PUBLIC of a key.
func (a Area) Bytes(key crypto.PublicKey) []byte {
	b := algs(nil, a.Type, a.NameAlg)
	b = binary.BigEndian.AppendUint32(b, uint32(a.Attributes))
	b = sized(b, a.AuthPolicy)
	if a.Symmetric.Alg == 0 || a.Symmetric.Alg == wire.AlgNull {
		b = algs(b, wire.AlgNull)
	} else {
		b = algs(b, a.Symmetric.Alg, wire.Alg(a.Symmetric.KeyBits), a.Symmetric.Mode)
	}
	b = scheme(b, a.Scheme)
	if key, ok := key.(*rsa.PublicKey); ok {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Bits))
		b = binary.BigEndian.AppendUint32(b, a.Exponent)
		b = sized(b, key.N.Bytes())
	}
	if key, ok := key.(*ecdsa.PublicKey); ok {
		point, err := key.Bytes()
		if err != nil {
			panic(err)
		}
		size := len(point) / 2
		b = algs(b, wire.Alg(a.Curve))
		b = scheme(b, a.KDF)
		b = sized(b, point[1:1+size])
		b = sized(b, point[1+size:])
	}
	return append(b, a.Tail...)
}

func scheme(b []byte, s wire.Scheme) []byte {
	if s.Alg == 0 || s.Alg == wire.AlgNull {
		return algs(b, wire.AlgNull)
	}
	return algs(b, s.Alg, s.Hash)
}

func algs(b []byte, list ...wire.Alg) []byte {
	for _, a := range list {
		b = binary.BigEndian.AppendUint16(b, uint16(a))
	}
	return b
}

func sized(b, octets []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(octets))), octets...)
}

// Attest is a TPMS_ATTEST before it is signed.
type Attest struct {
	Magic           uint32
	Type            uint16
	QualifiedSigner []byte
	ExtraData       []byte
	Clock           wire.Clock
	Firmware        uint64

	Name, QualifiedName []byte // TypeCertify

	Selections []wire.Selection // TypeQuote
	Digest     []byte

	Tail []byte // what must not follow
}

// Bytes returns the TPMS_ATTEST.
func (a *Attest) Bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, a.Magic)
	b = binary.BigEndian.AppendUint16(b, a.Type)
	b = sized(b, a.QualifiedSigner)
	b = sized(b, a.ExtraData)
	b = binary.BigEndian.AppendUint64(b, a.Clock.Clock)
	b = binary.BigEndian.AppendUint32(b, a.Clock.ResetCount)
	b = binary.BigEndian.AppendUint32(b, a.Clock.RestartCount)
	safe := byte(0)
	if a.Clock.Safe {
		safe = 1
	}
	b = append(b, safe)
	b = binary.BigEndian.AppendUint64(b, a.Firmware)
	if a.Type == wire.TypeQuote {
		b = binary.BigEndian.AppendUint32(b, uint32(len(a.Selections)))
		for _, s := range a.Selections {
			b = selection(b, s)
		}
		b = sized(b, a.Digest)
	} else {
		b = sized(b, a.Name)
		b = sized(b, a.QualifiedName)
	}
	return append(b, a.Tail...)
}

func selection(b []byte, s wire.Selection) []byte {
	var bits [3]byte
	for _, pcr := range s.PCRs {
		bits[pcr/8] |= 1 << (pcr % 8)
	}
	b = algs(b, s.Bank)
	return append(append(b, byte(len(bits))), bits[:]...)
}

// Log is a crypto-agile event log (TCG PC Client Platform Firmware Profile,
// section 10).
type Log struct {
	Banks  []wire.Alg
	Events []Event
}

// Event is an entry of a Log.
type Event struct {
	PCR     int
	Type    uint32
	Digests map[wire.Alg][]byte
	Data    []byte
}

func newLog() *Log { return &Log{Banks: []wire.Alg{wire.AlgSHA256, wire.AlgSHA384}} }

// Bytes returns the log: the format event, then the others.
func (l *Log) Bytes() []byte {
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 105, 2)
	spec = binary.LittleEndian.AppendUint32(spec, uint32(len(l.Banks)))
	for _, bank := range l.Banks {
		spec = binary.LittleEndian.AppendUint16(spec, uint16(bank))
		spec = binary.LittleEndian.AppendUint16(spec, uint16(bank.Hash().Size()))
	}
	spec = append(spec, 0) // no vendor information
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, 3) // EV_NO_ACTION
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(spec)))
	b = append(b, spec...)
	for _, e := range l.Events {
		b = binary.LittleEndian.AppendUint32(b, uint32(e.PCR))
		b = binary.LittleEndian.AppendUint32(b, e.Type)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Digests)))
		for _, bank := range slices.Sorted(maps.Keys(e.Digests)) {
			b = binary.LittleEndian.AppendUint16(b, uint16(bank))
			b = append(b, e.Digests[bank]...)
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
	}
	return b
}
