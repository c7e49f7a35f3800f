package issuing

import (
	"bytes"
	"crypto"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// flippingKey flips one bit of each signature, as a failing machine would.
type flippingKey struct {
	softKey
	random *rand.Rand
}

func (k *flippingKey) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := k.softKey.SignMessage(random, message, opts)
	if err == nil {
		bit := k.random.IntN(8 * len(sig))
		sig[bit/8] ^= 1 << (bit % 8)
	}
	return sig, err
}

// tamperingKey changes what it was given to sign, and signs that.
type tamperingKey struct {
	softKey
	bit int
}

func (k *tamperingKey) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	message[k.bit/8] ^= 1 << (k.bit % 8)
	return k.softKey.SignMessage(random, message, opts)
}

// TestFlippedSignaturesAreNotReleased is C04: 10,000 faults, none gets out.
func TestFlippedSignaturesAreNotReleased(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 500
	}
	for _, at := range []profile.KeyType{profile.P256, profile.Ed25519, profile.RSA3072} {
		for _, checked := range []bool{false, true} {
			iss := testIssuer(t, at)
			key := testKey(t, at)
			rounds := n / 20
			if at == profile.P256 {
				rounds = n / 2
			}
			switch {
			case checked && at == profile.P256:
				_, iss.Check = fileKey(t, key)
			case checked:
				continue
			case at == profile.RSA3072:
				rounds = n / 100
			}
			iss.Key = &flippingKey{key, rand.New(rand.NewPCG(1, 2))}
			c := compiled(t, preset(t, "idevid"), iss)
			in := input(t, c, sampleKey(t, profile.P256))
			released := 0
			for range rounds {
				der, err := c.Issue(in)
				if err == nil {
					released++
				} else if der != nil || !fault.Has(err, fault.SignatureFault) {
					t.Fatalf("%s: %v with %d octets", at, err, len(der))
				}
			}
			if released > 0 {
				t.Errorf("%s: %d of %d faulty signatures were released", at, released, rounds)
			}
		}
	}
}

// TestEveryBitIsCompared flips each bit of the to-be-signed certificate after
// the intent is known and signs the result: the signature is right, the
// certificate is not.
func TestEveryBitIsCompared(t *testing.T) {
	iss := testIssuer(t, profile.Ed25519)
	for _, p := range []*profile.Profile{preset(t, "idevid"), preset(t, "ldevid-service-port"), parse(t, everything)} {
		c := compiled(t, p, iss)
		in := input(t, c, sampleKey(t, profile.P256))
		l, err := c.layoutFor(in.SPKI)
		if err != nil {
			t.Fatal(err)
		}
		der := issue(t, c, in)
		tbs, _, _, _, err := open(der)
		if err != nil {
			t.Fatal(err)
		}
		offset := bytes.Index(der, tbs)
		for bit := range 8 * len(tbs) {
			bad := bytes.Clone(der)
			bad[offset+bit/8] ^= 1 << (bit % 8)
			if err := c.compare(bad, l, &in); err == nil {
				t.Errorf("%s: flip of bit %d of octet %d (%x) is not seen", p.Name, bit%8, bit/8, tbs[bit/8])
			}
		}
		for cut := range len(der) {
			if c.compare(der[:cut], l, &in) == nil {
				t.Errorf("%s: the first %d octets pass", p.Name, cut)
			}
		}
		if c.compare(append(bytes.Clone(der), 0), l, &in) == nil {
			t.Errorf("%s: an octet behind the end passes", p.Name)
		}
	}
}

func TestTamperingSignerIsCaught(t *testing.T) {
	iss := testIssuer(t, profile.Ed25519)
	c := compiled(t, preset(t, "idevid"), iss)
	in := input(t, c, sampleKey(t, profile.P256))
	l, err := c.layoutFor(in.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := c.tbs(l, &in)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(tbs) {
		c.authority.key = &tamperingKey{testKey(t, profile.Ed25519), bit}
		if _, err := c.Issue(in); err == nil {
			t.Errorf("a signer changed octet %d unseen", bit/8)
		}
	}
}

var errBroken = errors.New("broken")

type brokenKey struct{ softKey }

func (brokenKey) SignMessage(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errBroken
}

type longKey struct{ softKey }

func (longKey) SignMessage(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 70_000), nil
}

type emptyKey struct{ softKey }

func (emptyKey) SignMessage(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil }

