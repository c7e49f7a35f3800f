//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Key is a private key in a token.
type Key struct {
	token  *Token
	label  string
	id     []byte
	public crypto.PublicKey
}

// The named curves, as CKA_EC_PARAMS has them.
var (
	oidP256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP384 = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
)

// digestInfo begins the DigestInfo of PKCS #1 v1.5 (RFC 8017, section 9.2).
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// Key finds a private key by label and, if given, id, with its public key.
func (t *Token) Key(ctx context.Context, label string, id []byte) (*Key, error) {
	public, err := do(ctx, t, func(h *handle) (crypto.PublicKey, error) {
		private, err := t.find(h, p11.CKO_PRIVATE_KEY, label, id)
		if err != nil {
			return nil, err
		}
		if !t.flag(h, private, p11.CKA_SIGN) {
			return nil, fault.New(fault.TokenKey, what(label, id), "may not sign (CKA_SIGN)")
		}
		public, err := t.find(h, p11.CKO_PUBLIC_KEY, label, id)
		if err != nil {
			return nil, err
		}
		return t.publicKey(h, public)
	})
	if err != nil {
		return nil, err
	}
	return &Key{token: t, label: label, id: id, public: public}, nil
}

func what(label string, id []byte) string {
	text := "the key " + label
	if id != nil {
		text += " with id " + hex.EncodeToString(id)
	}
	return text
}

// find finds the one object of a class.
func (t *Token) find(h *handle, class uint, label string, id []byte) (p11.ObjectHandle, error) {
	kinds := map[uint]string{p11.CKO_PRIVATE_KEY: "private key", p11.CKO_PUBLIC_KEY: "public key"}
	search := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_TOKEN, true)}
	if label != "" {
		search = append(search, p11.NewAttribute(p11.CKA_LABEL, label))
	}
	if id != nil {
		search = append(search, p11.NewAttribute(p11.CKA_ID, id))
	}
	all, err := t.objects(h, search)
	switch {
	case err != nil:
		return 0, err
	case len(all) == 0:
		return 0, fault.New(fault.TokenKey, "the token has no", kinds[class], "of", what(label, id))
	case len(all) > 1:
		return 0, fault.New(fault.TokenKey, "the token has", len(all), kinds[class]+"s", "of", what(label, id)+";", "name its id, too")
	}
	return all[0], nil
}

func (t *Token) objects(h *handle, search []*p11.Attribute) (all []p11.ObjectHandle, err error) {
	if err := t.m.FindObjectsInit(h.session, search); err != nil {
		return nil, failed(err)
	}
	for {
		some, _, err := t.m.FindObjects(h.session, 64)
		if err != nil {
			return nil, errors.Join(failed(err), t.m.FindObjectsFinal(h.session))
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	if err := t.m.FindObjectsFinal(h.session); err != nil {
		return nil, failed(err)
	}
	return all, nil
}

// flag reads a CK_BBOOL that may be missing.
func (t *Token) flag(h *handle, o p11.ObjectHandle, attribute uint) bool {
	got, err := t.m.GetAttributeValue(h.session, o, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
	return err == nil && len(got) == 1 && len(got[0].Value) == 1 && got[0].Value[0] != 0
}

func (t *Token) values(h *handle, o p11.ObjectHandle, attributes ...uint) ([][]byte, error) {
	var ask []*p11.Attribute
	for _, a := range attributes {
		ask = append(ask, p11.NewAttribute(a, nil))
	}
	got, err := t.m.GetAttributeValue(h.session, o, ask)
	if err != nil {
		return nil, failed(err)
	}
	values := make([][]byte, len(got))
	for i := range got {
		values[i] = got[i].Value
	}
	return values, nil
}

// publicKey reads a public key object.
func (t *Token) publicKey(h *handle, o p11.ObjectHandle) (crypto.PublicKey, error) {
	if v, err := t.values(h, o, p11.CKA_EC_PARAMS, p11.CKA_EC_POINT); err == nil {
		return ecKey(v[0], v[1])
	}
	v, err := t.values(h, o, p11.CKA_MODULUS, p11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, fault.New(fault.KeyAlgorithm, "the key is neither elliptic nor RSA")
	}
	e := new(big.Int).SetBytes(v[1])
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
		return nil, fault.New(fault.KeyAlgorithm, "the key's public exponent")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(v[0]), E: int(e.Int64())}, nil
}

// ecKey reads a point as tokens write it: the standard wraps it into an OCTET
// STRING, some makers do not.
func ecKey(parameters, point []byte) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch {
	case bytes.Equal(parameters, oidP256):
		curve = elliptic.P256()
	case bytes.Equal(parameters, oidP384):
		curve = elliptic.P384()
	default:
		return nil, fault.New(fault.KeyAlgorithm, "the key's curve is neither P-256 nor P-384")
	}
	size := 1 + 2*((curve.Params().BitSize+7)/8)
	if len(point) != size {
		in := cryptobyte.String(point)
		var inner cryptobyte.String
		if !in.ReadASN1(&inner, asn1.OCTET_STRING) || !in.Empty() {
			return nil, fault.New(fault.KeyAlgorithm, "the key's point is malformed")
		}
		point = inner
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fault.Wrap(fault.KeyAlgorithm, err, "the key's point is not on its curve")
	}
	return public, nil
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Parallel returns the number of sessions.
func (k *Key) Parallel() int { return k.token.pool.Most() }

// Sign has the token sign a digest.
func (k *Key) Sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	mechanism, input := uint(p11.CKM_ECDSA), digest
	if _, ok := k.public.(*rsa.PublicKey); ok {
		prefix, ok := digestInfo[hash]
		if !ok {
			return nil, fault.New(fault.KeyAlgorithm, hash)
		}
		mechanism, input = p11.CKM_RSA_PKCS, append(bytes.Clone(prefix), digest...)
	}
	// A call that hangs outlives its caller, so it has octets of its own.
	input = bytes.Clone(input)
	signature, err := do(ctx, k.token, func(h *handle) ([]byte, error) { return k.sign(h, mechanism, input) })
	if err != nil || mechanism == p11.CKM_RSA_PKCS {
		return signature, err
	}
	return derSignature(signature)
}

func (k *Key) sign(h *handle, mechanism uint, input []byte) ([]byte, error) {
	t := k.token
	name := k.label + "\x00" + string(k.id)
	private, ok := h.objects[name]
	if !ok {
		var err error
		if private, err = t.find(h, p11.CKO_PRIVATE_KEY, k.label, k.id); err != nil {
			return nil, err
		}
		h.objects[name] = private
	}
	if err := t.m.SignInit(h.session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, private); err != nil {
		return nil, failed(err)
	}
	signature, err := t.m.Sign(h.session, input)
	if err != nil {
		return nil, failed(err)
	}
	return signature, nil
}

// derSignature turns r and s, one behind the other, into an ECDSA-Sig-Value.
func derSignature(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, fault.New(fault.TokenFailed, "its signature has", len(raw), "octets")
	}
	half := len(raw) / 2
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:half]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[half:]))
	})
	return b.Bytes()
}

