package server

import (
	"crypto/tls"
	"errors"
	"sync/atomic"
)

// Certificate is a listener's certificate that may be replaced while the
// listener runs.
type Certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// Set makes c the certificate of all handshakes from now on.
func (s *Certificate) Set(c *tls.Certificate) { s.current.Store(c) }

// Current returns the certificate in use, nil before the first Set.
func (s *Certificate) Current() *tls.Certificate { return s.current.Load() }

func (s *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("no server certificate yet")
}

// DeviceTLS is the configuration of listeners that devices and stations talk
// to. Client certificates are asked for but judged per request, so that a
// refusal can say why. No session tickets: a resumed session would skip the
// judgment. Records are not sized dynamically, since C clients read a reply in
// at most two records.
func DeviceTLS(c *Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		GetCertificate:              c.get,
		ClientAuth:                  tls.RequestClientCert,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		NextProtos:                  []string{"http/1.1"},
	}
}

// ConsoleTLS is the configuration of listeners that people's browsers and
// programs talk to.
func ConsoleTLS(c *Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		GetCertificate:         c.get,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
	}
}