func TestSignerThatFails(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	key := testKey(t, profile.P256)
	tests := []struct {
		key  Signer
		code fault.Code
	}{
		{brokenKey{key}, fault.KeyUnavailable},
		{longKey{key}, fault.SignatureFault},
		{emptyKey{key}, fault.SignatureFault},
	}
	for _, tt := range tests {
		iss.Key = tt.key
		c := compiled(t, preset(t, "idevid"), iss)
		if _, err := c.Issue(input(t, c, sampleKey(t, profile.P256))); !fault.Has(err, tt.code) {
			t.Errorf("%T: %v", tt.key, err)
		}
		if _, err := SignCRL(iss, CRL{ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)}, nil); !fault.Has(err, tt.code) {
			t.Errorf("%T: CRL: %v", tt.key, err)
		}
	}
}

func TestCertificateSerials(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, preset(t, "ldevid-cloud"), iss)
	full := bytes.Repeat([]byte{0xff}, 19)
	tests := []struct {
		name   string
		serial []byte
		ok     bool
	}{
		{"one", []byte{1}, true},
		{"largest of one octet", []byte{0x7f}, true},
		{"high bit behind a zero", []byte{0x00, 0x80}, true},
		{"largest", append([]byte{0x7f}, full...), true},
		{"19 octets behind a zero", append([]byte{0x00}, full...), true},
		{"none", nil, false},
		{"zero", []byte{0}, false},
		{"negative", []byte{0x80}, false},
		{"negative, long", append([]byte{0xff}, full...), false},
		{"zero too many", []byte{0x00, 0x7f}, false},
		{"two zeros", []byte{0x00, 0x00, 0x80}, false},
		{"21 octets", append([]byte{0x00, 0xff}, full...), false},
	}
	for _, tt := range tests {
		in := input(t, c, sampleKey(t, profile.P256))
		in.CertSerial = tt.serial
		der, err := c.Issue(in)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if tt.ok {
			if got := parseCertificate(t, der).SerialNumber; got.Cmp(new(big.Int).SetBytes(tt.serial)) != 0 {
				t.Errorf("%s: certificate says %x", tt.name, got)
			}
		}
	}
}

func TestShard(t *testing.T) {
	if Shard([]byte{1, 2, 3}, 1) != 0 || Shard([]byte{1, 2, 3}, 0) != 0 {
		t.Error("one shard is shard 0")
	}
	if Shard([]byte{0, 0x80, 1}, 256) != Shard([]byte{0x80, 1}, 256) {
		t.Error("a leading zero changes the shard")
	}
	// Certificates carry their shard for life: these must never change.
	for serial, want := range map[string]int{"\x01": 47, "\x40\x01\x02\x03": 38, "\x7f\xff\xff\xff": 147} {
		if got := Shard([]byte(serial), 256); got != want {
			t.Errorf("shard of %x is %d, want %d", serial, got, want)
		}
	}
	counts := make([]int, 16)
	for range 16_000 {
		counts[Shard(testSerial(), 16)]++
	}
	for i, n := range counts {
		if n < 700 || n > 1300 { // 1,000 expected, deviation 31
			t.Errorf("shard %d has %d of 16,000", i, n)
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	iss := testIssuer(t, profile.P256)
	c := compiled(t, preset(t, "atecc"), iss)
	offCurve := bytes.Clone(sampleKey(t, profile.P256))
	offCurve[len(offCurve)-1] ^= 1
	infinity := append(bytes.Clone(sampleKey(t, profile.P256)[:26]), make([]byte, 65)...)
	tests := []struct {
		name string
		spki []byte
		code fault.Code
	}{
		{"type outside the profile", sampleKey(t, profile.P384), fault.KeyNotAllowed},
		{"RSA outside the profile", sampleKey(t, profile.RSA2048), fault.KeyNotAllowed},
		{"point not on the curve", offCurve, fault.KeyAlgorithm},
		{"infinity", infinity, fault.KeyAlgorithm},
		{"nothing", nil, fault.KeyAlgorithm},
		{"octet behind the end", append(bytes.Clone(sampleKey(t, profile.P256)), 0), fault.KeyAlgorithm},
		{"cut short", sampleKey(t, profile.P256)[:90], fault.KeyAlgorithm},
	}
	for _, tt := range tests {
		in := input(t, c, tt.spki)
		if _, err := c.Issue(in); !fault.Has(err, tt.code) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
