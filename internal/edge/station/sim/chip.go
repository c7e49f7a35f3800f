package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Vendor is the maker of all simulated chips, ChipType their type, as a manifest
// names them.
const (
	Vendor   = "simulated"
	ChipType = "SIM-100"
)

// Chip is a simulated chip.
type Chip struct {
	UID  string
	SPKI []byte
	Key  *ecdsa.PrivateKey // P-256

	seed string
}

// NewChip returns the chip with this number of the reel that follows from seed.
func NewChip(seed string, number int) (*Chip, error) {
	key, err := derive(seed, "key", number)
	if err != nil {
		return nil, err
	}
	spki, err := spkiOf(key)
	if err != nil {
		return nil, err
	}
	uid := octets(seed, "uid", number, 0)
	return &Chip{UID: "51" + hex.EncodeToString(uid[:8]), SPKI: spki, Key: key, seed: seed}, nil
}

// octets is the source of everything that follows from a seed.
func octets(seed, what string, number, try int) [32]byte {
	h := hmac.New(sha256.New, []byte("birthmark simulated chips "+seed))
	h.Write([]byte(what))
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(number))
	binary.BigEndian.PutUint64(b[8:], uint64(try))
	h.Write(b[:])
	return [32]byte(h.Sum(nil))
}

// DeviceKey returns the key that the simulated device with this number makes for
// itself under the model "on-device".
func DeviceKey(seed string, number int) (*ecdsa.PrivateKey, error) {
	return derive(seed, "device", number)
}

// derive returns a key: the first candidate that is a scalar of the curve, which
// it is but once in 2^32.
func derive(seed, what string, number int) (*ecdsa.PrivateKey, error) {
	for try := range 8 {
		scalar := octets(seed, what, number, try)
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:]); err == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("no key follows from seed %q for chip %d", seed, number)
}

// Maker returns the certificate of the simulated chips' maker, DER, the root of
// every chip's own. It is the same each time.
func Maker(seed string) ([]byte, error) {
	key, err := derive(seed, "maker", 0)
	if err != nil {
		return nil, err
	}
	own := makerFields()
	return x509.CreateCertificate(nil, own, own, &key.PublicKey, repeatable{key})
}

func makerFields() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Simulated Chips Root"},
		NotBefore: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2074, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// MakerCertificate returns the certificate that the maker put into the chip, DER.
// It is the same each time.
func (c *Chip) MakerCertificate() ([]byte, error) {
	key, err := derive(c.seed, "maker", 0)
	if err != nil {
		return nil, err
	}
	number := sha256.Sum256(c.SPKI)
	number[0] = number[0]&0x3f | 0x40
	maker := makerFields()
	return x509.CreateCertificate(nil, &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(number[:16]), Subject: pkix.Name{CommonName: "sim" + c.UID},
		NotBefore: maker.NotBefore, NotAfter: maker.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}, maker, &c.Key.PublicKey, repeatable{key})
}

// request writes a PKCS #10 request with an empty subject (RFC 2986, section 4).
// The standard library's spends longer on reflection than on the signature.
func request(key *ecdsa.PrivateKey, random io.Reader) ([]byte, error) {
	spki, err := spkiOf(key)
	if err != nil {
		return nil, err
	}
	var info cryptobyte.Builder
	info.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(asn1.SEQUENCE, func(*cryptobyte.Builder) {})
		b.AddBytes(spki)
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(*cryptobyte.Builder) {})
	})
	tbs, err := info.Bytes()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(tbs)
	signature, err := sign(key, digest, random)
	if err != nil {
		return nil, err
	}
	var csr cryptobyte.Builder
	csr.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(ecdsaWithSHA256) })
		b.AddASN1BitString(signature)
	})
	return csr.Bytes()
}

// ecdsaWithSHA256 is the identifier 1.2.840.10045.4.3.2 (RFC 5758, section 3.2).
var ecdsaWithSHA256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
