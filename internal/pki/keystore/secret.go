package keystore

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a passphrase. However it is printed, logged or marshaled, it shows
// as [secret].
type Secret []byte

const hidden = "[secret]"

// String returns [secret].
func (Secret) String() string { return hidden }

// GoString returns [secret].
func (Secret) GoString() string { return hidden }

// Format prints [secret] whatever the verb; %d would print the octets.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue returns [secret].
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns [secret], which is also its form in YAML and as a key.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON returns [secret] as a string.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// passphraseAlphabet has 32 characters, none of which looks like another.
const passphraseAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// NewPassphrase returns a passphrase of 28 characters in seven groups, which is
// 140 random bits. It panics if random fails: no key may be made then.
func NewPassphrase(random io.Reader) Secret {
	var bits [28]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		panic("keystore: no randomness for a passphrase: " + err.Error())
	}
	p := make(Secret, 0, len(bits)+6)
	for i, b := range bits {
		if i > 0 && i%4 == 0 {
			p = append(p, '-')
		}
		p = append(p, passphraseAlphabet[b%32])
	}
	return p
}
