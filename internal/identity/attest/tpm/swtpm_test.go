//go:build unix

package tpm_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	device "github.com/birthmark/birthmark/internal/edge/tpm"
	emulated "github.com/birthmark/birthmark/internal/edge/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
)

const secret = "0123456789abcdef0123456789abcdef"

// real is a TPM of swtpm with the server's side of it.
type real struct {
	*device.TPM
	chip  *emulated.TPM
	ek    *device.Endorsement
	ak    *device.Key
	trust *tpm.Trust
	found *tpm.TPM
	nonce []byte
}

func trustInEmulated(t *testing.T, m *emulated.Maker) *tpm.Trust {
	t.Helper()
	return trustIn(t, &attest.RootsFile{Name: "tests", Version: 1, IssuedAt: now, Makers: []attest.Maker{
		{Name: "swtpm", Roots: [][]byte{m.Root.Raw}, Intermediates: [][]byte{m.Issuing.Raw}},
	}})
}

func openReal(t *testing.T, m *emulated.Maker, chip *emulated.TPM, kind wire.KeyKind) *real {
	t.Helper()
	d, err := device.Open(t.Context(), device.Config{Path: chip.Path})
	if err != nil {
		t.Fatal(err)
	}
	r := &real{TPM: d, chip: chip, trust: trustInEmulated(t, m), nonce: make([]byte, 32)}
	rand.Read(r.nonce)
	if r.ek, err = d.Endorsement(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.ak, err = d.AttestationKey(t.Context(), kind, 0); err != nil {
		t.Fatal(err)
	}
	c := device.Claim(r.ek, r.ak)
	if r.found, err = r.trust.Check(&c, tpm.ClaimOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *real) challenge(t *testing.T, x *tpm.TPM, p *tpm.Policy) *wire.Challenge {
	t.Helper()
	c := &wire.Challenge{Nonce: r.nonce, Ticket: []byte("ticket")}
	var err error
	if c.Credential, c.Secret, err = x.Credential(rand.Reader, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	if p != nil {
		c.Quote = p.Request()
	}
	return c
}

// policy accepts the registers as they are.
func (r *real) policy(t *testing.T, pcrs ...int) *tpm.Policy {
	t.Helper()
	values, err := r.ReadPCRs(t.Context(), "sha256", pcrs...)
	if err != nil {
		t.Fatal(err)
	}
	s := attest.State{Name: "as it is", PCRs: map[int]string{}}
	for pcr, value := range values {
		s.PCRs[pcr] = hex.EncodeToString(value)
	}
	return policyOf(t, attest.PolicyFile{Bank: "sha256", States: []attest.State{s}})
}

// TestRealTPM: the whole conversation with swtpm, for each kind of AK; then the same
// TPM after a reset, and a state that is not released.
func TestRealTPM(t *testing.T) {
	m, chips := emulated.Start(t, 1)
	var last *tpm.Counters
	for _, kind := range []wire.KeyKind{wire.ECP256, wire.RSA2048, wire.ECP384} {
		r := openReal(t, m, chips[0], kind)
		if !r.found.Genuine || r.found.EKForm != "L-1" || r.found.Vendor == "" {
			t.Errorf("%+v", r.found)
		}
		digest := slices.Repeat([]byte{7}, 32)
		if err := r.ExtendPCR(t.Context(), "sha256", 7, digest); err != nil {
			t.Fatal(err)
		}
		counters := r.enroll(t, r.policy(t, 0, 7))
		if !counters.Plain {
			t.Error("the counters are masked, although the AK is in the endorsement hierarchy")
		}
		if last != nil {
			if err := tpm.CheckCounters(*last.State(r.found, 0), *counters.State(r.found, 0)); err != nil {
				t.Error(err)
			}
		}
		last = counters
	}
	r := openReal(t, m, chips[0], wire.ECP256)
	released := r.policy(t, 0, 7)
	chips[0].Stop()
	if err := chips[0].Start(); err != nil {
		t.Fatal(err)
	}
	ak, err := r.found.AK()
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.Quote(t.Context(), r.ak, released.Request(), r.nonce)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ak.Quoted(q, r.nonce, released)
	refusedWith(t, err, fault.QuoteState) // register 7 is empty again
	after, err := ak.Quoted(q, r.nonce, r.policy(t, 0, 7))
	if err != nil {
		t.Fatal(err)
	}
	before, now := *last.State(r.found, 0), *after.Counters.State(r.found, 0)
	if err := tpm.CheckCounters(before, now); err != nil {
		t.Errorf("%v\n%+v\n%+v", err, before, now)
	}
	if after.Counters.ResetCount <= last.ResetCount {
		t.Errorf("reset count %d, then %d", last.ResetCount, after.Counters.ResetCount)
	}
	refusedWith(t, tpm.CheckCounters(now, before), fault.QuoteOld)
}

// enroll answers a challenge and judges the answer.
func (r *real) enroll(t *testing.T, p *tpm.Policy) *tpm.Counters {
	t.Helper()
	key, err := r.NewKey(t.Context(), wire.ECP256, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.Answer(t.Context(), r.challenge(t, r.found, p), r.ek, r.ak, key)
	if err != nil || string(a.Secret) != secret {
		t.Fatalf("%+v, %v", a, err)
	}
	ak, err := r.found.AK()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ak.Certified(a, r.nonce, key.Parsed().SPKI, tpm.Subject{}); err != nil {
		t.Error(err)
	}
	q, err := ak.Quoted(a.Quote, r.nonce, p)
	if err != nil {
		t.Fatal(err)
	}
	return &q.Counters
}

// TestRealTPMsDoNotMix: the EK of one TPM and the AK of another never open a
// credential, whichever TPM tries.
func TestRealTPMsDoNotMix(t *testing.T) {
	m, chips := emulated.Start(t, 2)
	a, b := openReal(t, m, chips[0], wire.ECP256), openReal(t, m, chips[1], wire.ECP256)
	c := device.Claim(a.ek, b.ak)
	mixed, err := a.trust.Check(&c, tpm.ClaimOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err) // nothing is wrong with either key
	}
	challenge := a.challenge(t, mixed, nil)
	for name, who := range map[string]*real{"the EK's": a, "the AK's": b} {
		if opened, err := who.Activate(t.Context(), who.ek, who.ak, challenge.Credential, challenge.Secret); err == nil {
			t.Errorf("%s TPM opened the credential: %q", name, opened)
		}
	}
	c = device.Claim(a.ek, a.ak)
	c.EKCertificate = b.ek.Certificate
	_, err = a.trust.Check(&c, tpm.ClaimOptions{Now: time.Now()})
	refusedWith(t, err, fault.EKMismatch)
}

// TestRealHighRange: swtpm's second EK, H-3 on P-384, is rebuilt octet for octet,
// and opens a credential. Devices prefer the first, so this speaks to the TPM itself.
func TestRealHighRange(t *testing.T) {
	m, chips := emulated.Start(t, 1)
	r := openReal(t, m, chips[0], wire.ECP256)
	certificate, err := r.ReadNV(t.Context(), 0x01C00016)
	if err != nil {
		t.Fatal(err)
	}
	link, err := linuxudstpm.Open(chips[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	ek, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(0x81010016)}.Execute(link)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](wire.AKTemplate(wire.ECP256)),
	}.Execute(link)
	if err != nil {
		t.Fatal(err)
	}
	c := wire.Claim{EKCertificate: certificate, EKPublic: ek.OutPublic.Bytes(), AKPublic: ak.OutPublic.Bytes()}
	x, err := r.trust.Check(&c, tpm.ClaimOptions{Now: time.Now()})
	if err != nil || x.EKForm != "H-3" || !x.Genuine {
		t.Fatalf("%+v, %v", x, err)
	}
	challenge := r.challenge(t, x, nil)
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name},
		KeyHandle:      tpm2.AuthHandle{Handle: tpm2.TPMHandle(0x81010016), Name: ek.Name, Auth: tpm2.PasswordAuth(nil)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential[2:]},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret[2:]},
	}.Execute(link)
	if err != nil || string(opened.CertInfo.Buffer) != secret {
		t.Errorf("%+v, %v", opened, err)
	}
	other := *x
	area := tpmtest.AKArea(wire.ECP256)
	other.AKPublic = tpmtest.NewKey(t, nil, area, tpmtest.Owner).Public()
	challenge = r.challenge(t, &other, nil)
	_, err = tpm2.ActivateCredential{
		ActivateHandle: tpm2.NamedHandle{Handle: ak.ObjectHandle, Name: ak.Name},
		KeyHandle:      tpm2.AuthHandle{Handle: tpm2.TPMHandle(0x81010016), Name: ek.Name, Auth: tpm2.PasswordAuth(nil)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential[2:]},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret[2:]},
	}.Execute(link)
	if !errors.Is(err, tpm2.TPMRCIntegrity) {
		t.Errorf("the credential of another AK: %v", err)
	}
}
