package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

func signer(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// asX509 signs as X.509 has it, asTPM as a TPM returns it.
func asX509(key crypto.Signer) func([]byte) ([]byte, error) {
	return func(content []byte) ([]byte, error) {
		digest := sha256.Sum256(content)
		return key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
}

func asTPM(key *ecdsa.PrivateKey) func([]byte) ([]byte, error) {
	return func(content []byte) ([]byte, error) {
		digest := sha256.Sum256(content)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			return nil, err
		}
		b := append([]byte{0x00, 0x18, 0x00, 0x0B}, tpm.Sized(r.Bytes())...)
		return append(b, tpm.Sized(s.Bytes())...), nil
	}
}

func requestIDevID(t testing.TB) *tpm.CSRIDevID {
	return &tpm.CSRIDevID{
		HashAlg: tpm.AlgSHA256, Model: []byte("GW-100"), DeviceSerial: []byte("SN0001"),
		EKCertificate: recorded(t, "ek-L-1.crt"), AttestPublic: recordedPublic(t, "ak-ecdsa"), SigningPublic: recordedPublic(t, "subject-ecdsa"),
		SigningCertify: recorded(t, "certify-ecdsa.attest"), SigningCertifySign: recorded(t, "certify-ecdsa.sig"),
	}
}

func TestCSRIDevIDRoundTrip(t *testing.T) {
	key, other := signer(t), signer(t)
	for name, sign := range map[string]func([]byte) ([]byte, error){"X.509": asX509(key), "TPM": asTPM(key)} {
		want := requestIDevID(t)
		b, err := want.Build(sign)
		if err != nil {
			t.Fatal(err)
		}
		if len(want.Content)%16 != 0 {
			t.Errorf("content of %d octets", len(want.Content))
		}
		got, err := tpm.ParseCSRIDevID(b)
		if err != nil {
			t.Fatal(err)
		}
		want.CAData, want.BootEventLog, want.AttestTicket, want.AttestCertify, want.AttestSignature = []byte{}, []byte{}, []byte{}, []byte{}, []byte{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if !got.Verifies(&key.PublicKey) || got.Verifies(&other.PublicKey) || got.Verifies(nil) {
			t.Errorf("%s: the signature is not judged right", name)
		}
		changed := bytes.Clone(b)
		i := bytes.Index(changed, []byte("SN0001"))
		changed[i] = 'X' // the hash is wrong now, so sizes no longer add up
		if _, err := tpm.ParseCSRIDevID(changed); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: changed content: %v", name, err)
		}
	}
}

func TestCSRIDevIDOfWritersThatLeaveTheHashOut(t *testing.T) {
	key := signer(t)
	b, err := requestIDevID(t).Build(asX509(key))
	if err != nil {
		t.Fatal(err)
	}
	content := append(bytes.Clone(b[12:24]), b[24+32:12+binary.BigEndian.Uint32(b[4:])]...)
	signature, err := asX509(key)(content)
	if err != nil {
		t.Fatal(err)
	}
	b = append(append(head(len(content), len(signature)), content...), signature...)
	got, err := tpm.ParseCSRIDevID(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.DeviceSerial) != "SN0001" || !got.Verifies(&key.PublicKey) {
		t.Errorf("%+v", got)
	}
	b[bytes.Index(b, []byte("SN0001"))] = 'X'
	if got, err := tpm.ParseCSRIDevID(b); err != nil || got.Verifies(&key.PublicKey) {
		t.Errorf("changed content: %v", err)
	}
}

func head(content, signature int) []byte {
	b := []byte{0, 0, 1, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(content))
	return binary.BigEndian.AppendUint32(b, uint32(signature))
}

func TestCSRLDevIDRoundTrip(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	want := &tpm.CSRLDevID{
		HashAlg: tpm.AlgSHA256, EKCertificate: recorded(t, "ek-L-1.crt"), IAKCertificate: []byte("a certificate"), PlatformCertificate: recorded(t, "platform.crt"),
		Public: recordedPublic(t, "subject-rsa"), Certify: recorded(t, "certify-rsassa.attest"), CertifySignature: recorded(t, "certify-rsassa.sig"),
	}
	b, err := want.Build(asX509(key))
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpm.ParseCSRLDevID(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !got.Verifies(&key.PublicKey) {
		t.Error("the signature does not verify")
	}
	if _, err := tpm.ParseCSRIDevID(b); !fault.Has(err, fault.AttestMalformed) {
		t.Errorf("read as the other kind: %v", err)
	}
}

// TestCSRSizesAddUp changes each size of a request: only the whole adds up.
func TestCSRSizesAddUp(t *testing.T) {
	b, err := requestIDevID(t).Build(asX509(signer(t)))
	if err != nil {
		t.Fatal(err)
	}
	const sizes = 12 + 12 + 32 // after the outer head, the content's head and the hash
	for _, offset := range []int{0, 4, 8, 12, 16, 20, sizes, sizes + 4, sizes + 11*4, sizes + 12*4} {
		old := binary.BigEndian.Uint32(b[offset:])
		for _, v := range []uint32{0, old - 1, old + 1, old + 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, -old} {
			if v == old {
				continue
			}
			changed := bytes.Clone(b)
			binary.BigEndian.PutUint32(changed[offset:], v)
			if _, err := tpm.ParseCSRIDevID(changed); !fault.Has(err, fault.AttestMalformed) {
				t.Errorf("size at %d is %#x instead of %#x: %v", offset, v, old, err)
			}
		}
	}
	for n := range len(b) {
		if _, err := tpm.ParseCSRIDevID(b[:n]); !fault.Has(err, fault.AttestMalformed) {
			t.Fatalf("first %d of %d octets: %v", n, len(b), err)
		}
	}
	if _, err := tpm.ParseCSRIDevID(append(bytes.Clone(b), 0)); !fault.Has(err, fault.AttestMalformed) {
		t.Errorf("an octet more: %v", err)
	}
}

// TestCSRSizesAddUpWithoutHash: the same where no hash gives a change away.
func TestCSRSizesAddUpWithoutHash(t *testing.T) {
	write := func(edit func(sizes []uint32), more int) []byte {
		sizes := []uint32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
		edit(sizes)
		content := []byte{0, 0, 1, 0, 0, 0, 0, 0x0B, 0, 0, 0, 32}
		for _, s := range sizes {
			content = binary.BigEndian.AppendUint32(content, s)
		}
		content = append(content, make([]byte, len(sizes)+more)...)
		return append(append(head(len(content), 1), content...), 0)
	}
	if _, err := tpm.ParseCSRIDevID(write(func([]uint32) {}, 0)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"octets that no size counts": write(func([]uint32) {}, 1),
		"octets that are missing":    write(func([]uint32) {}, -1),
		"a field less":               write(func(s []uint32) { s[2] = 0 }, 0),
		"a field more":               write(func(s []uint32) { s[2] = 2 }, 0),
		"a field of four billion":    write(func(s []uint32) { s[2] = 0xFFFFFFFF }, 0),
		"two that add up to nothing": write(func(s []uint32) { s[2], s[3] = 0x80000001, 0x80000001 }, 0),
	} {
		if _, err := tpm.ParseCSRIDevID(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCSRPaddingIsShort: padding is no place for anything.
func TestCSRPaddingIsShort(t *testing.T) {
	for _, n := range []int{0, 15, 16, 1000} {
		content := []byte{0, 0, 1, 0, 0, 0, 0, 0x0B, 0, 0, 0, 32}
		for i := range 13 {
			size := 0
			switch i {
			case 5, 9, 10, 11: // the fields that must be there
				size = 1
			case 12:
				size = n
			}
			content = binary.BigEndian.AppendUint32(content, uint32(size))
		}
		content = append(content, make([]byte, 4+n)...)
		_, err := tpm.ParseCSRIDevID(append(append(head(len(content), 1), content...), 0))
		if (n < 16) != (err == nil) {
			t.Errorf("padding of %d: %v", n, err)
		}
	}
}

// TestCSRSumsDoNotWrap: two sizes whose sum wraps around 32 bits.
func TestCSRSumsDoNotWrap(t *testing.T) {
	content := append([]byte{0, 0, 1, 0, 0, 0, 0, 0x0B, 0, 0, 0, 32}, make([]byte, 13*4)...)
	binary.BigEndian.PutUint32(content[12:], 0x80000000)
	binary.BigEndian.PutUint32(content[16:], 0x80000000)
	b := append(append(head(len(content), 1), content...), 0)
	if _, err := tpm.ParseCSRIDevID(b); !fault.Has(err, fault.AttestMalformed) {
		t.Errorf("%v", err)
	}
	b = append(head(-1, 2), 0) // 0xFFFFFFFF + 2 = 1
	if _, err := tpm.ParseCSRIDevID(b); !fault.Has(err, fault.AttestMalformed) {
		t.Errorf("%v", err)
	}
}

func TestCSRRefusesWeakHashesAndHoles(t *testing.T) {
	for name, spoil := range map[string]func(*tpm.CSRIDevID){
		"no attestation key": func(c *tpm.CSRIDevID) { c.AttestPublic = nil },
		"no signing key":     func(c *tpm.CSRIDevID) { c.SigningPublic = nil },
		"not certified":      func(c *tpm.CSRIDevID) { c.SigningCertify = nil },
		"not signed":         func(c *tpm.CSRIDevID) { c.SigningCertifySign = nil },
	} {
		c := requestIDevID(t)
		spoil(c)
		b, err := c.Build(asX509(signer(t)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tpm.ParseCSRIDevID(b); !fault.Has(err, fault.AttestMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := requestIDevID(t)
	c.HashAlg = tpm.AlgAES
	if _, err := c.Build(asX509(signer(t))); err == nil {
		t.Error("built with AES for a hash")
	}
	key := signer(t)
	c.HashAlg = tpm.AlgSHA1
	withSHA1 := func(content []byte) ([]byte, error) {
		digest := sha1.Sum(content)
		return key.Sign(rand.Reader, digest[:], crypto.SHA1)
	}
	if _, err := c.Build(withSHA1); err != nil || c.Verifies(&key.PublicKey) {
		t.Errorf("SHA-1: %v", err)
	}
	asTPMWithSHA1 := func(content []byte) ([]byte, error) {
		digest := sha1.Sum(content)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		return append(append([]byte{0x00, 0x18, 0x00, 0x04}, tpm.Sized(r.Bytes())...), tpm.Sized(s.Bytes())...), err
	}
	if _, err := c.Build(asTPMWithSHA1); err != nil || c.Verifies(&key.PublicKey) {
		t.Errorf("SHA-1, as a TPM: %v", err)
	}
	c = requestIDevID(t)
	c.BootEventLog = make([]byte, tpm.MaxCSR)
	if _, err := c.Build(asX509(key)); err == nil {
		t.Error("built longer than may be read")
	}
}

func TestCSRLawOfFields(t *testing.T) {
	key := signer(t)
	rapid.Check(t, func(rt *rapid.T) {
		octets := func(name string, least int) []byte {
			return rapid.SliceOfN(rapid.Byte(), least, 40).Draw(rt, name)
		}
		want := &tpm.CSRIDevID{
			HashAlg: rapid.SampledFrom([]tpm.Alg{tpm.AlgSHA256, tpm.AlgSHA384, tpm.AlgSHA512}).Draw(rt, "hash"),
			Model:   octets("model", 0), DeviceSerial: octets("serial", 0), CAData: octets("data", 0), BootEventLog: octets("log", 0),
			EKCertificate: octets("EK", 0), AttestPublic: octets("IAK", 1), AttestTicket: octets("ticket", 0), AttestCertify: octets("certify", 0),
			AttestSignature: octets("signature", 0), SigningPublic: octets("key", 1), SigningCertify: octets("key certify", 1),
			SigningCertifySign: octets("key signature", 1),
		}
		b, err := want.Build(asX509(key))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := tpm.ParseCSRIDevID(b)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatal(diff)
		}
	})
}

// FuzzCSR: what is read has parts that add up to the input.
func FuzzCSR(f *testing.F) {
	key := signer(f)
	idevid := &tpm.CSRIDevID{
		HashAlg: tpm.AlgSHA256, Model: []byte("m"), AttestPublic: []byte("k"), SigningPublic: []byte("p"), SigningCertify: []byte("a"), SigningCertifySign: []byte("s"),
	}
	b, err := idevid.Build(asTPM(key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	ldevid := &tpm.CSRLDevID{HashAlg: tpm.AlgSHA256, IAKCertificate: []byte("c"), Public: []byte("p"), Certify: []byte("a"), CertifySignature: []byte("s")}
	if b, err = ldevid.Build(asX509(key)); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := tpm.ParseCSRIDevID(b)
		if err != nil && !fault.Has(err, fault.AttestMalformed) {
			t.Fatal(err)
		}
		if err == nil {
			if 12+len(i.Content)+len(i.Signature) != len(b) {
				t.Fatalf("%d and %d of %d octets", len(i.Content), len(i.Signature), len(b))
			}
			i.Verifies(&key.PublicKey)
		}
		if l, err := tpm.ParseCSRLDevID(b); err == nil {
			l.Verifies(&key.PublicKey)
		} else if !fault.Has(err, fault.AttestMalformed) {
			t.Fatal(err)
		}
	})
}
