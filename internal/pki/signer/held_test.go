package signer

import (
	"bytes"
	"crypto"
	"testing"
)

// What must be held whole is held within bounds that all share.
func TestHeldStreamsShareTheirBounds(t *testing.T) {
	list := realBytes(t)[1]
	held := 0
	if _, message, _, err := readStream(bytes.NewReader(list), 0, func(n int) bool { held += n; return true }); err != nil || !bytes.Equal(message, list) || held != len(list) {
		t.Errorf("%d octets held, %v", held, err)
	}
	if _, _, _, err := readStream(bytes.NewReader(list), 0, func(int) bool { return false }); err == nil {
		t.Error("held beyond the bound")
	}
	if _, _, _, err := readStream(bytes.NewReader(list), crypto.SHA256, nil); err != nil {
		t.Error(err)
	}
}
