package tpm

// EKNames is what the maker of a TPM says of it in the certificate of its
// endorsement key (TCG EK Credential Profile, section 3.1.2).
type EKNames struct {
	Manufacturer string // "id:494E5443"
	Model        string
	Version      string // "id:00010002"
}

// Vendor returns the four characters of the manufacturer's number without what
// fills them up ("INTC", "IFX"), or nothing where it is not of that form.
func (n EKNames) Vendor() string { return "" }

// Firmware returns the number of Version, and whether it is of the form "id:" and
// eight hexadecimal digits.
func (n EKNames) Firmware() (uint32, bool) { return 0, false }

// ParseEKNames reads the value of a subjectAltName extension: exactly one
// directoryName with each of 2.23.133.2.1, .2 and .3 once, in one set or in
// several, in any order. Other names beside it are passed over. Refusals are
// EKCertificate.
func ParseEKNames(san []byte) (EKNames, error) { return EKNames{}, nil }
