package tpm

import (
	"bytes"
	"context"
	"crypto"
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// Claim says which TPM this is, for a challenge.
func Claim(e *Endorsement, ak *Key) format.Claim {
	return format.Claim{EKCertificate: e.Certificate, EKChain: e.Chain, EKPublic: e.Public, AKPublic: ak.Public}
}

// Answer does what a challenge asks for. subject is the key to be certified; nil:
// the attestation key itself is. It is one turn, in which the attestation key is
// loaded once: making it anew takes a slow TPM as long as all the rest.
func (t *TPM) Answer(ctx context.Context, c *format.Challenge, e *Endorsement, ak, subject *Key) (*format.Answer, error) {
	a := &format.Answer{Ticket: c.Ticket}
	err := t.turn(ctx, func(u *turn) error {
		by, err := u.load(ak)
		if err != nil {
			return err
		}
		if a.Secret, err = u.activate(e, by, c.Credential, c.Secret); err != nil {
			return err
		}
		if subject != nil {
			binding := format.Binding(c.Nonce, subject.parsed.SPKI)
			a.Public = subject.Public
			if a.Attest, a.Signature, err = u.certify(by, subject, binding[:]); err != nil {
				return err
			}
		}
		if c.Quote != nil {
			a.Quote, err = u.quote(by, ak, c.Quote, c.Nonce)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Activate opens a credential (TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET with
// their sizes) that was made for this endorsement key and this attestation key.
func (t *TPM) Activate(ctx context.Context, e *Endorsement, ak *Key, credential, secret []byte) (opened []byte, err error) {
	err = t.turn(ctx, func(u *turn) error {
		by, err := u.load(ak)
		if err != nil {
			return err
		}
		opened, err = u.activate(e, by, credential, secret)
		return err
	})
	return opened, err
}

func (u *turn) activate(e *Endorsement, ak *loadedKey, credential, secret []byte) ([]byte, error) {
	blob, ok := sized(credential)
	seed, ok2 := sized(secret)
	if !ok || !ok2 {
		return nil, fault.New(fault.AttestMalformed, "the challenge's credential")
	}
	before := len(u.loaded)
	ek, err := u.loadEndorsement(e)
	if err != nil {
		return nil, err
	}
	auth, err := u.mayUse(e, ek)
	if err != nil {
		return nil, err
	}
	got, err := tpm2.ActivateCredential{
		ActivateHandle: ak.auth(), KeyHandle: auth,
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: seed},
	}.Execute(u)
	if err != nil {
		return nil, failed("TPM2_ActivateCredential", err)
	}
	return got.CertInfo.Buffer, u.dropTo(before)
}

// sized returns what is behind the size of a TPM2B.
func sized(b []byte) ([]byte, bool) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) != len(b)-2 {
		return nil, false
	}
	return b[2:], true
}

// mayUse authorizes the use of an endorsement key: with a policy in the low range,
// with the empty password in the high range (TCG EK Credential Profile, annex B).
func (u *turn) mayUse(e *Endorsement, ek *loadedKey) (tpm2.AuthHandle, error) {
	if !e.low {
		return ek.auth(), nil
	}
	session, _, err := tpm2.PolicySession(u, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return tpm2.AuthHandle{}, failed("TPM2_StartAuthSession", err)
	}
	u.keep(session.Handle())
	_, err = tpm2.PolicySecret{AuthHandle: u.endorsement(), PolicySession: session.Handle(), NonceTPM: session.NonceTPM()}.Execute(u)
	if err != nil {
		return tpm2.AuthHandle{}, failed("TPM2_PolicySecret", err)
	}
	return tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: session}, nil
}

// Certify lets the attestation key say that the other key is in this TPM. It
// returns the TPMS_ATTEST and the TPMT_SIGNATURE.
func (t *TPM) Certify(ctx context.Context, ak, subject *Key, qualifying []byte) (attest, signature []byte, err error) {
	err = t.turn(ctx, func(u *turn) error {
		by, err := u.load(ak)
		if err != nil {
			return err
		}
		attest, signature, err = u.certify(by, subject, qualifying)
		return err
	})
	return attest, signature, err
}

func (u *turn) certify(by *loadedKey, subject *Key, qualifying []byte) (attest, signature []byte, err error) {
	before := len(u.loaded)
	key, err := u.load(subject)
	if err != nil {
		return nil, nil, err
	}
	got, err := tpm2.Certify{
		ObjectHandle: key.auth(), SignHandle: by.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying}, InScheme: ownScheme(),
	}.Execute(u)
	if err != nil {
		return nil, nil, failed("TPM2_Certify", err)
	}
	return got.CertifyInfo.Bytes(), tpm2.Marshal(got.Signature), u.dropTo(before)
}

// ownScheme says that the key signs as it was made to.
func ownScheme() tpm2.TPMTSigScheme { return tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull} }

// quoteTries is how often a quote is made anew when a register changed meanwhile.
const quoteTries = 5

