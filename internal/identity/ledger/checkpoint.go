package ledger

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/birthmark/birthmark/internal/fault"
)

// checkpointText returns what is signed (C2SP tlog-checkpoint): origin, size
// and root, a line each.
func checkpointText(origin string, size int64, root Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)
}

// signCheckpoint returns the signed note over a tree head.
func signCheckpoint(s Signer, size int64, root Hash, at int64) (Checkpoint, error) {
	signed, err := note.Sign(&note.Note{Text: checkpointText(s.Name(), size, root)}, s)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint of size %d: %w", size, err)
	}
	return Checkpoint{Size: size, Root: root, Note: signed, At: at}, nil
}

// OpenCheckpoint reads a signed checkpoint and checks that one of the verifiers
// signed it. The verifier's name must be the checkpoint's origin, so that a
// checkpoint of another ledger is not taken for one of this. Refusals are
// fault.CheckpointBad.
func OpenCheckpoint(signed []byte, known ...note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(known...))
	if err != nil {
		return Checkpoint{}, fault.Wrap(fault.CheckpointBad, err, "the signature")
	}
	c, origin, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if origin != n.Sigs[0].Name {
		return Checkpoint{}, fault.New(fault.CheckpointBad, "it is of another ledger:", strconv.Quote(origin))
	}
	c.Note = signed
	return c, nil
}

// parseCheckpoint reads a checkpoint's text without looking at signatures.
func parseCheckpoint(text string) (c Checkpoint, origin string, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" || lines[len(lines)-1] != "" {
		return c, "", fault.New(fault.CheckpointBad, "it needs three lines")
	}
	if slices.Contains(lines[3:len(lines)-1], "") {
		return c, "", fault.New(fault.CheckpointBad, "an empty line")
	}
	c.Size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || c.Size < 0 || strconv.FormatInt(c.Size, 10) != lines[1] {
		return c, "", fault.New(fault.CheckpointBad, "the size")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != hashSize || base64.StdEncoding.EncodeToString(root) != lines[2] {
		return c, "", fault.New(fault.CheckpointBad, "the root hash")
	}
	c.Root = Hash(root)
	return c, lines[0], nil
}

// noteSigner signs notes with a key of the keystore.
type noteSigner struct {
	note.Verifier
	key  crypto.Signer
	rand io.Reader
}

// Signer signs checkpoints and verifies them; its name is their origin.
type Signer interface {
	note.Signer
	note.Verifier
}

// NewSigner returns a signer of checkpoints over an Ed25519 key. The name is
// the checkpoint's origin.
func NewSigner(name string, key crypto.Signer, rand io.Reader) (Signer, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the checkpoint key is %T, not Ed25519", key.Public())
	}
	v, err := NewVerifier(name, public)
	if err != nil {
		return nil, err
	}
	return &noteSigner{v, key, rand}, nil
}

// NewVerifier returns the verifier of checkpoints that belongs to NewSigner.
func NewVerifier(name string, public ed25519.PublicKey) (note.Verifier, error) {
	text, err := VerifierKey(name, public)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

// VerifierKey returns the text form of a verifier's key
// (name+hash+base64), as log tools take it.
func VerifierKey(name string, public ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(name, public)
}

var errSignature = errors.New("the key made a signature that does not verify")

// Sign implements note.Signer. The signature is checked before it is used:
// two of a faulty key give the key away.
func (s *noteSigner) Sign(msg []byte) ([]byte, error) {
	sig, err := crypto.SignMessage(s.key, s.rand, msg, crypto.Hash(0))
	if err != nil {
		return nil, err
	}
	if !s.Verify(msg, sig) {
		return nil, errSignature
	}
	return sig, nil
}