// Keys lists the private keys.
func (t *Token) Keys(ctx context.Context) ([]KeyInfo, error) {
	return do(ctx, t, func(h *handle) ([]KeyInfo, error) {
		all, err := t.objects(h, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)})
		if err != nil {
			return nil, err
		}
		var keys []KeyInfo
		for _, o := range all {
			v, err := t.values(h, o, p11.CKA_LABEL, p11.CKA_ID)
			if err != nil {
				return nil, err
			}
			k := KeyInfo{
				Label: string(v[0]), ID: v[1], Signs: t.flag(h, o, p11.CKA_SIGN),
				Extractable: t.flag(h, o, p11.CKA_EXTRACTABLE), Local: t.flag(h, o, p11.CKA_LOCAL),
			}
			if public, err := t.find(h, p11.CKO_PUBLIC_KEY, k.Label, k.ID); err == nil {
				k.HasPublic = true
				if key, err := t.publicKey(h, public); err == nil {
					k.Type, _ = profile.KeyTypeOf(key) // empty: not for us
				}
			}
			keys = append(keys, k)
		}
		return keys, nil
	})
}

// Create makes a key in the token that never leaves it. A label that is taken is
// fault.KeyExists.
func (t *Token) Create(ctx context.Context, label string, id []byte, kind profile.KeyType) (*Key, error) {
	if label == "" || len(id) == 0 {
		return nil, fault.New(fault.KeyURI, "a new key in a token needs a label and an id")
	}
	_, err := do(ctx, t, func(h *handle) (struct{}, error) {
		taken, err := t.objects(h, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, label)})
		if err == nil && len(taken) > 0 {
			err = fault.New(fault.KeyExists, "pkcs11:object="+label)
		}
		return struct{}{}, err
	})
	if err != nil {
		return nil, err
	}
	// Making a key needs a session that may write, and may take long.
	h, err := t.tryOpen(p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	defer t.closeSession(h)
	t.calls.RLock()
	err = t.generate(h, label, id, kind)
	t.calls.RUnlock()
	if err != nil {
		return nil, err
	}
	return t.Key(ctx, label, id)
}

func (t *Token) generate(h *handle, label string, id []byte, kind profile.KeyType) error {
	mechanism := uint(p11.CKM_EC_KEY_PAIR_GEN)
	var form []*p11.Attribute
	switch kind {
	case profile.P256:
		form = append(form, p11.NewAttribute(p11.CKA_EC_PARAMS, oidP256))
	case profile.P384:
		form = append(form, p11.NewAttribute(p11.CKA_EC_PARAMS, oidP384))
	case profile.RSA2048, profile.RSA3072, profile.RSA4096:
		var bits uint
		if _, err := fmt.Sscanf(string(kind), "rsa%d", &bits); err != nil {
			return err
		}
		mechanism = p11.CKM_RSA_PKCS_KEY_PAIR_GEN
		form = append(form, p11.NewAttribute(p11.CKA_MODULUS_BITS, bits), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	default:
		return fault.New(fault.KeyAlgorithm, kind, "is not made in tokens")
	}
	both := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, id)}
	public := append(append(form, both...), p11.NewAttribute(p11.CKA_VERIFY, true))
	private := append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false), p11.NewAttribute(p11.CKA_SIGN, true),
	}, both...)
	_, _, err := t.m.GenerateKeyPair(h.session, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)}, public, private)
	if err != nil {
		return failed(err)
	}
	return nil
}
