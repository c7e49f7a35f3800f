package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
)

// The files of a folder. Programs read the first three; all are the owner's alone.
const (
	KeyFile           = "key.pem"         // TSS2 key file, or PKCS #8
	CertificateFile   = "certificate.pem" // the certificate, then its issuers but the root
	ChainFile         = "chain.pem"       // the issuers, root last
	AKCertificateFile = "ak-certificate.pem"
	AKChainFile       = "ak-chain.pem"
	TrustFile         = "trust.pem" // authorities that the server is trusted by
	lockFile          = "agent.lock"
)

// home is the folder of one identity.
type home struct{ dir string }

// hold keeps a second agent out.
func (h *home) hold() (release func(), err error) {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	release, ok, err := durable.Hold(filepath.Join(h.dir, lockFile))
	if err == nil && !ok {
		err = fault.New(fault.AgentState, "another agent is at work on it")
	}
	return release, err
}

// read returns a file, nil where there is none.
func (h *home) read(name string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// write puts a file in place in one piece.
func (h *home) write(name string, text []byte) error {
	return durable.WriteFile(filepath.Join(h.dir, name), text)
}

// certificate returns the first certificate of a file, nil where there is no file.
func (h *home) certificate(name string) (*x509.Certificate, error) {
	text, err := h.read(name)
	if err != nil || text == nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fault.New(fault.AgentState, name, "holds no certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Wrap(fault.AgentState, err, name)
	}
	return c, nil
}

// writeCredential puts a certificate in place: the chain first, the certificate as
// the sign that all is there.
func (h *home) writeCredential(certificateFile, chainFile string, certificate []byte, chain [][]byte) error {
	if err := h.write(chainFile, certificatesPEM(chain)); err != nil {
		return err
	}
	// The root stays out of handshakes: who is to accept it has it.
	sent := append([][]byte{certificate}, chain[:max(0, len(chain)-1)]...)
	return h.write(certificateFile, certificatesPEM(sent))
}

func certificatesPEM(list [][]byte) []byte {
	var text []byte
	for _, one := range list {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	return text
}

// Certificates returns the certificates of a PEM text, DER.
func Certificates(text []byte) [][]byte {
	var list [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		if block.Type == "CERTIFICATE" {
			list = append(list, block.Bytes)
		}
	}
}

// isTPMKey tells a TSS2 key file from other keys.
func isTPMKey(text []byte) bool { return bytes.Contains(text, []byte("BEGIN TSS2 PRIVATE KEY")) }

func pkcs8(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parsePKCS8(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if block.Type == "EC PRIVATE KEY" {
		key, err = x509.ParseECPrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("a key that cannot sign")
	}
	return signer, nil
}

// ReadRequester returns the requester that a certificate (PEM, leaf first) with its
// key's file is. A TSS2 key file needs the TPM.
func ReadRequester(ctx context.Context, certificates []byte, keyPath string, t *tpm.TPM) (Requester, error) {
	r := Requester{Certificates: Certificates(certificates)}
	if len(r.Certificates) == 0 || keyPath == "" {
		return r, fault.New(fault.ParameterInvalid, "a certificate and its key are needed")
	}
	text, err := os.ReadFile(keyPath)
	if err != nil {
		return r, err
	}
	if !isTPMKey(text) {
		r.Key, err = parsePKCS8(text)
		return r, err
	}
	if t == nil {
		return r, fault.New(fault.TPMUnreachable, "the initial certificate's key needs one")
	}
	k, err := tpm.ParseFile(text)
	if err != nil {
		return r, err
	}
	r.Key = t.Signer(ctx, k)
	return r, nil
}
