package tpm

import (
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// KeyFile is a TSS2 private key (draft-bottomley-tpm2-keys): a key that only the
// TPM it was made in can load. OpenSSL's tpm2 provider reads it.
type KeyFile struct {
	EmptyAuth bool   // the key has no password
	Parent    uint32 // handle of the parent, or of the hierarchy in which the parent is made
	Public    []byte // TPM2B_PUBLIC, with its size
	Private   []byte // TPM2B_PRIVATE, with its size
}

// HierarchyOwner as a parent stands for the storage root key on P-256 of the owner
// hierarchy, which each reader makes anew.
const HierarchyOwner uint32 = 0x40000001

const (
	keyFileType = "TSS2 PRIVATE KEY"
	maxKeyFile  = 16 << 10
)

// oidLoadableKey is the type of a key as TPM2_Create returns it.
var oidLoadableKey = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// Tags of the optional fields, all explicit.
var (
	tagEmptyAuth   = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagDescription = cbasn1.Tag(4).ContextSpecific().Constructed()
	tagRSAParent   = cbasn1.Tag(5).ContextSpecific().Constructed()
)

// MarshalPEM returns the key as a file.
func (k *KeyFile) MarshalPEM() ([]byte, error) {
	if !isSized(k.Public) || !isSized(k.Private) {
		return nil, malformed("key file: sizes")
	}
	var out cryptobyte.Builder
	out.AddASN1(cbasn1.SEQUENCE, func(s *cryptobyte.Builder) {
		s.AddASN1ObjectIdentifier(oidLoadableKey)
		s.AddASN1(tagEmptyAuth, func(s *cryptobyte.Builder) { s.AddASN1Boolean(k.EmptyAuth) })
		s.AddASN1Uint64(uint64(k.Parent))
		s.AddASN1OctetString(k.Public)
		s.AddASN1OctetString(k.Private)
	})
	der, err := out.Bytes()
	if err != nil {
		return nil, malformed("key file: sizes")
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyFileType, Bytes: der}), nil
}

// ParseKeyFile reads such a file; refusals are AttestMalformed. Keys with a policy,
// keys to be imported and sealed data are refused: we make none of them.
func ParseKeyFile(file []byte) (*KeyFile, error) {
	if len(file) > maxKeyFile {
		return nil, malformed("key file: length")
	}
	block, _ := pem.Decode(file)
	if block == nil || block.Type != keyFileType {
		return nil, malformed("key file: not a TSS2 private key")
	}
	k := &KeyFile{}
	if !k.read(block.Bytes) {
		return nil, malformed("key file")
	}
	if !isSized(k.Public) || !isSized(k.Private) {
		return nil, malformed("key file: sizes")
	}
	return k, nil
}

func (k *KeyFile) read(der cryptobyte.String) bool {
	var s, auth, public, private cryptobyte.String
	var hasAuth bool
	var oid asn1.ObjectIdentifier
	var parent uint64
	ok := der.ReadASN1(&s, cbasn1.SEQUENCE) && der.Empty() &&
		s.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidLoadableKey) &&
		s.ReadOptionalASN1(&auth, &hasAuth, tagEmptyAuth) &&
		s.SkipOptionalASN1(tagDescription) && s.SkipOptionalASN1(tagRSAParent) &&
		s.ReadASN1Integer(&parent) && parent <= 0xFFFFFFFF &&
		s.ReadASN1(&public, cbasn1.OCTET_STRING) &&
		s.ReadASN1(&private, cbasn1.OCTET_STRING) && s.Empty()
	if hasAuth {
		// OpenSSL writes 1 for true, which DER does not allow.
		var value cryptobyte.String
		ok = ok && auth.ReadASN1(&value, cbasn1.BOOLEAN) && auth.Empty() && len(value) == 1
		k.EmptyAuth = ok && value[0] != 0
	}
	k.Parent, k.Public, k.Private = uint32(parent), public, private
	return ok
}

// Sized returns a structure with its size before it: a TPM2B.
func Sized(b []byte) []byte { return appendSized(make([]byte, 0, 2+len(b)), b) }

// Unsized returns what a TPM2B holds, or AttestMalformed where its size is not
// that of the octets behind it.
func Unsized(b []byte) ([]byte, error) {
	if !isSized(b) {
		return nil, malformed("size")
	}
	return b[2:], nil
}

func isSized(b []byte) bool {
	return len(b) > 2 && int(binary.BigEndian.Uint16(b)) == len(b)-2
}
