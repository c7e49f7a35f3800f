package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// keys are made with the database. hash turns what is looked up by value into
// row numbers that nobody outside can aim at; serial hides the dense numbers of
// credentials in certificate serials.
type keys struct {
	hash [32]byte
	spki cipher.Block
	ids  cipher.Block
}

// loadKeys reads the keys, or makes them with a new database.
func (s *Store) loadKeys(ctx context.Context) error {
	if !s.cfg.ReadOnly {
		if err := s.makeKeys(ctx); err != nil {
			return err
		}
	}
	var serialKey [16]byte
	if err := s.read.row(ctx, "SELECT hash_key, serial_key FROM store_key WHERE id = 1").Scan(fixed(s.keys.hash[:]), fixed(serialKey[:])); err != nil {
		if noRows(err) {
			err = fault.Wrap(fault.SchemaCorrupt, err, "the register's keys are missing")
		}
		return err
	}
	var err error
	if s.keys.ids, err = aes.NewCipher(serialKey[:]); err != nil {
		return err
	}
	s.keys.spki, err = aes.NewCipher(s.keys.hash[16:])
	return err
}

// makeKeys makes the keys of an empty database. One that has a ledger had keys,
// and nothing in it would be found under new ones.
func (s *Store) makeKeys(ctx context.Context) error {
	size, err := s.LedgerSize(ctx)
	if err != nil || size > 0 {
		return err
	}
	var fresh [48]byte
	if _, err := io.ReadFull(s.cfg.Rand, fresh[:]); err != nil {
		return fmt.Errorf("keys of the register: %w", err)
	}
	t, err := s.engine.begin(ctx)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, "INSERT INTO store_key (id, hash_key, serial_key) VALUES (1, $1, $2) ON CONFLICT DO NOTHING", fresh[:32], fresh[32:]); err != nil {
		t.rollback()
		return err
	}
	return t.commit(ctx)
}

// rowNumber makes a positive 63-bit number of the first octets of a PRF's output.
func rowNumber(prf []byte) int64 {
	return int64(max(binary.BigEndian.Uint64(prf)>>1, 1))
}

// DeviceID returns the id of a device serial, registered or not.
func (s *Store) DeviceID(deviceSerial string) device.ID {
	h := hmac.New(sha256.New, s.keys.hash[:16])
	io.WriteString(h, deviceSerial) //nolint:errcheck // a hash does not fail
	return device.ID(rowNumber(h.Sum(nil)))
}

// spkiRow is the row of a public key: CBC-MAC over the two blocks of its
// digest, a PRF for inputs of one length. That two keys of a database's life
// meet in one row has odds of about one in ten thousand; the second is refused
// as in use.
func (s *Store) spkiRow(digest *[32]byte) int64 {
	var b [16]byte
	s.keys.spki.Encrypt(b[:], digest[:16])
	for i := range b {
		b[i] ^= digest[16+i]
	}
	s.keys.spki.Encrypt(b[:], b[:])
	return rowNumber(b[:])
}

// serialLead is the first octet of every certificate serial: positive, and
// never zero, so that all serials have one length.
const serialLead = 0x4b

// serialSize is the length of a certificate serial's content octets.
const serialSize = 1 + aes.BlockSize

// CertSerial returns the certificate serial of an id of this lease: a fixed
// positive first octet, then AES(key, id || 8 octets of the seed's stream).
func (s *Store) CertSerial(l device.SerialLease, id device.CredentialID) []byte {
	stream, err := aes.NewCipher(l.Seed[:])
	if err != nil {
		panic(err) // 32 octets are an AES-256 key
	}
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	var salt [aes.BlockSize]byte
	stream.Encrypt(salt[:], b[:])
	copy(b[8:], salt[:8])
	out := make([]byte, serialSize)
	out[0] = serialLead
	s.keys.ids.Encrypt(out[1:], b[:])
	return out
}

// openSerial returns the id that a certificate serial names, if it can be one of
// ours; the row has the whole serial to compare with.
func (s *Store) openSerial(certSerial []byte) (device.CredentialID, bool) {
	if len(certSerial) != serialSize || certSerial[0] != serialLead {
		return 0, false
	}
	var b [aes.BlockSize]byte
	s.keys.ids.Decrypt(b[:], certSerial[1:])
	id := binary.BigEndian.Uint64(b[:])
	return device.CredentialID(id), id > 0 && id < 1<<62
}
