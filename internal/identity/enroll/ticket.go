package enroll

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/device"
)

// ticketLife is how long a challenge may be answered.
const ticketLife = 10 * time.Minute

// ticketVersion is the first octet of a sealed ticket, and ticketLabel keeps what
// is sealed from being taken for anything else under the same key.
const (
	ticketVersion = 1
	ticketLabel   = "birthmark attestation ticket v1"
)

// asked is who asks for what: a challenge is good for the same alone.
type asked struct {
	station, order int64 // 0: the device itself asks
	device         device.ID
	deviceSerial   string
	requester      [32]byte // SHA-256 of what stands for the device's credential; zero for a station
	label          string
}

// ticket is a challenge as the server remembers it: sealed, and kept by whoever
// has to answer it, so that a challenge writes nothing. Its id is spent in the
// transaction that stores the certificate, or when a wrong answer shows.
type ticket struct {
	ref     device.Ticket
	by      asked
	secret  [32]byte // SHA-256 of what the credential holds
	nonce   [32]byte
	grounds [32]byte // see makers.grounds

	tpm tpm.TPM
}

// newTicket draws a ticket and the secret of its credential.
func newTicket(by asked, now time.Time, random io.Reader) (t *ticket, secret [32]byte, err error) {
	t = &ticket{by: by}
	t.ref.ExpiresAt = now.Add(ticketLife)
	binary.BigEndian.PutUint64(t.ref.ID[:8], uint64(now.UnixMicro()))
	for _, drawn := range [][]byte{t.ref.ID[8:], secret[:], t.nonce[:]} {
		if _, err := io.ReadFull(random, drawn); err != nil {
			return nil, secret, fmt.Errorf("a challenge's secret: %w", err)
		}
	}
	t.secret = sha256.Sum256(secret[:])
	return t, secret, nil
}

// opened reports whether an answer has the secret of the ticket's credential.
func (t *ticket) opened(secret []byte) bool {
	got := sha256.Sum256(secret)
	return subtle.ConstantTimeCompare(got[:], t.secret[:]) == 1
}

// check says why a ticket is not good for this requester now.
func (t *ticket) check(by asked, now time.Time) error {
	if now.After(t.ref.ExpiresAt) {
		return fault.New(fault.TicketExpired)
	}
	if t.by != by {
		return fault.New(fault.TicketOther)
	}
	return nil
}

func (t *ticket) marshal() ([]byte, error) {
	what, err := t.tpm.MarshalBinary()
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(what)+256))
	b.AddBytes(t.ref.ID[:])
	for _, n := range []uint64{uint64(t.ref.ExpiresAt.UnixMicro()), uint64(t.by.station), uint64(t.by.order), uint64(t.by.device)} {
		b.AddUint64(n)
	}
	for _, d := range [][]byte{t.by.requester[:], t.secret[:], t.nonce[:], t.grounds[:]} {
		b.AddBytes(d)
	}
	for _, text := range []string{t.by.deviceSerial, t.by.label} {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
	}
	b.AddBytes(what)
	return b.Bytes()
}

func (t *ticket) unmarshal(octets []byte) bool {
	in := cryptobyte.String(octets)
	var expires, station, order, dev uint64
	ok := in.CopyBytes(t.ref.ID[:]) && in.ReadUint64(&expires) && in.ReadUint64(&station) && in.ReadUint64(&order) && in.ReadUint64(&dev) &&
		in.CopyBytes(t.by.requester[:]) && in.CopyBytes(t.secret[:]) && in.CopyBytes(t.nonce[:]) && in.CopyBytes(t.grounds[:])
	var deviceSerial, label cryptobyte.String
	if !ok || !in.ReadUint16LengthPrefixed(&deviceSerial) || !in.ReadUint16LengthPrefixed(&label) {
		return false
	}
	t.ref.ExpiresAt = time.UnixMicro(int64(expires))
	t.by.station, t.by.order, t.by.device = int64(station), int64(order), device.ID(dev)
	t.by.deviceSerial, t.by.label = string(deviceSerial), string(label)
	return t.tpm.UnmarshalBinary(in) == nil
}

// tickets seals and opens tickets under the installation's key, which is read
// once.
type tickets struct {
	store AttestStore
	mu    sync.Mutex
	aead  cipher.AEAD // guarded by mu; nil: not read yet
	key   [32]byte    // guarded by mu
}

// sealer returns the AEAD of the installation's key.
func (s *tickets) sealer(ctx context.Context) (cipher.AEAD, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead != nil {
		return s.aead, nil
	}
	key, err := s.store.TicketKey(ctx)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block) // the one form that FIPS 140-3 approves
	if err != nil {
		return nil, err
	}
	s.aead, s.key = aead, key
	return aead, nil
}

// seal returns the ticket as it travels.
func (s *tickets) seal(ctx context.Context, t *ticket) ([]byte, error) {
	aead, err := s.sealer(ctx)
	if err != nil {
		return nil, err
	}
	content, err := t.marshal()
	if err != nil {
		return nil, err
	}
	return aead.Seal([]byte{ticketVersion}, nil, content, []byte(ticketLabel)), nil
}

// open reads a ticket of ours, whoever shows it and whenever. All else is
// fault.TicketInvalid.
func (s *tickets) open(ctx context.Context, sealed []byte) (*ticket, error) {
	if len(sealed) == 0 || sealed[0] != ticketVersion {
		return nil, fault.New(fault.TicketInvalid)
	}
	aead, err := s.sealer(ctx)
	if err != nil {
		return nil, err
	}
	content, err := aead.Open(nil, nil, sealed[1:], []byte(ticketLabel))
	if err != nil {
		return nil, fault.New(fault.TicketInvalid)
	}
	t := new(ticket)
	if !t.unmarshal(content) {
		return nil, fault.New(fault.TicketInvalid)
	}
	return t, nil
}
