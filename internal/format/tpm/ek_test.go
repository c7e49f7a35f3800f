package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// TestEKPoliciesFollowFromTheirCommands computes the policies step by step, as a
// TPM's session does (TPM 2.0 Library, Part 3, section 23).
func TestEKPoliciesFollowFromTheirCommands(t *testing.T) {
	indexes := map[tpm.Alg]uint32{tpm.AlgSHA256: 0x01C07F01, tpm.AlgSHA384: 0x01C07F02, tpm.AlgSHA512: 0x01C07F03}
	for _, template := range tpm.EKTemplates() {
		alg := template.NameAlg
		a := policySecretEndorsement(alg)
		want := a
		if !template.Low() {
			c := policyAuthorizeNV(alg, indexes[alg], a)
			want = sum(alg, zeros(alg), u32(0x171), a, c) // TPM_CC_PolicyOR
		}
		if !bytes.Equal(template.AuthPolicy, want) {
			t.Errorf("%s: %x, want %x", template.Name, template.AuthPolicy, want)
		}
	}
}

func policySecretEndorsement(alg tpm.Alg) []byte {
	p := sum(alg, zeros(alg), u32(0x151), u32(0x4000000B)) // TPM_CC_PolicySecret, TPM_RH_ENDORSEMENT
	return sum(alg, p)                                     // and an empty policyRef
}

// policyAuthorizeNV: the index holds a policy (TPMT_HA) that its owner may change
// (EK Credential Profile, annex B.5).
func policyAuthorizeNV(alg tpm.Alg, index uint32, policyA []byte) []byte {
	const attributes = 0x220F1008 // POLICYWRITE, WRITEALL, PPREAD, OWNERREAD, AUTHREAD, POLICYREAD, NO_DA, WRITTEN
	public := u32(index)
	public = binary.BigEndian.AppendUint16(public, uint16(alg))
	public = append(public, u32(attributes)...)
	public = binary.BigEndian.AppendUint16(public, uint16(len(policyA)))
	public = append(public, policyA...)
	public = binary.BigEndian.AppendUint16(public, uint16(2+alg.Hash().Size()))
	name := append(binary.BigEndian.AppendUint16(nil, uint16(alg)), sum(alg, public)...)
	return sum(alg, zeros(alg), u32(0x192), name) // TPM_CC_PolicyAuthorizeNV
}

func sum(alg tpm.Alg, parts ...[]byte) []byte {
	h := alg.Hash().New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func zeros(alg tpm.Alg) []byte { return make([]byte, alg.Hash().Size()) }

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func TestEKTemplates(t *testing.T) {
	for _, want := range []struct {
		name                  string
		certificate, template uint32
		nameAlg               tpm.Alg
		bits                  int
		aes                   uint16
	}{
		{"L-1", 0x01C00002, 0x01C00004, tpm.AlgSHA256, 2048, 128},
		{"L-2", 0x01C0000A, 0x01C0000C, tpm.AlgSHA256, 256, 128},
		{"H-1", 0x01C00012, 0x01C00013, tpm.AlgSHA256, 2048, 128},
		{"H-2", 0x01C00014, 0x01C00015, tpm.AlgSHA256, 256, 128},
		{"H-3", 0x01C00016, 0x01C00017, tpm.AlgSHA384, 384, 256},
		{"H-4", 0x01C00018, 0x01C00019, tpm.AlgSHA512, 521, 256},
		{"H-6", 0x01C0001C, 0x01C0001D, tpm.AlgSHA384, 3072, 256},
		{"H-7", 0x01C0001E, 0x01C0001F, tpm.AlgSHA384, 4096, 256},
	} {
		got := templateNamed(t, want.name)
		if got.Certificate != want.certificate || got.Own != want.template || got.NameAlg != want.nameAlg || got.Bits != want.bits ||
			got.Symmetric != (tpm.Symmetric{Alg: tpm.AlgAES, KeyBits: want.aes, Mode: tpm.AlgCFB}) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func templateNamed(t testing.TB, name string) tpm.Template {
	t.Helper()
	for _, template := range tpm.EKTemplates() {
		if template.Name == name {
			return template
		}
	}
	t.Fatalf("no template %s", name)
	return tpm.Template{}
}

func TestLowRangeIsWhatGoTPMHas(t *testing.T) {
	if got, want := templateNamed(t, "L-1").Public(nil), tpm2.Marshal(tpm2.RSAEKTemplate); !bytes.Equal(got, want) {
		t.Errorf("L-1: %x, want %x", got, want)
	}
	if got, want := templateNamed(t, "L-2").Public(nil), tpm2.Marshal(tpm2.ECCEKTemplate); !bytes.Equal(got, want) {
		t.Errorf("L-2: %x, want %x", got, want)
	}
}

func TestEKPublicRefusesKeysThatDoNotFit(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 2047), big.NewInt(1)), E: 65537}
	odd := &rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 2048), big.NewInt(1)), E: 3}
	for _, template := range tpm.EKTemplates() {
		for name, key := range map[string]any{"another curve": &p256.PublicKey, "2047 bits": small, "exponent 3": odd, "no key": nil, "a private key": p256} {
			if _, err := tpm.EKPublic(template, key); !fault.Has(err, fault.EKTemplate) && (name != "another curve" || template.Bits != 256) {
				t.Errorf("%s: %s: %v", template.Name, name, err)
			}
		}
	}
}

// TestCoordinatesKeepTheirLength: TPMs pad coordinates, so must we; those of old
// TPMs that do not are read to the same key, with a name of their own.
func TestCoordinatesKeepTheirLength(t *testing.T) {
	for range 5000 { // one key in 256 has an x that starts with zeros
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if point[1] != 0 {
			continue
		}
		built, err := tpm.EKPublic(templateNamed(t, "L-2"), &key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		x, y := tpm.Sized(point[1:33]), tpm.Sized(point[33:])
		head, ok := bytes.CutSuffix(built, append(bytes.Clone(x), y...))
		if !ok {
			t.Fatalf("%x does not end with the padded coordinates", built)
		}
		padded := parsePublic(t, built)
		short := parsePublic(t, append(append(bytes.Clone(head), tpm.Sized(point[2:33])...), y...))
		if !key.PublicKey.Equal(padded.Key) || !key.PublicKey.Equal(short.Key) || bytes.Equal(padded.Name(), short.Name()) {
			t.Error("read as other keys, or with one name")
		}
		return
	}
	t.Fatal("no coordinate with a leading zero")
}
