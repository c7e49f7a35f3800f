// Package tpmtest is a TPM 2.0 made of software for tests and benchmarks: a maker
// that certifies endorsement keys, and TPMs that activate credentials, certify keys
// and quote registers as real ones do, octet for octet. Unlike a real one it lies
// when told to: everything that is signed can be edited before, every public area
// chosen, every signature made with another key or scheme.
package tpmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
)

// ErrIntegrity is TPM_RC_INTEGRITY: a credential for another EK or another AK.
var ErrIntegrity = errors.New("TPM_RC_INTEGRITY")

// Hierarchies, as parents of keys.
const (
	Owner       uint32 = 0x40000001
	Endorsement uint32 = 0x4000000B
	Platform    uint32 = 0x4000000C
)

// Options says what TPM to make; the zero value is one of P-256 with a certificate.
type Options struct {
	EK       string // name of the EK template; empty: "L-2"
	Vendor   string // empty: "id:54455354"
	Model    string // empty: "TEST"
	Version  string // empty: "id:00010002"
	Firmware uint64
	Bare     bool // no EK certificate
	Edit     func(*Certificate)
}

// TPM is a TPM. It is not safe for concurrent use.
type TPM struct {
	EK            *Key
	EKCertificate []byte   // DER; nil: none
	EKChain       [][]byte // what the TPM carries besides

	Clock        uint64 // milliseconds; each attestation adds one
	ResetCount   uint32
	RestartCount uint32
	Unsafe       bool
	Firmware     uint64
	PCRs         map[wire.Alg]map[int][]byte
	Log          *Log

	tb   testing.TB
	seed [32]byte // masks the counters of keys outside the endorsement hierarchy
}

// New makes a TPM of a maker; m may be nil where the TPM is bare.
func New(tb testing.TB, m *Maker, o Options) *TPM {
	tb.Helper()
	t := &TPM{Clock: 1_000_000, ResetCount: 3, RestartCount: 1, Firmware: o.Firmware, tb: tb}
	if t.Firmware == 0 {
		t.Firmware = 0x0001000200030004
	}
	rand.Read(t.seed[:])
	t.EK = newEK(tb, t, o.EK)
	t.reset()
	if !o.Bare {
		t.EKCertificate = m.Certify(tb, t.EK.Signer.Public(), o)
		t.EKChain = [][]byte{m.Issuer.Raw}
	}
	return t
}

func newEK(tb testing.TB, t *TPM, form string) *Key {
	tb.Helper()
	if form == "" {
		form = "L-2"
	}
	forms := wire.EKTemplates()
	i := slices.IndexFunc(forms, func(f wire.Template) bool { return f.Name == form })
	if i < 0 {
		tb.Fatalf("no EK template %q", form)
	}
	f := forms[i]
	area := Area{
		Type: f.Type, NameAlg: f.NameAlg, Attributes: f.Attributes, AuthPolicy: f.AuthPolicy,
		Symmetric: f.Symmetric, Scheme: wire.Scheme{Alg: wire.AlgNull}, Bits: f.Bits, Curve: f.Curve,
	}
	return NewKey(tb, t, area, Endorsement)
}

func (t *TPM) reset() {
	t.PCRs = map[wire.Alg]map[int][]byte{}
	for _, bank := range []wire.Alg{wire.AlgSHA256, wire.AlgSHA384} {
		t.PCRs[bank] = map[int][]byte{}
		for i := range 24 {
			t.PCRs[bank][i] = make([]byte, bank.Hash().Size())
		}
	}
	t.Log = newLog()
}

// Reset restarts the device: registers at zero, an empty log, one more reset.
func (t *TPM) Reset() {
	t.ResetCount++
	t.RestartCount = 0
	t.Clock += 1000
	t.reset()
}

// Clear is TPM2_Clear: counters at zero.
func (t *TPM) Clear() { t.ResetCount, t.RestartCount, t.Clock = 0, 0, 0 }

