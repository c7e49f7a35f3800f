package request

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

const (
	oidECPublicKey   = "\x2a\x86\x48\xce\x3d\x02\x01"
	oidRSAEncryption = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	oidCurveP256     = "\x2a\x86\x48\xce\x3d\x03\x01\x07"
	oidCurveP384     = "\x2b\x81\x04\x00\x22"
)

// PublicKey judges a DER SubjectPublicKeyInfo: the encoding, the algorithm, the
// size and whether the key is of a kind known to be weak. It is the key part of
// the gate for keys that come without a request.
func PublicKey(spki []byte) (crypto.PublicKey, profile.KeyType, error) {
	if len(spki) > MaxSize {
		return nil, "", fault.New(fault.RequestTooLarge, "more than", MaxSize, "octets of DER")
	}
	pub, kind, err := parseKey(spki)
	if err != nil {
		return nil, "", err
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.ProbablyPrime(0) {
			return nil, "", fault.New(fault.KeyWeak, "the RSA modulus is prime")
		}
	case ed25519.PublicKey:
		if !onEdwards25519(k) {
			return nil, "", fault.New(fault.KeyMalformed, "the point is not on the curve")
		}
	}
	return pub, kind, nil
}

// parseKey does what PublicKey does, apart from the two questions that a
// verified signature answers or pays for.
func parseKey(spki cryptobyte.String) (crypto.PublicKey, profile.KeyType, error) {
	var info, algorithm, oid cryptobyte.String
	var bits []byte
	if !spki.ReadASN1(&info, asn1.SEQUENCE) || !spki.Empty() ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!algorithm.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
		!info.ReadASN1BitStringAsBytes(&bits) || !info.Empty() {
		return nil, "", fault.New(fault.KeyMalformed)
	}
	switch string(oid) {
	case oidECPublicKey:
		return parseEC(algorithm, bits)
	case oidEd25519:
		return parseEd25519(algorithm, bits)
	case oidRSAEncryption:
		if string(algorithm) != derNull {
			return nil, "", fault.New(fault.KeyMalformed, "the parameters of an RSA key are NULL")
		}
		return parseRSA(bits)
	}
	return nil, "", fault.New(fault.KeyAlgorithm)
}

// parseEC reads a key on a named curve as an uncompressed point (RFC 5480).
// Explicit parameters let the requester choose the generator (CVE-2020-0601).
func parseEC(params cryptobyte.String, point []byte) (crypto.PublicKey, profile.KeyType, error) {
	var oid cryptobyte.String
	if !params.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !params.Empty() {
		return nil, "", fault.New(fault.KeyMalformed, "name the curve")
	}
	var curve elliptic.Curve
	var kind profile.KeyType
	switch string(oid) {
	case oidCurveP256:
		curve, kind = elliptic.P256(), profile.P256
	case oidCurveP384:
		curve, kind = elliptic.P384(), profile.P384
	default:
		return nil, "", fault.New(fault.KeyAlgorithm, "elliptic curve")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, "", fault.Wrap(fault.KeyMalformed, err, "send an uncompressed point on the curve")
	}
	// The points of private keys 1 and -1 are known to everyone: they have the
	// generator's x coordinate.
	var room [48]byte
	size := (len(point) - 1) / 2
	if bytes.Equal(point[1:1+size], curve.Params().Gx.FillBytes(room[:size])) {
		return nil, "", fault.New(fault.KeyWeak, "the private key is 1")
	}
	return pub, kind, nil
}

// parseEd25519 reads a key of RFC 8410.
func parseEd25519(params cryptobyte.String, point []byte) (crypto.PublicKey, profile.KeyType, error) {
	if !params.Empty() {
		return nil, "", fault.New(fault.KeyMalformed, "an Ed25519 key has no parameters")
	}
	if len(point) != ed25519.PublicKeySize {
		return nil, "", fault.New(fault.KeyMalformed, "an Ed25519 key has 32 octets")
	}
	y := [32]byte(point)
	y[31] &= 0x7f // the sign of x
	if slices.Contains(knownEd25519[:], y) {
		return nil, "", fault.New(fault.KeyWeak, "the point is of small order or the generator")
	}
	slices.Reverse(y[:])
	if bytes.Compare(y[:], p25519[:]) >= 0 {
		return nil, "", fault.New(fault.KeyMalformed, "the coordinate is not reduced")
	}
	return ed25519.PublicKey(point), profile.Ed25519, nil
}

// knownEd25519 lists the y coordinates, little-endian, of the points for which
// anyone can make signatures: the eight of small order, with the encodings of 0
// and 1 that are not reduced, and the generator.
var knownEd25519 = [...][32]byte{
	{}, // 0, order 4
	{1},
	littleEndian(p25519, 0),
	littleEndian(p25519, 1),  // p+1 = 1
	littleEndian(p25519, -1), // order 2
	{ // order 8
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{ // order 8
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
	{ // the generator, 4/5
		0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
		0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	},
}

// p25519 is 2^255 - 19, big-endian.
var p25519 = [32]byte{
	0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xed,
}

// littleEndian returns n + delta in little-endian order, for a delta that
// changes the last octet only.
func littleEndian(n [32]byte, delta int) [32]byte {
	slices.Reverse(n[:])
	n[0] = byte(int(n[0]) + delta)
	return n
}

// onEdwards25519 reports whether a point with this y coordinate exists, that
// is, whether (y^2-1)/(d*y^2+1) is a square (RFC 8032, section 5.1.3).
func onEdwards25519(key ed25519.PublicKey) bool {
	b := [32]byte(key)
	b[31] &= 0x7f
	slices.Reverse(b[:])
	p := new(big.Int).SetBytes(p25519[:])
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	y2 := new(big.Int).SetBytes(b[:])
	y2.Mul(y2, y2).Mod(y2, p)
	v := new(big.Int).Mul(d, y2)
	v.Add(v, one)
	u := y2.Sub(y2, one)
	return big.Jacobi(u.Mul(u, v).Mod(u, p), p) >= 0
}
