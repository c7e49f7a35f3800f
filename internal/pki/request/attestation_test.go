package request

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

func TestAttestationIsFoundAndNotLookedInto(t *testing.T) {
	key := signers(t)[profile.P256]
	bundle := element(asn1.SEQUENCE, []byte{5, 0})
	der := draft{attributes: attribute(oidAttestation, bundle)}.sign(t, key)
	r, err := Parse(der)
	if err != nil || !bytes.Equal(r.Attestation, bundle) {
		t.Errorf("%x, %v", r.Attestation, err)
	}
	if got, err := Attestation(der); err != nil || !bytes.Equal(got, bundle) {
		t.Errorf("%x, %v", got, err)
	}
	plain := draft{}.sign(t, key)
	if r, err := Parse(plain); err != nil || r.Attestation != nil {
		t.Errorf("%x, %v", r.Attestation, err)
	}
	if got, err := Attestation(plain); err != nil || got != nil {
		t.Errorf("%x, %v", got, err)
	}
	// The attribute's name somewhere else is no attestation.
	other := draft{attributes: attribute(oidChallengePassword, element(asn1.UTF8String, []byte("x")), oidElement(oidAttestation))}.sign(t, key)
	if got, err := Attestation(other); err == nil || got != nil {
		t.Errorf("%x, %v", got, err)
	}
}

func TestAttestationsRefused(t *testing.T) {
	key := signers(t)[profile.P256]
	bundle := element(asn1.SEQUENCE, []byte{5, 0})
	for name, c := range map[string]struct {
		attributes []byte
		code       fault.Code
	}{
		"twice":          {append(attribute(oidAttestation, bundle), attribute(oidAttestation, bundle)...), fault.RequestAttributes},
		"two bundles":    {attribute(oidAttestation, bundle, bundle), fault.RequestAttributes},
		"no bundle":      {attribute(oidAttestation), fault.RequestAttributes},
		"octets":         {attribute(oidAttestation, element(asn1.OCTET_STRING, bundle)), fault.RequestAttributes},
		"cut short":      {attribute(oidAttestation, []byte{0x30, 5, 0}), fault.RequestAttributes},
		"not attributes": {append(attribute(oidAttestation, bundle), 0), fault.RequestMalformed},
	} {
		der := draft{attributes: c.attributes}.sign(t, key)
		if _, err := Parse(der); !fault.Has(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := Attestation(der); !fault.Has(err, c.code) || got != nil {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	if _, err := Attestation([]byte(oidAttestation)); !fault.Has(err, fault.RequestMalformed) {
		t.Errorf("%v", err)
	}
	if got, err := Attestation(append(make([]byte, MaxSize), oidAttestation...)); err != nil || got != nil {
		t.Errorf("too long: %x, %v", got, err)
	}
}
