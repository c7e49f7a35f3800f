package agent

import (
	"encoding/pem"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// Credential is a certificate of the folder.
type Credential struct {
	Subject    string    `json:"subject"`
	CertSerial string    `json:"serial"` // hexadecimal
	Issuer     string    `json:"issuer"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	Due        bool      `json:"due"` // to be renewed now
	Expired    bool      `json:"expired"`
}

// Status is what a folder holds.
type Status struct {
	Dir         string      `json:"dir"`
	Key         string      `json:"key,omitempty"` // "tpm" or "file"; empty: none
	Certificate *Credential `json:"certificate,omitempty"`
	AK          *Credential `json:"ak,omitempty"`
}

// StatusOf reads a folder.
func StatusOf(dir string, now time.Time) (*Status, error) {
	h := &home{dir}
	s := &Status{Dir: dir}
	text, err := h.read(KeyFile)
	if err != nil {
		return nil, err
	}
	if text != nil {
		if block, _ := pem.Decode(text); block == nil {
			return nil, fault.New(fault.AgentState, KeyFile, "is no key")
		}
		s.Key = InFile
		if isTPMKey(text) {
			s.Key = InTPM
		}
	}
	for name, to := range map[string]**Credential{CertificateFile: &s.Certificate, AKCertificateFile: &s.AK} {
		c, err := h.certificate(name)
		if err != nil {
			return nil, err
		}
		if c != nil {
			*to = &Credential{
				Subject: c.Subject.String(), CertSerial: c.SerialNumber.Text(16), Issuer: c.Issuer.String(),
				NotBefore: c.NotBefore, NotAfter: c.NotAfter, Due: due(c, now), Expired: expired(c, now),
			}
		}
	}
	return s, nil
}
