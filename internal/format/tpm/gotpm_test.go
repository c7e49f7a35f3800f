package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"pgregory.net/rapid"

	"github.com/birthmark/birthmark/internal/format/tpm"
)

// go-tpm is the second reader and writer of the same structures: what it writes we
// read to the same values, and what we read it writes again to the same octets.

func TestWhatGoTPMWritesIsReadTheSame(t *testing.T) {
	keys := makeKeys(t)
	rapid.Check(t, func(rt *rapid.T) {
		public := drawPublic(rt, keys)
		octets := tpm2.Marshal(public)
		p, err := tpm.ParsePublic(octets)
		if err != nil {
			rt.Fatalf("%x: %v", octets, err)
		}
		comparePublic(rt, p, public)
	})
}

func TestAttestationsOfGoTPMAreReadTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		attest := drawAttest(rt)
		octets := tpm2.Marshal(attest)
		a, err := tpm.ParseAttest(octets)
		if err != nil {
			rt.Fatalf("%x: %v", octets, err)
		}
		if a.Magic != uint32(attest.Magic) || a.Type != uint16(attest.Type) || a.FirmwareVersion != attest.FirmwareVersion ||
			!bytes.Equal(a.ExtraData, attest.ExtraData.Buffer) || !bytes.Equal(a.QualifiedSigner, attest.QualifiedSigner.Buffer) {
			rt.Fatalf("%+v is not %+v", a, attest)
		}
		c := attest.ClockInfo
		if a.Clock != (tpm.Clock{Clock: c.Clock, ResetCount: c.ResetCount, RestartCount: c.RestartCount, Safe: bool(c.Safe)}) {
			rt.Fatalf("clock %+v is not %+v", a.Clock, c)
		}
	})
}

func TestWhatWeReadGoTPMWritesTheSame(t *testing.T) {
	var seeds [][]byte
	for _, k := range kinds {
		seeds = append(seeds, recordedPublic(t, "ak-"+k.name), recorded(t, "certify-"+k.name+".attest"),
			recorded(t, "quote-"+k.name+".attest"), recorded(t, "certify-"+k.name+".sig"))
	}
	for _, template := range []string{"L-1", "L-2", "H-3", "H-4", "H-6"} {
		seeds = append(seeds, recordedPublic(t, "ek-"+template))
	}
	read := 0
	rapid.Check(t, func(rt *rapid.T) {
		b := bytes.Clone(rapid.SampledFrom(seeds).Draw(rt, "seed"))
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(rt, "at")] = rapid.Byte().Draw(rt, "octet")
		}
		read += againWithGoTPM(rt, b)
	})
	if read == 0 {
		t.Error("nothing was read at all")
	}
}

// fataler is what rapid, tests and fuzz targets have in common.
type fataler interface {
	Fatalf(format string, args ...any)
}

// againWithGoTPM reads b as each structure and has go-tpm write again what could
// be read; it returns how many could.
func againWithGoTPM(t fataler, b []byte) int {
	read := 0
	if _, err := tpm.ParsePublic(b); err == nil {
		read++
		same[tpm2.TPMTPublic](t, b)
	}
	// go-tpm refuses what has another magic, and does not know all types.
	if a, err := tpm.ParseAttest(b); err == nil && a.Magic == tpm.Magic && a.Other == nil {
		read++
		same[tpm2.TPMSAttest](t, b)
	}
	if _, err := tpm.ParseSignature(b); err == nil {
		read++
		same[tpm2.TPMTSignature](t, b)
	}
	return read
}

func same[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](t fataler, b []byte,
) {
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil {
		t.Fatalf("%T: we read what go-tpm does not: %v: %x", v, err, b)
	}
	if again := tpm2.Marshal(*v); !bytes.Equal(again, b) {
		t.Fatalf("%T: %x became %x", v, b, again)
	}
}

type keys struct {
	rsa map[int]*rsa.PrivateKey
	ec  map[tpm2.TPMECCCurve]*ecdsa.PrivateKey
}

func makeKeys(t *testing.T) keys {
	t.Helper()
	k := keys{rsa: map[int]*rsa.PrivateKey{}, ec: map[tpm2.TPMECCCurve]*ecdsa.PrivateKey{}}
	for _, bits := range []int{2048, 3072} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		k.rsa[bits] = key
	}
	for id, curve := range map[tpm2.TPMECCCurve]elliptic.Curve{
		tpm2.TPMECCNistP256: elliptic.P256(), tpm2.TPMECCNistP384: elliptic.P384(), tpm2.TPMECCNistP521: elliptic.P521(),
	} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k.ec[id] = key
	}
	return k
}

var hashes = []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}

