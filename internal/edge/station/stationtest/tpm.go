package stationtest

import (
	"bytes"
	"crypto/rand"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	"github.com/birthmark/birthmark/internal/format/tpm"
)

// Ticket is a challenge that was not answered yet.
type Ticket struct {
	order, deviceSerial string
	secret, nonce       []byte
	AK                  *tpm.Public // the attestation key that was claimed
}

// challenge makes a credential for the claimed TPM. Whose TPM it is the real
// server judges.
func (s *Server) challenge(in *station.ChallengeRequest) station.Result {
	c, t, err := NewChallenge(in.Claim)
	if err != nil {
		return refused(in.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.orders[in.Order]; o == nil || o.State != "open" {
		return refused(in.ID, fault.New(fault.OrderState))
	}
	t.order, t.deviceSerial = in.Order, in.DeviceSerial
	s.tickets[string(c.Ticket)] = t
	return station.Result{ID: in.ID, OK: true, DeviceSerial: in.DeviceSerial, Challenge: c}
}

// NewChallenge makes a challenge for a TPM, with what its answer must hold.
func NewChallenge(claim tpm.Claim) (*tpm.Challenge, *Ticket, error) {
	t := &Ticket{secret: random(32), nonce: random(32)}
	var err error
	if t.AK, err = tpm.ParsePublic(claim.AKPublic); err != nil {
		return nil, nil, err
	}
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](claim.EKPublic)
	if err != nil {
		return nil, nil, err
	}
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, nil, err
	}
	blob, seed, err := tpm2.CreateCredential(rand.Reader, key, t.AK.Name(), t.secret)
	if err != nil {
		return nil, nil, err
	}
	return &tpm.Challenge{
		Ticket: random(24), Nonce: t.nonce, ExpiresAt: time.Now().Add(10 * time.Minute).UTC(),
		Credential: tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: blob}), Secret: tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seed}),
	}, t, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// attested checks the answer to a challenge: that TPM, that key, once.
func (s *Server) attested(in *station.Unit, spki []byte) error {
	t := s.tickets[string(in.TPM.Ticket)]
	if t == nil {
		return fault.New(fault.TicketInvalid)
	}
	delete(s.tickets, string(in.TPM.Ticket))
	if t.order != in.Order || t.deviceSerial != in.DeviceSerial {
		return fault.New(fault.TicketOther)
	}
	return t.Check(in.TPM, spki)
}

// Check refuses an answer that is not the claimed TPM's, or not for this key.
func (t *Ticket) Check(a *tpm.Answer, spki []byte) error {
	if !bytes.Equal(a.Secret, t.secret) {
		return fault.New(fault.ActivationWrong)
	}
	subject, err := tpm.ParsePublic(a.Public)
	if err != nil {
		return err
	}
	attest, err := tpm.ParseAttest(a.Attest)
	if err != nil {
		return err
	}
	signature, err := tpm.ParseSignature(a.Signature)
	if err != nil {
		return err
	}
	binding := tpm.Binding(t.nonce, spki)
	switch {
	case !signature.Verifies(t.AK.Key, a.Attest):
		return fault.New(fault.CertifySignature)
	case !bytes.Equal(attest.ExtraData, binding[:]):
		return fault.New(fault.CertifyNonce)
	case attest.Certify == nil || !bytes.Equal(attest.Certify.Name, subject.Name()):
		return fault.New(fault.CertifyName)
	case !bytes.Equal(subject.SPKI, spki):
		return fault.New(fault.SubjectKey)
	}
	return nil
}
