package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// issued is what a server has issued.
type issued struct {
	certificate []byte
	chain       [][]byte
}

// enroll gets the certificate of the folder's key where it is missing or due.
func (a *Agent) enroll(ctx context.Context, key *subject) (*Outcome, error) {
	held, err := a.home.certificate(CertificateFile)
	if err != nil {
		return nil, err
	}
	if held != nil && !bytes.Equal(held.RawSubjectPublicKeyInfo, key.spki) {
		return nil, fault.New(fault.AgentState, CertificateFile, "is for another key than", KeyFile)
	}
	if held != nil && !due(held, a.c.Now()) {
		return &Outcome{Did: Nothing, NotAfter: held.NotAfter, Certificate: held.Raw}, nil
	}
	by, did := a.c.Requester, Enrolled
	if held != nil {
		did = Renewed
		if !expired(held, a.c.Now()) {
			if by, err = a.self(key); err != nil {
				return nil, err
			}
		}
	}
	got, err := a.obtain(ctx, by, key, did)
	if err != nil {
		return nil, err
	}
	leaf, err := checked(got, key.spki)
	if err != nil {
		return nil, err
	}
	if err := a.home.writeCredential(CertificateFile, ChainFile, got.certificate, got.chain); err != nil {
		return nil, err
	}
	return &Outcome{Did: did, NotAfter: leaf.NotAfter, Certificate: leaf.Raw}, nil
}

// self is the device with the certificate that it has.
func (a *Agent) self(key *subject) (Requester, error) {
	text, err := a.home.read(CertificateFile)
	return Requester{Certificates: Certificates(text), Key: key.signer}, err
}

// checked refuses what is not for our key.
func checked(got *issued, spki []byte) (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(got.certificate)
	if err != nil {
		return nil, fault.Wrap(fault.AgentLink, err, "the server sent what is not a certificate")
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, spki) {
		return nil, fault.New(fault.AgentLink, "the server sent a certificate for another key")
	}
	return leaf, nil
}

// obtain asks until there is an answer, or patience ends. Asking again is safe: the
// same key gets the same certificate.
func (a *Agent) obtain(ctx context.Context, by Requester, key *subject, did string) (*issued, error) {
	ask := func() (*issued, error) { return a.attested(ctx, by, key.tpm, a.c.Label, key) }
	if key.tpm == nil {
		ask = func() (*issued, error) { return a.byEST(ctx, by, key, did) }
	}
	return a.patiently(ctx, ask)
}

// Waits between attempts, each twice as long up to the longest.
const (
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
	staleTimes  = 3
)

func (a *Agent) patiently(ctx context.Context, ask func() (*issued, error)) (*issued, error) {
	until := a.c.Now().Add(a.c.Patience)
	stale := 0
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		got, err := ask()
		if err == nil {
			return got, nil
		}
		switch fault.Of(err).Code {
		case fault.TicketExpired, fault.TicketUsed, fault.TicketInvalid:
			// Another challenge is all it takes.
			if stale++; stale < staleTimes {
				continue
			}
			return nil, err
		case fault.TPMFailed, fault.TPMUnreachable, fault.ApprovalWaiting:
			return nil, err // waiting here does not help
		}
		if fault.Of(err).Kind != fault.Unavailable || a.c.Now().Add(wait).After(until) || !pause(ctx, wait) {
			return nil, err
		}
	}
}

// pause waits about as long as said, so that a fleet does not come back all at
// once, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	var b [1]byte
	_, _ = rand.Read(b[:])
	t := time.NewTimer(d/2 + d*time.Duration(b[0])/256)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attested proves a key with the TPM: challenge, answer, certificate. Without a key
