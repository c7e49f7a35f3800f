package manifest

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
)

// base64url is base64 as JOSE writes it, and only so: spare bits are zero.
var (
	base64url = base64.RawURLEncoding.Strict()
	base64std = base64.StdEncoding.Strict()
)

// microchip reads the secure element manifest of Microchip: a JSON array of
// flattened JWS, each a statement about one chip.
func (im *importing) microchip() error {
	signatures := newSignatures(im.signers, im.anchors.verifiers)
	return run(im, newArray(im.source, im.Limits.Entry).next, func(raw []byte, remark func(string)) (Chip, error) {
		return im.microchipEntry(signatures, raw, remark)
	})
}

// microchipEntry checks and decodes one element of the array.
func (im *importing) microchipEntry(signatures *signatures, raw []byte, remark func(string)) (Chip, error) {
	e, err := parseJWS(raw)
	if err != nil {
		return Chip{}, err
	}
	signer, err := signatures.verify(e)
	if err != nil {
		return Chip{}, err
	}
	p, err := parsePayload(e.payload)
	if err != nil {
		return Chip{}, err
	}
	// The header is unsigned: it may say again what is signed, and nothing else.
	if e.uniqueID != p.uniqueID {
		return Chip{}, bad("the unsigned header names another chip (%.32q) than the signed payload (%s)", e.uniqueID, p.uniqueID)
	}
	if err := signer.validAt(p.provisioned); err != nil {
		return Chip{}, err
	}
	if p.provisioned.After(im.Now().Add(futureTolerance)) {
		remark("the chip was provisioned in the future")
	}
	if p.secrets {
		remark("the entry carries encrypted secret keys, which are not read")
	}
	c := Chip{Vendor: string(Microchip), UID: p.uniqueID, ChipType: p.chipType, Model: p.model, by: signer}
	if err := c.name(); err != nil {
		return c, err
	}
	for i := range p.keys {
		k, err := im.microchipKey(&p.keys[i], p, remark)
		if err != nil {
			return c, err
		}
		c.Keys = append(c.Keys, k)
	}
	if len(c.Keys) == 0 {
		remark("the entry has no key: the chip is listed, but not provable")
	}
	return c, nil
}

// jws is one element of the array.
type jws struct {
	protected          string
	payload64          []byte // as it is signed
	payload, signature []byte
	uniqueID           string // of the unsigned header
}

func parseJWS(raw []byte) (*jws, error) {
	e := new(jws)
	err := members(raw, func(name string, value []byte) (err error) {
		switch name {
		case "protected":
			e.protected, err = text(value)
		case "payload":
			if e.payload, err = octets(value, base64url); err == nil {
				e.payload64 = value[1 : len(value)-1]
			}
		case "signature":
			e.signature, err = octets(value, base64url)
		case "header":
			err = members(value, func(name string, value []byte) (err error) {
				if name != "uniqueId" {
					return bad("the unsigned header has the member %.32q; only uniqueId is taken", name)
				}
				e.uniqueID, err = text(value)
				return err
			})
		default:
			err = bad("the entry has the member %.32q, which a flattened JWS does not have", name)
		}
		return err
	})
	if err != nil {
		return nil, malformed("the entry", err)
	}
	if e.protected == "" || len(e.payload) == 0 || len(e.signature) == 0 || e.uniqueID == "" {
		return nil, bad("the entry lacks payload, protected, header or signature")
	}
	return e, nil
}

// malformed refuses an entry for a reason that may be shown: our own, not a
// library's.
func malformed(what string, err error) error {
	if f := fault.Of(err); f.Code != fault.Unexpected {
		return f
	}
	return fault.Wrap(fault.ManifestEntry, err, what+" is malformed")
}

// payload is the signed statement about a chip.
type payload struct {
	model, chipType string
	uniqueID        string
	provisioned     time.Time
	keys            []jwk
	secrets         bool
}

// jwk is a public key with the number of its slot.
type jwk struct {
	slot, kty, crv string
	x, y           []byte
	chain          [][]byte
}

