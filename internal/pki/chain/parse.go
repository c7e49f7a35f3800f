package chain

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Limits on files.
const (
	maxBundleBytes = 8 << 20
	maxBundleCount = 4096
	maxCRLBytes    = 128 << 20
	maxCRLCount    = 256
)

// ParseCertificates reads the certificates of a PEM bundle or of a DER file, in
// their order; at least one, at most 4,096 in 8 MiB, each at most 64 KiB. Text
// between PEM blocks and blocks of other kinds are passed over. Everything else
// that is not exactly a certificate is fault.CertificateInvalid.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	if len(b) > maxBundleBytes {
		return nil, fault.New(fault.CertificateInvalid, "more than", maxBundleBytes, "bytes")
	}
	blocks, err := split(b, maxBundleCount, "CERTIFICATE", "X509 CERTIFICATE")
	if err != nil {
		return nil, fault.New(fault.CertificateInvalid, err)
	}
	certs := make([]*x509.Certificate, 0, len(blocks))
	for i, der := range blocks {
		if len(der) > MaxChainBytes {
			return nil, fault.New(fault.CertificateInvalid, "certificate", i+1, "has more than", MaxChainBytes, "bytes")
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Wrap(fault.CertificateInvalid, err, "certificate", i+1, "of the input:", parserSays(err))
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// ParseCRLs reads the CRLs of a PEM bundle or of a DER file, at most 256 in 128
// MiB, or returns fault.CRLInvalid.
func ParseCRLs(b []byte) ([]*x509.RevocationList, error) {
	if len(b) > maxCRLBytes {
		return nil, fault.New(fault.CRLInvalid, "more than", maxCRLBytes, "bytes")
	}
	blocks, err := split(b, maxCRLCount, "X509 CRL")
	if err != nil {
		return nil, fault.New(fault.CRLInvalid, err)
	}
	lists := make([]*x509.RevocationList, 0, len(blocks))
	for i, der := range blocks {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fault.Wrap(fault.CRLInvalid, err, "CRL", i+1, "of the input:", parserSays(err))
		}
		// The parser reads the first structure and lets leftovers pass.
		if len(l.Raw) != len(der) || !signedWhole(der) {
			return nil, fault.New(fault.CRLInvalid, "CRL", i+1, "of the input: bytes left over")
		}
		lists = append(lists, l)
	}
	return lists, nil
}

// signedWhole reports whether der is a SEQUENCE of a signed part, an algorithm, a
// signature of whole bytes and nothing else.
func signedWhole(der []byte) bool {
	in := cryptobyte.String(der)
	var outer cryptobyte.String
	var signature []byte
	return in.ReadASN1(&outer, cbasn1.SEQUENCE) && in.Empty() && outer.SkipASN1(cbasn1.SEQUENCE) &&
		outer.SkipASN1(cbasn1.SEQUENCE) && outer.ReadASN1BitStringAsBytes(&signature) && outer.Empty()
}

// parserSays is the parser's complaint, which is about the input alone.
func parserSays(err error) string {
	text := strings.TrimPrefix(err.Error(), "x509: ")
	if len(text) > 160 {
		text = text[:160] + "..."
	}
	return strings.Trim(quote(text), `"`)
}

// split returns the DER structures in b.
func split(b []byte, most int, labels ...string) ([][]byte, error) {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	var blocks [][]byte
	var err error
	// Certificates and CRLs have a long-form length, whose first byte no text has.
	if len(b) >= 2 && b[0] == 0x30 && b[1] >= 0x80 {
		blocks, err = splitDER(b, most)
	} else {
		blocks, err = splitPEM(b, most, labels)
	}
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("there is no PEM block %q in it, nor is it DER", labels[0])
	}
	return blocks, nil
}

func splitDER(b []byte, most int) ([][]byte, error) {
	in := cryptobyte.String(b)
	var blocks [][]byte
	for !in.Empty() {
		var element cryptobyte.String
		if !in.ReadASN1Element(&element, cbasn1.SEQUENCE) {
			return nil, fmt.Errorf("structure %d is not DER", len(blocks)+1)
		}
		if len(blocks) == most {
			return nil, fmt.Errorf("more than %d structures", most)
		}
		blocks = append(blocks, element)
	}
	return blocks, nil
}

// splitPEM reads RFC 7468 text line by line, so that its cost is linear in the
// input however it is malformed. Outside blocks anything may stand; inside only
// base64.
func splitPEM(b []byte, most int, labels []string) ([][]byte, error) {
	var blocks [][]byte
	var body []byte
	label, inside := "", false
	for number := 1; len(b) > 0; number++ {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		line = bytes.TrimRight(line, " \t\r")
		if !inside {
			label, inside = pemBoundary(line, "BEGIN")
			body = body[:0]
			continue
		}
		end, isEnd := pemBoundary(line, "END")
		if !isEnd {
			body = append(body, line...)
			continue
		}
		if end != label {
			return nil, fmt.Errorf("line %d: the block does not end as it began", number)
		}
		inside = false
		if !slices.Contains(labels, label) {
			continue
		}
		if len(blocks) == most {
			return nil, fmt.Errorf("more than %d blocks", most)
		}
		der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		n, err := base64.StdEncoding.Strict().Decode(der, body)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("line %d: the block that ends here is not base64", number)
		}
		blocks = append(blocks, der[:n])
	}
	if inside {
		return nil, errors.New("the last block has no end")
	}
	return blocks, nil
}

// pemBoundary returns the label of a line such as -----BEGIN CERTIFICATE-----.
func pemBoundary(line []byte, word string) (string, bool) {
	label, ok := bytes.CutPrefix(line, []byte("-----"+word+" "))
	if !ok {
		return "", false
	}
	label, ok = bytes.CutSuffix(label, []byte("-----"))
	return string(label), ok
}
