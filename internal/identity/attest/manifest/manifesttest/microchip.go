package manifesttest

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"
)

// MicrochipEntry is an entry of a Microchip manifest before it is signed. Tests change what they want
// to see refused, and sign it.
type MicrochipEntry struct {
	Header  map[string]any
	Payload map[string]any
	UID     string // of the unsigned header
}

// jwk is a public key as the manifest writes it.
type jwk struct {
	Kid string   `json:"kid"`
	Kty string   `json:"kty"`
	Crv string   `json:"crv"`
	X   string   `json:"x"`
	Y   string   `json:"y"`
	X5C [][]byte `json:"x5c,omitempty"`
}

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// MicrochipEntry returns the entry of chip i: a key with its chain in slot 0, and
// four without a certificate.
func (m *Maker) MicrochipEntry(i int64) (*MicrochipEntry, error) {
	leaf, err := m.compressible(i)
	if err != nil {
		return nil, err
	}
	keys := make([]jwk, 5)
	for slot := range keys {
		key, err := m.key(fmt.Sprintf("slot %d", slot), i)
		if slot == 0 {
			key, err = m.Key(i)
		}
		if err != nil {
			return nil, err
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			return nil, err
		}
		keys[slot] = jwk{fmt.Sprint(slot), "EC", "P-256", base64url(point[1:33]), base64url(point[33:]), nil}
	}
	keys[0].X5C = [][]byte{leaf, m.Issuing()}
	signer, err := x509.ParseCertificate(m.cert)
	if err != nil {
		return nil, err
	}
	thumbprint := sha256.Sum256(m.cert)
	org := map[string]string{"organizationName": m.name, "organizationalUnitName": "Simulation"}
	return &MicrochipEntry{
		Header: map[string]any{
			"typ": "JWT", "alg": "ES256", "kid": base64url(signer.SubjectKeyId), "x5t#S256": base64url(thumbprint[:]),
		},
		Payload: map[string]any{
			"version": 1, "model": m.chipType, "partNumber": m.chipType,
			"manufacturer": org, "provisioner": org, "distributor": org, "groupId": "SIMULATED0000000",
			"provisioningTimestamp": m.made.Add(time.Minute).Format("2006-01-02T15:04:05.000Z"),
			"uniqueId":              m.UID(i), "publicKeySet": map[string]any{"keys": keys},
		},
		UID: m.UID(i),
	}, nil
}

// compressible returns a certificate whose serial number follows from key and
// dates, as chips with compressed certificates need it.
func (m *Maker) compressible(i int64) ([]byte, error) {
	key, err := m.Key(i)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	const years = 28
	dates := uint32(m.made.Year()-2000)<<19 | uint32(m.made.Month())<<15 | uint32(m.made.Day())<<10 | uint32(m.made.Hour())<<5 | years
	sum := sha256.Sum256(slices.Concat(point[1:], []byte{byte(dates >> 16), byte(dates >> 8), byte(dates)}))
	sum[0] = sum[0]&0x3f | 0x40
	return x509.CreateCertificate(nil, &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(sum[:16]),
		Subject:               pkix.Name{Organization: []string{m.name}, CommonName: "sn" + upper(m.UID(i))},
		NotBefore:             m.made,
		NotAfter:              m.made.AddDate(years, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}, m.issuing.cert, &key.PublicKey, m.issuing.key)
}

// Sign returns the entry as it stands in the file.
func (m *Maker) Sign(e *MicrochipEntry) ([]byte, error) {
	header, err := json.Marshal(e.Header)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(e.Payload)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(base64url(header) + "." + base64url(payload)))
	der, err := m.signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	raw, err := rawSignature(der)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"payload": base64url(payload), "protected": base64url(header),
		"header": map[string]string{"uniqueId": e.UID}, "signature": base64url(raw),
	})
}

// WriteMicrochip writes a secure element manifest of n chips beginning with number
// first.
func (m *Maker) WriteMicrochip(w io.Writer, first, n int64) error {
	for i := range n {
		e, err := m.MicrochipEntry(first + i)
		if err != nil {
			return err
		}
		line, err := m.Sign(e)
		if err != nil {
			return err
		}
		before := ",\n"
		if i == 0 {
			before = "[\n"
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, line); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "\n]\n")
	return err
}

// rawSignature turns an ASN.1 signature into r and s, as JOSE writes it.
func rawSignature(der []byte) ([]byte, error) {
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, err
	}
	raw := make([]byte, 64)
	s.R.FillBytes(raw[:32])
	s.S.FillBytes(raw[32:])
	return raw, nil
}
