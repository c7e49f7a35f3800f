// Package tpmtest writes event logs for tests: swtpm has no firmware, so there is
// no log but the one that a test makes beside the registers that it extends.
package tpmtest

import (
	"encoding/binary"

	"github.com/birthmark/birthmark/internal/format/tpm"
)

// Log writes a crypto-agile event log. Its methods return it, so that a log reads
// as a list.
type Log struct {
	banks  []tpm.Alg
	octets []byte
	values []map[int][]byte // of each bank
	start  byte
}

// NewLog starts a log with digests for these banks.
func NewLog(banks ...tpm.Alg) *Log {
	head := []byte("Spec ID Event03\x00")
	head = append(head, 0, 0, 0, 0, 0, 2, 0, 2) // platform class, version 2.0, errata, words of 64 bits
	head = binary.LittleEndian.AppendUint32(head, uint32(len(banks)))
	for _, b := range banks {
		head = binary.LittleEndian.AppendUint16(head, uint16(b))
		head = binary.LittleEndian.AppendUint16(head, uint16(b.Hash().Size()))
	}
	head = append(head, 0)

	l := &Log{banks: banks}
	for range banks {
		l.values = append(l.values, make(map[int][]byte))
	}
	l.u32(0, tpm.EventNoAction)
	l.octets = append(l.octets, make([]byte, 20)...)
	l.u32(uint32(len(head)))
	l.octets = append(l.octets, head...)
	return l
}

// StartedFrom says from which locality the TPM was started; it must come first.
func (l *Log) StartedFrom(locality byte) *Log {
	l.start = locality
	zeros := make([][]byte, len(l.banks))
	for i, b := range l.banks {
		zeros[i] = make([]byte, b.Hash().Size())
	}
	return l.entry(0, tpm.EventNoAction, append([]byte("StartupLocality\x00"), locality), zeros)
}

// Measure adds an event whose digests are those of its data, as EV_SEPARATOR and
// EV_ACTION have it.
func (l *Log) Measure(pcr int, kind uint32, data []byte) *Log {
	return l.Event(pcr, kind, data, data)
}

// Event adds an event that measures one thing and tells another, as for boot
// loaders and firmware volumes.
func (l *Log) Event(pcr int, kind uint32, told, measured []byte) *Log {
	digests := make([][]byte, len(l.banks))
	for i, b := range l.banks {
		digests[i] = sum(b, measured)
		value, ok := l.values[i][pcr]
		if !ok {
			value = make([]byte, b.Hash().Size())
			if pcr == 0 {
				value[len(value)-1] = l.start
			}
		}
		l.values[i][pcr] = sum(b, value, digests[i])
	}
	return l.entry(pcr, kind, told, digests)
}

// Raw adds octets as they are, to spoil a log.
func (l *Log) Raw(octets ...byte) *Log {
	l.octets = append(l.octets, octets...)
	return l
}

// Bytes returns the log so far.
func (l *Log) Bytes() []byte { return append([]byte(nil), l.octets...) }

// Values returns what the registers of a bank hold after the events, or nil where
// the log has no such bank.
func (l *Log) Values(bank tpm.Alg) map[int][]byte {
	for i, b := range l.banks {
		if b == bank {
			return l.values[i]
		}
	}
	return nil
}

func (l *Log) entry(pcr int, kind uint32, data []byte, digests [][]byte) *Log {
	l.u32(uint32(pcr), kind, uint32(len(digests)))
	for i, d := range digests {
		l.octets = binary.LittleEndian.AppendUint16(l.octets, uint16(l.banks[i]))
		l.octets = append(l.octets, d...)
	}
	l.u32(uint32(len(data)))
	l.octets = append(l.octets, data...)
	return l
}

func (l *Log) u32(values ...uint32) {
	for _, v := range values {
		l.octets = binary.LittleEndian.AppendUint32(l.octets, v)
	}
}

func sum(bank tpm.Alg, parts ...[]byte) []byte {
	h := bank.Hash().New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}
