package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
	"golang.org/x/sync/errgroup"

	"github.com/birthmark/birthmark/internal/edge/client"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
)

// enrolledDevice is a simulated device in the field with its operational key and
// certificate.
type enrolledDevice struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

const (
	// inTheField is how many devices at most go on to enroll for the cloud: each
	// has a connection of its own.
	inTheField      = 50
	parallelDevices = 8
)

// activate enrolls devices over EST with the identity that the factory gave them.
func (p *production) activate(ctx context.Context) ([]enrolledDevice, error) {
	devices := make([]enrolledDevice, min(len(p.made), inTheField))
	took := make([]time.Duration, len(devices))
	bar := newProgress(p.io, "Enrolling", len(devices))
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDevices)
	for i := range devices {
		group.Go(func() (err error) {
			start := time.Now()
			devices[i], err = p.enrollOne(ctx, i)
			took[i] = time.Since(start)
			bar.add(1)
			return err
		})
	}
	err := group.Wait()
	bar.done()
	if err != nil {
		return nil, err
	}
	slices.Sort(took)
	p.say("Enrolled %d devices for the cloud over EST with their initial identities in %s: p50 %s, p99 %s, handshake included.",
		len(devices), since(begin), short(took[len(took)/2]), short(took[len(took)*99/100]))
	return devices, nil
}

// enrollOne enrolls the device with the i-th chip of the reel: its initial
// identity authenticates it, for a new key.
func (p *production) enrollOne(ctx context.Context, i int) (enrolledDevice, error) {
	initial, err := sim.DeviceKey(p.run, i)
	if err != nil {
		return enrolledDevice{}, err
	}
	est, err := p.est(&tls.Certificate{Certificate: [][]byte{p.made[i].Certificate}, PrivateKey: initial})
	if err != nil {
		return enrolledDevice{}, err
	}
	defer est.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return enrolledDevice{}, err
	}
	csr, err := client.Request(key, nil)
	if err != nil {
		return enrolledDevice{}, err
	}
	cert, err := est.Enroll(ctx, csr, "", "")
	if err != nil {
		err = fmt.Errorf("enroll %s: %w", p.made[i].DeviceSerial, err)
	}
	return enrolledDevice{key, cert}, err
}

func (s *story) est(identity *tls.Certificate) (*client.EST, error) {
	return client.New(client.Config{URL: "https://" + s.at.device, Anchors: s.anchors, Timeout: 30 * time.Second, Certificate: identity})
}

// showRevocation revokes one device's certificate and shows that it is refused.
func (s *story) showRevocation(ctx context.Context, enrolled []enrolledDevice) error {
	victim := enrolled[len(enrolled)/2]
	before, err := s.askOCSP(ctx, victim.cert)
	if err != nil {
		return err
	}
	name := victim.cert.Subject.CommonName
	revoke := statusAPI{s.node.status}
	if err := revoke.Revoke(ctx, &s.caller, victim.cert.SerialNumber.Bytes(), "keyCompromise"); err != nil {
		return err
	}
	after, err := s.askOCSP(ctx, victim.cert)
	if err != nil {
		return err
	}
	s.say("Revoked %s: OCSP said %s before and says %s now.", name, before, after)
	if after != "revoked" {
		return errors.New("OCSP does not say revoked")
	}
	est, err := s.est(&tls.Certificate{Certificate: [][]byte{victim.cert.Raw}, PrivateKey: victim.key})
	if err != nil {
		return err
	}
	defer est.Close()
	csr, err := client.Request(victim.key, victim.cert.RawSubject)
	if err != nil {
		return err
	}
	_, err = est.Reenroll(ctx, csr)
	refused, ok := errors.AsType[*client.Refused](err)
	if !ok {
		return fmt.Errorf("re-enrollment with the revoked certificate was not refused: %w", err)
	}
	line, _, _ := strings.Cut(refused.Text, "\n")
	s.say("Re-enrollment with it is refused: %s.", line)
	return nil
}

// askOCSP asks our responder over HTTP as anyone would.
func (s *story) askOCSP(ctx context.Context, cert *x509.Certificate) (string, error) {
	der, err := ocsp.CreateRequest(cert, s.issuing, nil)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.at.status+"/ocsp/issuing", bytes.NewReader(der))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	answer, err := ocsp.ParseResponseForCert(body, cert, s.issuing)
	if err != nil {
		return "", fmt.Errorf("OCSP answer: %w", err)
	}
	return map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}[answer.Status], nil
}
