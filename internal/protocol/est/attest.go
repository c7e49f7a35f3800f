package est

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// freshness is the media type of nonces, asked for and given
// (draft-ietf-lamps-attestation-freshness, section 5.1).
const freshness = "application/est-attestation-freshness+json"

// MaxNonceBody is the longest request for a nonce that is read, in octets.
const MaxNonceBody = 4 << 10

// nonceRequest is what a device may say when it asks for a nonce. Information
// for a type that we do not know is not looked at.
type nonceRequest struct {
	Len *int `json:"len"`
}

// nonceResponse is the answer.
type nonceResponse struct {
	Nonce  string `json:"nonce"`  // base64url without padding
	Expiry int64  `json:"expiry"` // seconds
}

// Nonce answers /nonce: what the evidence in a request must hold to be fresh. GET
// asks for any nonce, POST for one of a certain length.
func (h *Handlers) Nonce(w http.ResponseWriter, r *http.Request, body []byte) error {
	want, err := readNonceRequest(r, body)
	if err != nil {
		return err
	}
	nonce, expires, err := h.service.AttestNonce(r.Context(), requester(r))
	if err != nil {
		return err
	}
	if want.Len != nil && *want.Len != len(nonce) {
		return fault.New(fault.ParameterInvalid, "nonces have", len(nonce), "octets")
	}
	return writeJSON(w, freshness, nonceResponse{
		Nonce:  base64.RawURLEncoding.EncodeToString(nonce),
		Expiry: max(0, int64(expires.Sub(h.now())/time.Second)),
	})
}

func readNonceRequest(r *http.Request, body []byte) (nonceRequest, error) {
	var want nonceRequest
	if r.Method == http.MethodGet {
		return want, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != freshness {
		return want, fault.New(fault.ContentTypeWrong, "want", freshness)
	}
	if err := json.Unmarshal(body, &want); err != nil {
		return want, fault.Wrap(fault.ParameterInvalid, err, "not a request for a nonce")
	}
	return want, nil
}

// evidence returns what the attestation attribute of a request shows, or nil where
// it has none. The qualifying data of the attestation is the nonce.
func evidence(csr []byte) (*enroll.Attestation, error) {
	der, err := request.Attestation(csr)
	if der == nil || err != nil {
		return nil, err
	}
	b, err := tpm.ParseBundle(der)
	if err != nil {
		return nil, err
	}
	if len(b.Public) == 0 {
		return nil, fault.New(fault.AttestMalformed, "the statement is without the key's public area")
	}
	return &enroll.Attestation{Attest: b.Attest, Signature: b.Signature, Public: b.Public, AKCertificates: b.Certificates}, nil
}

// TCGCSRType is the media type under which a TCG-CSR is sent; the TCG names none.
const TCGCSRType = "application/octet-stream"

// TCGCSR answers /tcg-csr. A TCG-CSR-IDEVID gets a challenge for the label, as a
// Claim does under /attest/v1, and it is answered there: with the same octets as the
// request for the IDevID key, and without a request for the certificate of the IAK.
// A TCG-CSR-LDEVID, whose IAK has a certificate of ours, gets its certificate at
// once.
func (h *Handlers) TCGCSR(w http.ResponseWriter, r *http.Request, body []byte) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != TCGCSRType {
		return fault.New(fault.ContentTypeWrong, "want", TCGCSRType)
	}
	if c, err := tpm.ParseCSRLDevID(body); err == nil {
		return h.enrollAs(w, r, enroll.Enroll, body, &enroll.Attestation{
			Attest: c.Certify, Signature: c.CertifySignature, Public: c.Public, AKCertificates: [][]byte{c.IAKCertificate},
		})
	}
	// Before its signature is checked, as everywhere: a stranger costs a look-up.
	if err := h.service.Known(r.Context(), requester(r)); err != nil {
		return err
	}
	claim, err := claim(body)
	if err != nil {
		return err
	}
	challenge, err := h.service.Challenge(r.Context(), enroll.ChallengeRequest{
		Requester: requester(r), Label: r.PathValue("label"), Claim: *claim, RemoteAddress: r.RemoteAddr,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", challenge)
}

// claim is what a TCG-CSR-IDEVID says of its TPM. It must be signed by the key that
// it is for.
func claim(body []byte) (*tpm.Claim, error) {
	c, err := tpm.ParseCSRIDevID(body)
	if err != nil {
		return nil, err
	}
	subject, err := tpm.ParsePublic(c.SigningPublic)
	if err != nil {
		return nil, err
	}
	if !c.Verifies(subject.Key) {
		return nil, fault.New(fault.ProofOfPossession)
	}
	ek, err := tpm.EKOf(c.EKCertificate)
	if err != nil {
		return nil, err
	}
	out := &tpm.Claim{EKCertificate: c.EKCertificate, EKPublic: ek, AKPublic: c.AttestPublic}
	// What a CA wants besides: here the certificates that lead to the EK's maker, if
	// the TPM has them. Judging them is not for us, so neither is other data.
	if chain, err := x509.ParseCertificates(c.CAData); err == nil {
		for _, issuer := range chain {
			out.EKChain = append(out.EKChain, issuer.Raw)
		}
	}
	return out, nil
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["Cache-Control"] = []string{"no-store"}
	_, _ = w.Write(body) // the peer is gone: it may ask again
	return nil
}