// it is the attestation key that gets one.
func (a *Agent) attested(ctx context.Context, by Requester, key *tpm.Key, label string, s *subject) (*issued, error) {
	srv, err := newServer(a.c.Server, a.c.Trust, by)
	if err != nil {
		return nil, err
	}
	defer srv.close()
	t := a.c.TPM
	ek, err := t.Endorsement(ctx)
	if err != nil {
		return nil, err
	}
	ak, err := t.AttestationKey(ctx, "", 0)
	if err != nil {
		return nil, err
	}
	got, err := srv.ask(ctx, format.ChallengePath, &format.ChallengeRequest{ID: "1", Label: label, Claim: tpm.Claim(ek, ak)})
	if err != nil {
		return nil, err
	}
	if got.Challenge == nil {
		return nil, fault.New(fault.AgentLink, "the server's answer lacks the challenge")
	}
	answer, err := t.Answer(ctx, got.Challenge, ek, ak, key)
	if err != nil {
		return nil, err
	}
	if answer.Quote != nil {
		answer.Quote.EventLog = a.c.EventLog
	}
	in := &format.EnrollRequest{ID: "1", Label: label, Answer: *answer}
	if key != nil {
		if in.CSR, err = client.Request(s.signer, nil); err != nil {
			return nil, err
		}
	}
	if got, err = srv.ask(ctx, format.EnrollPath, in); err != nil {
		return nil, err
	}
	return &issued{got.Certificate, got.Chain}, nil
}

// byEST enrolls a key in a file (RFC 7030).
func (a *Agent) byEST(ctx context.Context, by Requester, key *subject, did string) (*issued, error) {
	config, err := tlsConfig(a.c.Trust, by)
	if err != nil {
		return nil, err
	}
	c := client.Config{URL: a.c.Server, Label: a.c.Label, Anchors: config.RootCAs, Timeout: timeout}
	var subject []byte
	if config.GetClientCertificate != nil {
		if c.Certificate, err = config.GetClientCertificate(nil); err != nil {
			return nil, err
		}
	}
	if did == Renewed && by.Key != nil {
		leaf, err := x509.ParseCertificate(by.Certificates[0])
		if err != nil {
			return nil, err
		}
		subject = leaf.RawSubject
	}
	est, err := client.New(c)
	if err != nil {
		return nil, err
	}
	defer est.Close()
	csr, err := client.Request(key.signer, subject)
	if err != nil {
		return nil, err
	}
	var leaf *x509.Certificate
	if subject != nil {
		leaf, err = est.Reenroll(ctx, csr)
	} else {
		leaf, err = est.Enroll(ctx, csr, by.DeviceSerial, by.Secret)
	}
	if err != nil {
		return nil, estFault(err)
	}
	chain, err := est.CACerts(ctx)
	if err != nil {
		return nil, estFault(err)
	}
	got := &issued{certificate: leaf.Raw}
	for _, one := range chain {
		got.chain = append(got.chain, one.Raw)
	}
	return got, nil
}

// enrollAK gets the certificate of the attestation key where it is missing or due.
func (a *Agent) enrollAK(ctx context.Context, key *subject, own *Outcome) ([]byte, error) {
	ak, err := a.c.TPM.AttestationKey(ctx, "", a.c.AKHandle)
	if err != nil {
		return nil, err
	}
	held, err := a.home.certificate(AKCertificateFile)
	if err != nil {
		return nil, err
	}
	same := held != nil && bytes.Equal(held.RawSubjectPublicKeyInfo, ak.Parsed().SPKI)
	if same && !due(held, a.c.Now()) {
		return held.Raw, nil
	}
	by, err := a.self(key) // the device has a certificate now
	if err != nil {
		return nil, err
	}
	got, err := a.patiently(ctx, func() (*issued, error) { return a.attested(ctx, by, nil, a.c.AKLabel, nil) })
	if err != nil {
		return nil, err
	}
	if _, err := checked(got, ak.Parsed().SPKI); err != nil {
		return nil, err
	}
	if own.Did == Nothing {
		own.Did = Enrolled
	}
	return got.certificate, a.home.writeCredential(AKCertificateFile, AKChainFile, got.certificate, got.chain)
}

// PEM returns one certificate as PEM.
func PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