func parsePayload(raw []byte) (*payload, error) {
	p := new(payload)
	var version, partNumber, provisioned string
	err := members(raw, func(name string, value []byte) (err error) {
		switch name {
		case "version":
			version = string(value)
		case "model":
			p.model, err = text(value)
		case "partNumber":
			partNumber, err = text(value)
		case "uniqueId":
			p.uniqueID, err = text(value)
		case "provisioningTimestamp":
			provisioned, err = text(value)
		case "publicKeySet":
			err = p.keySet(value)
		case "encryptedSecretKeySet":
			p.secrets = true
		}
		return err
	})
	if err != nil {
		return nil, malformed("the payload", err)
	}
	if p.chipType = partNumber; p.chipType == "" {
		p.chipType = p.model
	}
	if version != "1" && version != "2" {
		return nil, bad("the payload's version %.8s is not known", version)
	}
	if !isMicrochipUID(p.uniqueID) {
		return nil, bad("the uniqueId %.32q is not nine octets in lower-case hex that begin with 0123", p.uniqueID)
	}
	if p.provisioned, err = time.Parse(time.RFC3339, provisioned); err != nil {
		return nil, bad("the provisioningTimestamp is not a time of RFC 3339")
	}
	return p, nil
}

func isMicrochipUID(s string) bool {
	if len(s) != 18 || !strings.HasPrefix(s, "0123") {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
}

func (p *payload) keySet(raw []byte) error {
	return members(raw, func(name string, value []byte) error {
		if name != "keys" {
			return nil
		}
		return elements(value, func(value []byte) error {
			if len(p.keys) >= maxKeys {
				return fault.New(fault.ManifestLimit, "a chip has more than", maxKeys, "keys")
			}
			k, err := parseJWK(value)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(p.keys, func(other jwk) bool { return other.slot == k.slot }) {
				return bad("slot %s has two keys", k.slot)
			}
			p.keys = append(p.keys, k)
			return nil
		})
	})
}

func parseJWK(raw []byte) (k jwk, err error) {
	err = members(raw, func(name string, value []byte) (err error) {
		switch name {
		case "kid":
			k.slot, err = text(value)
		case "kty":
			k.kty, err = text(value)
		case "crv":
			k.crv, err = text(value)
		case "x":
			k.x, err = octets(value, base64url)
		case "y":
			k.y, err = octets(value, base64url)
		case "d":
			err = bad("the entry holds a private key: it is no secret any more")
		case "x5c":
			err = elements(value, func(value []byte) error {
				der, err := octets(value, base64std)
				if k.chain = append(k.chain, der); len(k.chain) > maxChain {
					return fault.New(fault.ManifestLimit, "a key has more than", maxChain, "certificates")
				}
				return err
			})
		}
		return err
	})
	if err != nil {
		return k, malformed("a key", err)
	}
	if slot, err := strconv.ParseUint(k.slot, 10, 8); err != nil || strconv.FormatUint(slot, 10) != k.slot {
		return k, bad("a key's kid %.16q is not the number of a slot", k.slot)
	}
	if k.kty != "EC" || k.crv != elliptic.P256().Params().Name || len(k.x) != 32 || len(k.y) != 32 {
		return k, bad("the key in slot %s is not a P-256 key", k.slot)
	}
	return k, nil
}

// microchipKey checks a key and, where it has one, its certificate.
func (im *importing) microchipKey(k *jwk, p *payload, remark func(string)) (Key, error) {
	key := Key{Slot: k.slot, SPKI: slices.Concat(p256Prefix, k.x, k.y), Chain: k.chain}
	if err := checkKey(key.SPKI); err != nil {
		return key, err
	}
	if len(k.chain) == 0 {
		return key, nil
	}
	leaf, err := x509.ParseCertificate(k.chain[0])
	if err != nil {
		return key, bad("the certificate in slot %s is malformed", k.slot)
	}
	if string(leaf.RawSubjectPublicKeyInfo) != string(key.SPKI) {
		return key, bad("the certificate in slot %s is for another key than the entry's", k.slot)
	}
	if want := "sn" + strings.ToUpper(p.uniqueID); leaf.Subject.CommonName != want {
		return key, bad("the certificate in slot %s is for %.40q, not %s", k.slot, leaf.Subject.CommonName, want)
	}
	if !serialFollows(leaf, k.x, k.y) {
		remark("the certificate's serial number does not follow from key and dates, as the compressed form asks")
	}
	key.VendorProof, err = im.anchors.prove(leaf, k.chain[1:], p.provisioned, remark)
	return key, err
}
