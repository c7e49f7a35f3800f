package tpm

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"

	"github.com/birthmark/birthmark/internal/fault"
)

// EventLog is a crypto-agile event log (TCG PC Client Platform Firmware Profile,
// section 10): what firmware measured into the registers, in the order in which it
// did. It proves nothing before Replay leads to registers that a TPM quoted.
type EventLog struct {
	Banks    []Alg   // hashes of the log, in its order; may hold some that we do not know
	Events   []Event // without the first, which describes the log
	Locality byte    // from which the TPM was started: 0, 3 or 4
}

// Event is an entry of the log.
type Event struct {
	PCR     int // -1 where the event is of no register
	Type    uint32
	Digests [][]byte // one for each of the log's banks, in the order of the banks
	Data    []byte

	// Verified says that the digests are Data's. Where they are not, Data is text
	// that nobody measured: it must not be believed.
	Verified bool
}

// Types of events that mean something here.
const (
	EventNoAction  uint32 = 0x00000003 // information about the log; extends nothing
	EventSeparator uint32 = 0x00000004
	EventIPL       uint32 = 0x0000000D // boot loaders put their text here
)

// What a log may hold at most.
const (
	MaxEventLog = 320 << 10 // octets
	maxEvents   = 8192
	maxLogBanks = 8
	maxPCR      = 23
)

const (
	specSignature     = "Spec ID Event03\x00"
	localitySignature = "StartupLocality\x00"
)

// ParseEventLog reads a log; refusals are EventLogInvalid. Each event must have
// one digest for each bank that the first event names. The result shares b's
// memory.
func ParseEventLog(b []byte) (*EventLog, error) {
	if len(b) > MaxEventLog {
		return nil, badLog("length")
	}
	r := &logReader{rest: b}
	l := &EventLog{}
	sizes := l.readHead(r)
	if r.failed {
		return nil, badLog("first event")
	}
	seen := false
	for len(r.rest) > 0 {
		if len(l.Events) == maxEvents {
			return nil, badLog("too many events")
		}
		e := l.readEvent(r, sizes)
		if r.failed {
			return nil, badLog("event")
		}
		locality, ok := startupLocality(e)
		if ok && (seen || locality != 0 && locality != 3 && locality != 4) {
			return nil, badLog("startup locality")
		}
		if ok {
			seen, l.Locality = true, locality
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

func badLog(what string) error { return fault.New(fault.EventLogInvalid, what) }

// readHead reads the first event, which has the form of TPM 1.2 and says which
// hashes the others use (section 10.4.5.1). It returns the lengths of their
// digests.
func (l *EventLog) readHead(r *logReader) []int {
	pcr, kind, digest := r.u32(), r.u32(), r.take(20)
	head := &logReader{rest: r.take(int(r.u32()))}
	if r.failed || pcr != 0 || kind != EventNoAction || !zeros(digest) || string(head.take(len(specSignature))) != specSignature {
		r.failed = true
		return nil
	}
	head.take(4 + 4) // class of the platform; version of the document and of its words
	n := head.u32()
	if n == 0 || n > maxLogBanks {
		r.failed = true
		return nil
	}
	var sizes []int
	for range n {
		bank, size := Alg(head.u16()), int(head.u16())
		hash := bank.Hash()
		known := hash == 0 || hash.Size() == size
		if head.failed || !known || size == 0 || size > maxDigest || l.bank(bank) >= 0 {
			r.failed = true
			return nil
		}
		l.Banks, sizes = append(l.Banks, bank), append(sizes, size)
	}
	head.take(int(head.u8())) // whatever the maker wrote
	r.failed = r.failed || head.failed || len(head.rest) > 0
	return sizes
}

// bank returns where the bank stands in the log, or -1.
func (l *EventLog) bank(a Alg) int {
	for i, b := range l.Banks {
		if a == b {
			return i
		}
	}
	return -1
}

// readEvent reads a TCG_PCR_EVENT2 (section 10.2.2).
func (l *EventLog) readEvent(r *logReader, sizes []int) Event {
	pcr := r.u32()
	e := Event{PCR: int(pcr), Type: r.u32(), Digests: make([][]byte, len(sizes))}
	if r.u32() != uint32(len(sizes)) {
		r.failed = true
	}
	for range sizes {
		i := l.bank(Alg(r.u16()))
		if r.failed || i < 0 || e.Digests[i] != nil {
			r.failed = true
			return e
		}
		e.Digests[i] = r.take(sizes[i])
	}
	e.Data = r.take(int(r.u32()))
	if pcr > maxPCR {
		// Events that extend nothing may name no register.
		r.failed = r.failed || e.Type != EventNoAction
		e.PCR = -1
	}
	if !r.failed && e.Type != EventNoAction {
		e.Verified = l.measured(e)
	}
	return e
}

// measured says whether the digests are those of the data, in all banks that we
// know and at least in one.
func (l *EventLog) measured(e Event) bool {
	known := false
	for i, bank := range l.Banks {
		hash := bank.Hash()
		if hash == 0 {
			continue
		}
		known = true
		h := hash.New()
		h.Write(e.Data)
		if subtle.ConstantTimeCompare(h.Sum(nil), e.Digests[i]) == 0 {
			return false
		}
	}
	return known
}

// startupLocality returns the locality where the event tells it (section 10.4.5.3).
func startupLocality(e Event) (byte, bool) {
	if e.Type != EventNoAction || e.PCR != 0 || len(e.Data) != len(localitySignature)+1 ||
		!bytes.HasPrefix(e.Data, []byte(localitySignature)) {
		return 0, false
	}
	return e.Data[len(localitySignature)], true
}

// Replay returns the values to which the log leads in a bank, for the registers
// that it extends. It returns nil where the log has no digests for the bank, or we
// do not know its hash.
func (l *EventLog) Replay(bank Alg) map[int][]byte {
	i, hash := l.bank(bank), bank.Hash()
	if i < 0 || hash == 0 {
		return nil
	}
	h := hash.New()
	values := make(map[int][]byte)
	for _, e := range l.Events {
		if e.Type == EventNoAction {
			continue
		}
		value, ok := values[e.PCR]
		if !ok {
			value = make([]byte, h.Size())
			if e.PCR == 0 {
				value[len(value)-1] = l.Locality
			}
		}
		h.Reset()
		h.Write(value)
		h.Write(e.Digests[i])
		values[e.PCR] = h.Sum(value[:0])
	}
	return values
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// logReader is as reader, for the little-endian integers of the log.
type logReader struct {
	rest   []byte
	failed bool
}

func (r *logReader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.rest) {
		r.failed = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *logReader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *logReader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *logReader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}