// Extend measures data into a register of all banks and writes the event into the
// log.
func (t *TPM) Extend(pcr int, data []byte) {
	digests := map[wire.Alg][]byte{}
	for bank, registers := range t.PCRs {
		h := bank.Hash().New()
		h.Write(data)
		digests[bank] = h.Sum(nil)
		h.Reset()
		h.Write(registers[pcr])
		h.Write(digests[bank])
		registers[pcr] = h.Sum(nil)
	}
	t.Log.Events = append(t.Log.Events, Event{PCR: pcr, Type: 0x0D, Digests: digests, Data: data})
}

// NewAK makes an attestation key as birthmark-agent does, in the owner hierarchy.
func (t *TPM) NewAK(k wire.KeyKind) *Key {
	t.tb.Helper()
	return NewKey(t.tb, t, AKArea(k), Owner)
}

// NewSubject makes a key to be certified as birthmark-agent does.
func (t *TPM) NewSubject(k wire.KeyKind) *Key {
	t.tb.Helper()
	return NewKey(t.tb, t, SubjectArea(k), Owner)
}

// Claim returns what the device says of its TPM.
func (t *TPM) Claim(ak *Key) wire.Claim {
	return wire.Claim{EKCertificate: t.EKCertificate, EKChain: t.EKChain, EKPublic: t.EK.Public(), AKPublic: ak.Public()}
}

// Certify is TPM2_Certify. Edits change what is signed.
func (t *TPM) Certify(ak, subject *Key, extra []byte, edits ...func(*Attest)) (attest, signature []byte) {
	t.tb.Helper()
	a := t.attest(ak, wire.TypeCertify, extra)
	a.Name, a.QualifiedName = subject.Name(), subject.QualifiedName()
	return t.signed(ak, a, edits)
}

// Quote is TPM2_Quote over registers of a bank, with their values and the log.
func (t *TPM) Quote(ak *Key, nonce []byte, bank wire.Alg, pcrs []int, edits ...func(*Attest)) *wire.Quote {
	t.tb.Helper()
	a := t.attest(ak, wire.TypeQuote, nonce)
	a.Selections = []wire.Selection{{Bank: bank, PCRs: pcrs}}
	q := &wire.Quote{PCRs: map[int][]byte{}, EventLog: t.Log.Bytes()}
	h := ak.Area.Scheme.Hash.Hash().New()
	for _, pcr := range pcrs {
		q.PCRs[pcr] = bytes.Clone(t.PCRs[bank][pcr])
		h.Write(q.PCRs[pcr])
	}
	a.Digest = h.Sum(nil)
	q.Attest, q.Signature = t.signed(ak, a, edits)
	return q
}

func (t *TPM) attest(ak *Key, kind uint16, extra []byte) *Attest {
	t.Clock++
	a := &Attest{
		Magic: wire.Magic, Type: kind, QualifiedSigner: ak.QualifiedName(), ExtraData: extra,
		Clock:    wire.Clock{Clock: t.Clock, ResetCount: t.ResetCount, RestartCount: t.RestartCount, Safe: !t.Unsafe},
		Firmware: t.Firmware,
	}
	if !ak.plain() {
		mask := sha256.Sum256(append(t.seed[:], ak.QualifiedName()...))
		a.Clock.ResetCount += binary.BigEndian.Uint32(mask[:])
		a.Clock.RestartCount += binary.BigEndian.Uint32(mask[4:])
		a.Firmware += binary.BigEndian.Uint64(mask[8:])
	}
	return a
}

func (t *TPM) signed(ak *Key, a *Attest, edits []func(*Attest)) (attest, signature []byte) {
	t.tb.Helper()
	for _, edit := range edits {
		edit(a)
	}
	attest = a.Bytes()
	return attest, ak.Sign(t.tb, attest)
}

// Answer does what a device does with a challenge: it opens the credential,
// certifies the subject (nil: the AK itself is to be certified) and quotes where a
// quote is asked for.
func (t *TPM) Answer(ak, subject *Key, c *wire.Challenge) (wire.Answer, error) {
	t.tb.Helper()
	secret, err := t.ActivateCredential(ak, c.Credential, c.Secret)
	if err != nil {
		return wire.Answer{}, err
	}
	a := wire.Answer{Ticket: c.Ticket, Secret: secret}
	if subject != nil {
		binding := wire.Binding(c.Nonce, subject.SPKI())
		a.Public = subject.Public()
		a.Attest, a.Signature = t.Certify(ak, subject, binding[:])
	}
	if c.Quote != nil {
		a.Quote = t.Quote(ak, c.Nonce, wire.Bank(c.Quote.Bank), c.Quote.PCRs)
	}
	return a, nil
}