// Quote lets the attestation key say what the registers hold.
func (t *TPM) Quote(ctx context.Context, ak *Key, q *format.QuoteRequest, nonce []byte) (out *format.Quote, err error) {
	err = t.turn(ctx, func(u *turn) error {
		by, err := u.load(ak)
		if err != nil {
			return err
		}
		out, err = u.quote(by, ak, q, nonce)
		return err
	})
	return out, err
}

func (u *turn) quote(by *loadedKey, ak *Key, q *format.QuoteRequest, nonce []byte) (*format.Quote, error) {
	bank := format.Bank(q.Bank)
	if bank == 0 || !registersExist(q.PCRs) {
		return nil, fault.New(fault.AttestMalformed, "the challenge's registers")
	}
	for range quoteTries {
		got, err := tpm2.Quote{
			SignHandle: by.auth(), QualifyingData: tpm2.TPM2BData{Buffer: nonce}, InScheme: ownScheme(), PCRSelect: selection(bank, q.PCRs),
		}.Execute(u)
		if err != nil {
			return nil, failed("TPM2_Quote", err)
		}
		values, err := u.registers(bank, q.PCRs)
		if err != nil {
			return nil, err
		}
		out := &format.Quote{Attest: got.Quoted.Bytes(), Signature: tpm2.Marshal(got.Signature), PCRs: values}
		if quoted(out, ak) {
			return out, nil
		}
	}
	return nil, fault.New(fault.TPMFailed, "the registers change faster than they can be quoted")
}

// quoted reports whether the values are those that were quoted.
func quoted(q *format.Quote, ak *Key) bool {
	a, err := format.ParseAttest(q.Attest)
	if err != nil || a.Quote == nil {
		return false
	}
	h := crypto.SHA256
	if s := ak.parsed.Scheme.Hash.Hash(); s != 0 {
		h = s
	}
	sum := h.New()
	for _, s := range a.Quote.Selections {
		for _, n := range s.PCRs {
			sum.Write(q.PCRs[n])
		}
	}
	return bytes.Equal(sum.Sum(nil), a.Quote.Digest)
}

func selection(bank format.Alg, pcrs []int) tpm2.TPMLPCRSelection {
	numbers := make([]uint, 0, len(pcrs))
	for _, n := range pcrs {
		numbers = append(numbers, uint(n))
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)},
	}}
}

// maxPCR is the highest register that a selection names here.
const maxPCR = 31

// registersExist reports whether there is a register, and none that no TPM has.
func registersExist(pcrs []int) bool {
	return len(pcrs) > 0 && slices.Min(pcrs) >= 0 && slices.Max(pcrs) <= maxPCR
}

// registers reads registers, as many at a time as the TPM sends.
func (u *turn) registers(bank format.Alg, pcrs []int) (map[int][]byte, error) {
	values := map[int][]byte{}
	rest := slices.Clone(pcrs)
	for len(rest) > 0 {
		got, err := tpm2.PCRRead{PCRSelectionIn: selection(bank, rest)}.Execute(u)
		if err != nil {
			return nil, failed("TPM2_PCR_Read", err)
		}
		read := selected(got.PCRSelectionOut)
		if len(read) == 0 || len(read) != len(got.PCRValues.Digests) {
			return nil, fault.New(fault.TPMFailed, "TPM2_PCR_Read: the TPM has no bank", bank.String(), "with these registers")
		}
		for i, n := range read {
			values[n] = got.PCRValues.Digests[i].Buffer
		}
		rest = slices.DeleteFunc(rest, func(n int) bool { return values[n] != nil })
	}
	return values, nil
}

func selected(s tpm2.TPMLPCRSelection) []int {
	var all []int
	for _, one := range s.PCRSelections {
		for i, octet := range one.PCRSelect {
			for bit := range 8 {
				if octet&(1<<bit) != 0 {
					all = append(all, 8*i+bit)
				}
			}
		}
	}
	return all
}

// ReadPCRs returns what registers hold.
func (t *TPM) ReadPCRs(ctx context.Context, bank string, pcrs ...int) (values map[int][]byte, err error) {
	alg := format.Bank(bank)
	if alg == 0 || !registersExist(pcrs) {
		return nil, fault.New(fault.ParameterInvalid, "there is no bank", bank, "with these registers")
	}
	err = t.turn(ctx, func(u *turn) error {
		values, err = u.registers(alg, pcrs)
		return err
	})
	return values, err
}

// ExtendPCR extends a register of one bank with a digest.
func (t *TPM) ExtendPCR(ctx context.Context, bank string, pcr int, digest []byte) error {
	alg := format.Bank(bank)
	if alg == 0 || len(digest) != alg.Hash().Size() || !registersExist([]int{pcr}) {
		return fault.New(fault.ParameterInvalid, "there is no bank", bank, "or the digest is not of its length")
	}
	return t.turn(ctx, func(u *turn) error {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgID(alg), Digest: digest}}},
		}.Execute(u)
		return failed("TPM2_PCR_Extend", err)
	})
}
