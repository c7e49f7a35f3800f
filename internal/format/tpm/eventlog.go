package tpm

// EventLog is a crypto-agile event log (TCG PC Client Platform Firmware Profile,
// section 10).
type EventLog struct {
	Banks    []Alg
	Events   []Event
	Locality byte // from which the TPM was started: 0, 3 or 4
}

// Event is an entry of the log.
type Event struct {
	PCR      int
	Type     uint32
	Digests  map[Alg][]byte
	Data     []byte
	Verified bool // each digest is that of Data; where not, Data is text that nobody measured
}

// ParseEventLog reads a log; refusals are EventLogInvalid. The result shares b's
// memory.
func ParseEventLog(b []byte) (*EventLog, error) { return nil, malformed("event log") }

// Replay returns the values to which the log leads, for the registers that it
// extends. It returns nil where the log has no digests for the bank.
func (l *EventLog) Replay(bank Alg) map[int][]byte { return nil }