// Values returns registers as a policy's state has them.
func (t *TPM) Values(bank wire.Alg, pcrs ...int) map[int][]byte {
	values := map[int][]byte{}
	for _, pcr := range pcrs {
		values[pcr] = bytes.Clone(t.PCRs[bank][pcr])
	}
	return values
}

// Key is a key in a TPM, or one in software that says so.
type Key struct {
	Area   Area
	Signer crypto.Signer // *rsa.PrivateKey or *ecdsa.PrivateKey
	Parent uint32        // the hierarchy in which it is a primary key
	Under  *Key          // its parent, where it is not a primary key
}

// NewKey makes a key with any public area. t may be nil.
func NewKey(tb testing.TB, t *TPM, area Area, hierarchy uint32) *Key {
	tb.Helper()
	k := &Key{Area: area, Parent: hierarchy}
	if area.Type == wire.AlgRSA {
		k.Signer = RSA(tb, area.Bits)
		return k
	}
	curve := map[wire.Curve]elliptic.Curve{wire.P256: elliptic.P256(), wire.P384: elliptic.P384(), wire.P521: elliptic.P521()}[area.Curve]
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	k.Signer = key
	return k
}

// RSA returns a new RSA key, which takes a while.
func RSA(tb testing.TB, bits int) *rsa.PrivateKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// Public returns the TPMT_PUBLIC.
func (k *Key) Public() []byte { return k.Area.Bytes(k.Signer.Public()) }

// SPKI returns the DER SubjectPublicKeyInfo.
func (k *Key) SPKI() []byte {
	spki, err := x509.MarshalPKIXPublicKey(k.Signer.Public())
	if err != nil {
		panic(err)
	}
	return spki
}

// Name returns the TPM's Name of the key.
func (k *Key) Name() []byte { return name(k.Area.NameAlg, k.Public()) }

func name(alg wire.Alg, public []byte) []byte {
	h := alg.Hash().New()
	h.Write(public)
	return h.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg)))
}

// QualifiedName returns the name that says where the key is (Part 1, section 16).
func (k *Key) QualifiedName() []byte {
	parent := binary.BigEndian.AppendUint32(nil, k.Parent)
	if k.Under != nil {
		parent = k.Under.QualifiedName()
	}
	return name(k.Area.NameAlg, slices.Concat(parent, k.Name()))
}

func (k *Key) plain() bool {
	if k.Under != nil {
		return k.Under.plain()
	}
	return k.Parent == Endorsement || k.Parent == Platform
}

// CSR returns a certificate request for the key: DER.
func (k *Key) CSR(tb testing.TB, csr *x509.CertificateRequest) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, csr, k.Signer)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// Sign returns the TPMT_SIGNATURE over message, by the scheme of the key.
func (k *Key) Sign(tb testing.TB, message []byte) []byte {
	tb.Helper()
	return SignAs(tb, k.Signer, k.Area.Scheme, message)
}

// SignAs returns a TPMT_SIGNATURE by any key and scheme.
func SignAs(tb testing.TB, key crypto.Signer, scheme wire.Scheme, message []byte) []byte {
	tb.Helper()
	b := binary.BigEndian.AppendUint16(nil, uint16(scheme.Alg))
	b = binary.BigEndian.AppendUint16(b, uint16(scheme.Hash))
	h := scheme.Hash.Hash()
	digest := h.New()
	digest.Write(message)
	var options crypto.SignerOpts = h
	if scheme.Alg == wire.AlgRSAPSS {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h}
	}
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, ec, digest.Sum(nil))
		if err != nil {
			tb.Fatal(err)
		}
		size := (ec.Curve.Params().BitSize + 7) / 8
		b = sized(b, r.FillBytes(make([]byte, size)))
		return sized(b, s.FillBytes(make([]byte, size)))
	}
	signature, err := key.Sign(rand.Reader, digest.Sum(nil), options)
	if err != nil {
		tb.Fatal(err)
	}
	return sized(b, signature)
}
