// Package agent is the device's own side of enrollment: it makes a key in the
// device's TPM (or as a file where there is none), proves it to the server and
// keeps key, certificate and chain in one folder, where other programs use them.
//
// The order of writing makes every power cut harmless. The key is in the folder
// before anybody hears of it and is never replaced; a certificate follows when the
// server has given one, and whoever asks again with the same key gets the same
// certificate. So there are never two keys under one name, and running the agent
// again does what is missing: nothing, the rest, or a renewal in time.
package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"time"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// Where a key is.
const (
	InTPM  = "tpm"
	InFile = "file"
)

// Config says which device this is and what it wants.
type Config struct {
	Dir    string // folder for key, certificate and chain; made if it is not there
	Server string // https://host:port of the device listener
	Trust  []byte // PEM of the authorities to trust
	Label  string // of the profile; empty: the product's first
	Key    string // InTPM or InFile
	Kind   format.KeyKind
	// TPM is the device's TPM, needed for InTPM and for a requester whose key is
	// there.
	TPM *tpm.TPM
	// Requester is who asks for the first certificate.
	Requester Requester
	// AK asks for a certificate of the attestation key, too, under the label AKLabel;
	// AKHandle keeps that key in the TPM for other programs, 0: it does not.
	AK       bool
	AKLabel  string
	AKHandle uint32
	// EventLog is the firmware's log of this boot, sent with a quote; empty: none.
	EventLog []byte
	// Patience is how long a server that does not answer is asked again; 0: not at
	// all.
	Patience time.Duration
	Now      func() time.Time
}

// Requester shows who asks: a device serial with its one-time secret, or a
// certificate with its key.
type Requester struct {
	DeviceSerial string
	Secret       string
	Certificates [][]byte // DER, leaf first
	Key          crypto.Signer
}

// Agent is one device's agent.
type Agent struct {
	c    Config
	home *home
}

// New returns an agent.
func New(c Config) (*Agent, error) {
	switch {
	case c.Dir == "" || c.Now == nil:
		return nil, errors.New("agent: folder and clock are required")
	case c.Key != InTPM && c.Key != InFile:
		return nil, fault.New(fault.ParameterInvalid, "a key is in the tpm or in a file")
	case c.Key == InTPM && c.TPM == nil:
		return nil, fault.New(fault.TPMUnreachable, "none is named")
	case c.AK && c.Key != InTPM:
		return nil, fault.New(fault.ParameterInvalid, "an attestation key needs a TPM")
	}
	return &Agent{c: c, home: &home{c.Dir}}, nil
}

// Outcome is what a run came to.
type Outcome struct {
	Did         string    `json:"did"` // "enrolled", "renewed" or "nothing"
	NotAfter    time.Time `json:"notAfter"`
	Certificate []byte    `json:"-"` // DER
	AK          []byte    `json:"-"` // DER of the attestation key's certificate
}

// What a run did.
const (
	Enrolled = "enrolled"
	Renewed  = "renewed"
	Nothing  = "nothing"
)

// Enroll brings the folder to where it holds a certificate that is not due: it
// enrolls, renews or does nothing.
func (a *Agent) Enroll(ctx context.Context) (*Outcome, error) {
	release, err := a.home.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	key, err := a.key(ctx)
	if err != nil {
		return nil, err
	}
	out, err := a.enroll(ctx, key)
	if err != nil || !a.c.AK {
		return out, err
	}
	out.AK, err = a.enrollAK(ctx, key, out)
	return out, err
}

// subject is the key of the certificate.
type subject struct {
	signer crypto.Signer
	tpm    *tpm.Key // nil: the key is a file
	spki   []byte
}

// key returns the folder's key, made and written where there is none.
func (a *Agent) key(ctx context.Context) (*subject, error) {
	text, err := a.home.read(KeyFile)
	if err != nil {
		return nil, err
	}
	if text == nil {
		if held, err := a.home.certificate(CertificateFile); err != nil || held != nil {
			return nil, errors.Join(err, fault.New(fault.AgentState, "there is a certificate and no key"))
		}
		if text, err = a.makeKey(ctx); err != nil {
			return nil, err
		}
		if err := a.home.write(KeyFile, text); err != nil {
			return nil, err
		}
	}
	return a.parseKey(ctx, text)
}

func (a *Agent) makeKey(ctx context.Context) ([]byte, error) {
	if a.c.Key == InTPM {
		k, err := a.c.TPM.NewKey(ctx, a.c.Kind, 0)
		if err != nil {
			return nil, err
		}
		return k.File()
	}
	if a.c.Kind != "" && a.c.Kind != format.ECP256 {
		return nil, fault.New(fault.ParameterInvalid, "a key in a file is of kind", string(format.ECP256))
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return pkcs8(k)
}

func (a *Agent) parseKey(ctx context.Context, text []byte) (*subject, error) {
	inTPM := isTPMKey(text)
	if inTPM != (a.c.Key == InTPM) {
		return nil, fault.New(fault.AgentState, KeyFile, "is a key of the other kind: take another folder")
	}
	s := &subject{}
	var err error
	if inTPM {
		if s.tpm, err = tpm.ParseFile(text); err != nil {
			return nil, fault.Wrap(fault.AgentState, err, KeyFile)
		}
		s.signer = a.c.TPM.Signer(ctx, s.tpm)
	} else if s.signer, err = parsePKCS8(text); err != nil {
		return nil, fault.Wrap(fault.AgentState, err, KeyFile)
	}
	s.spki, err = x509.MarshalPKIXPublicKey(s.signer.Public())
	return s, err
}

// due reports whether two thirds of a certificate's life are over.
func due(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

func expired(c *x509.Certificate, now time.Time) bool { return now.After(c.NotAfter) }