func drawPublic(t *rapid.T, k keys) tpm2.TPMTPublic {
	nameAlg := rapid.SampledFrom(hashes).Draw(t, "nameAlg")
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	public := tpm2.TPMTPublic{
		NameAlg: nameAlg,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: flag("fixedTPM"), STClear: flag("stClear"), FixedParent: flag("fixedParent"),
			SensitiveDataOrigin: flag("sensitiveDataOrigin"), UserWithAuth: flag("userWithAuth"), AdminWithPolicy: flag("adminWithPolicy"),
			NoDA: flag("noDA"), EncryptedDuplication: flag("encryptedDuplication"), Restricted: flag("restricted"),
			Decrypt: flag("decrypt"), SignEncrypt: flag("sign"), X509Sign: flag("x509Sign"),
		},
	}
	if flag("policy") {
		hash, _ := nameAlg.Hash()
		public.AuthPolicy.Buffer = rapid.SliceOfN(rapid.Byte(), hash.Size(), hash.Size()).Draw(t, "policy octets")
	}
	symmetric := tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}
	if flag("storage") {
		symmetric = tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(rapid.SampledFrom([]uint16{128, 256}).Draw(t, "AES"))),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		}
	}
	if flag("RSA") {
		bits := rapid.SampledFrom([]int{2048, 3072}).Draw(t, "bits")
		public.Type = tpm2.TPMAlgRSA
		public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: symmetric, Scheme: drawRSAScheme(t), KeyBits: tpm2.TPMKeyBits(bits),
		})
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.rsa[bits].N.Bytes()})
		return public
	}
	curve := rapid.SampledFrom([]tpm2.TPMECCCurve{tpm2.TPMECCNistP256, tpm2.TPMECCNistP384, tpm2.TPMECCNistP521}).Draw(t, "curve")
	scheme := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}
	if flag("scheme") {
		hash := rapid.SampledFrom(hashes).Draw(t, "hash")
		scheme = tpm2.TPMTECCScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
		}
	}
	public.Type = tpm2.TPMAlgECC
	public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: symmetric, Scheme: scheme, CurveID: curve, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	})
	point, err := k.ec[curve].PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	size := len(point) / 2
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: bytes.TrimLeft(point[1:1+size], "\x00")}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+size:]},
	})
	return public
}

func drawRSAScheme(t *rapid.T) tpm2.TPMTRSAScheme {
	hash := rapid.SampledFrom(hashes).Draw(t, "hash")
	switch rapid.IntRange(0, 2).Draw(t, "scheme") {
	case 1:
		return tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash}),
		}
	case 2:
		return tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSAPSS,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash}),
		}
	}
	return tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgNull}
}

func comparePublic(t *rapid.T, p *tpm.Public, public tpm2.TPMTPublic) {
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Name(), name.Buffer) {
		t.Fatalf("name %x, go-tpm says %x", p.Name(), name.Buffer)
	}
	attributes := public.ObjectAttributes
	for _, a := range []struct {
		bit tpm.Attributes
		set bool
	}{
		{tpm.FixedTPM, attributes.FixedTPM},
		{tpm.STClear, attributes.STClear},
		{tpm.FixedParent, attributes.FixedParent},
		{tpm.SensitiveDataOrigin, attributes.SensitiveDataOrigin},
		{tpm.UserWithAuth, attributes.UserWithAuth},
		{tpm.AdminWithPolicy, attributes.AdminWithPolicy},
		{tpm.NoDA, attributes.NoDA},
		{tpm.EncryptedDuplication, attributes.EncryptedDuplication},
		{tpm.Restricted, attributes.Restricted},
		{tpm.Decrypt, attributes.Decrypt},
		{tpm.Sign, attributes.SignEncrypt},
		{tpm.X509Sign, attributes.X509Sign},
	} {
		if p.Attributes.Has(a.bit) != a.set {
			t.Fatalf("attribute %#x is %v, go-tpm says %v", uint32(a.bit), !a.set, a.set)
		}
	}
	switch key := p.Key.(type) {
	case *rsa.PublicKey:
		unique, err := public.Unique.RSA()
		if err != nil || key.N.Cmp(new(big.Int).SetBytes(unique.Buffer)) != 0 || key.E != 65537 || p.Bits != key.N.BitLen() {
			t.Fatalf("%d bits: %v", p.Bits, err)
		}
	case *ecdsa.PublicKey:
		unique, err := public.Unique.ECC()
		if err != nil || p.Bits != key.Params().BitSize {
			t.Fatalf("%d bits: %v", p.Bits, err)
		}
		point, err := key.Bytes()
		if err != nil || !bytes.Equal(bytes.TrimLeft(point[1:1+len(point)/2], "\x00"), unique.X.Buffer) {
			t.Fatalf("%x is not %x: %v", point, unique.X.Buffer, err)
		}
	}
}

func drawAttest(t *rapid.T) tpm2.TPMSAttest {
	octets := func(name string, most int) []byte { return rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, name) }
	a := tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		QualifiedSigner: tpm2.TPM2BName{Buffer: octets("signer", 66)},
		ExtraData:       tpm2.TPM2BData{Buffer: octets("nonce", 64)},
		ClockInfo: tpm2.TPMSClockInfo{
			Clock: rapid.Uint64().Draw(t, "clock"), ResetCount: rapid.Uint32().Draw(t, "resets"),
			RestartCount: rapid.Uint32().Draw(t, "restarts"), Safe: tpm2.TPMIYesNo(rapid.Bool().Draw(t, "safe")),
		},
		FirmwareVersion: rapid.Uint64().Draw(t, "firmware"),
	}
	if rapid.Bool().Draw(t, "quote") {
		var list []tpm2.TPMSPCRSelection
		for range rapid.IntRange(0, 4).Draw(t, "banks") {
			list = append(list, tpm2.TPMSPCRSelection{
				Hash: rapid.SampledFrom(hashes).Draw(t, "bank"), PCRSelect: rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(t, "registers"),
			})
		}
		a.Type = tpm2.TPMSTAttestQuote
		a.Attested = tpm2.NewTPMUAttest(a.Type, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: list}, PCRDigest: tpm2.TPM2BDigest{Buffer: octets("digest", 64)},
		})
		return a
	}
	a.Type = tpm2.TPMSTAttestCertify
	a.Attested = tpm2.NewTPMUAttest(a.Type, &tpm2.TPMSCertifyInfo{
		Name: tpm2.TPM2BName{Buffer: octets("name", 66)}, QualifiedName: tpm2.TPM2BName{Buffer: octets("qualified name", 66)},
	})
	return a
}
