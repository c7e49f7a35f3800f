package tpm

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/birthmark/birthmark/internal/fault"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
)

// Limits of a bundle.
const (
	maxRoots  = 4 << 20
	maxMakers = 1000
	maxCerts  = 2000 // of one maker, roots and intermediates each
	maxDeny   = 10_000
)

// ParseRoots reads a bundle strictly, or returns fault.RootsInvalid that says what
// is wrong with it.
func ParseRoots(content []byte) (*attest.RootsFile, error) {
	file := new(attest.RootsFile)
	if err := decode(content, maxRoots, file); err != nil {
		return nil, fault.New(fault.RootsInvalid, err)
	}
	if err := checkRoots(file); err != nil {
		return nil, fault.New(fault.RootsInvalid, err)
	}
	return file, nil
}

func checkRoots(f *attest.RootsFile) error {
	if err := checkText("name", f.Name); err != nil {
		return err
	}
	switch {
	case f.Version < 1:
		return errors.New("version: begins with 1")
	case f.IssuedAt.IsZero():
		return errors.New("issuedAt: missing")
	case len(f.Makers) == 0:
		return errors.New("makers: none")
	case len(f.Makers) > maxMakers:
		return fmt.Errorf("makers: more than %d", maxMakers)
	case len(f.Deny) > maxDeny:
		return fmt.Errorf("deny: more than %d", maxDeny)
	}
	names := map[string]bool{}
	for i := range f.Makers {
		if _, err := parseMaker(&f.Makers[i]); err != nil {
			return fmt.Errorf("maker %d: %w", i+1, err)
		}
		if names[f.Makers[i].Name] {
			return fmt.Errorf("maker %d: the name %q is taken", i+1, f.Makers[i].Name)
		}
		names[f.Makers[i].Name] = true
	}
	for i := range f.Deny {
		if _, err := parseDeny(&f.Deny[i]); err != nil {
			return fmt.Errorf("deny %d: %w", i+1, err)
		}
	}
	return nil
}

// maker is a maker of a bundle, parsed.
type maker struct {
	name          string
	vendors       []string // eight hexadecimal digits each
	roots         []*x509.Certificate
	intermediates []*x509.Certificate
}

func parseMaker(f *attest.Maker) (*maker, error) {
	if err := checkText("name", f.Name); err != nil {
		return nil, err
	}
	m := &maker{name: f.Name}
	for _, v := range f.Vendors {
		digits, ok := vendorNumber(v)
		if !ok {
			return nil, fmt.Errorf(`vendors: %q is not "id:" and eight hexadecimal digits`, v)
		}
		m.vendors = append(m.vendors, digits)
	}
	if len(f.Roots) == 0 {
		return nil, errors.New("roots: none")
	}
	seen := map[[32]byte]bool{}
	var err error
	if m.roots, err = parseAuthorities("roots", f.Roots, seen); err != nil {
		return nil, err
	}
	m.intermediates, err = parseAuthorities("intermediates", f.Intermediates, seen)
	return m, err
}

func parseAuthorities(what string, list [][]byte, seen map[[32]byte]bool) ([]*x509.Certificate, error) {
	if len(list) > maxCerts {
		return nil, fmt.Errorf("%s: more than %d", what, maxCerts)
	}
	certs := make([]*x509.Certificate, 0, len(list))
	for i, der := range list {
		if len(der) > maxCertificate {
			return nil, fmt.Errorf("%s: number %d has more than %d octets", what, i+1, maxCertificate)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: number %d is not a certificate", what, i+1)
		}
		id := sha256.Sum256(der)
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return nil, fmt.Errorf("%s: number %d is not a CA's", what, i+1)
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, fmt.Errorf("%s: number %d may not sign certificates", what, i+1)
		case seen[id]:
			return nil, fmt.Errorf("%s: number %d is given twice", what, i+1)
		}
		if why := keyWrong(c.PublicKey); why != "" {
			return nil, fmt.Errorf("%s: number %d has %s", what, i+1, why)
		}
		seen[id] = true
		certs = append(certs, c)
	}
	return certs, nil
}

// denial is an entry of a deny list, parsed.
type denial struct {
	vendor                     string // eight hexadecimal digits; empty: any
	model                      string
	ranged                     bool // versions count
	versionFrom, versionTo     uint32
	firmwareFrom, firmwareUpTo uint64 // up to 0: any
	reason                     string
}

func parseDeny(f *attest.Deny) (denial, error) {
	d := denial{model: f.Model, reason: f.Reason, firmwareFrom: f.FirmwareFrom, firmwareUpTo: f.FirmwareTo}
	if err := checkText("reason", f.Reason); err != nil {
		return d, err
	}
	if f.Vendor != "" {
		var ok bool
		if d.vendor, ok = vendorNumber(f.Vendor); !ok {
			return d, fmt.Errorf(`vendor: %q is not "id:" and eight hexadecimal digits`, f.Vendor)
		}
	}
	var err error
	d.versionTo = 1<<32 - 1
	if d.ranged = f.VersionFrom != "" || f.VersionTo != ""; d.ranged {
		if d.versionFrom, err = versionNumber("versionFrom", f.VersionFrom, d.versionFrom); err != nil {
			return d, err
		}
		if d.versionTo, err = versionNumber("versionTo", f.VersionTo, d.versionTo); err != nil {
			return d, err
		}
	}
	switch {
	case d.vendor == "" && d.model == "" && !d.ranged && !d.byFirmware():
		return d, errors.New("it names nothing, so it would deny everything")
	case d.versionFrom > d.versionTo:
		return d, errors.New("versionFrom: after versionTo")
	case d.firmwareUpTo != 0 && d.firmwareFrom > d.firmwareUpTo:
		return d, errors.New("firmwareFrom: after firmwareTo")
	case d.byFirmware() && d.vendor == "":
		return d, errors.New("vendor: missing, and firmware versions are each vendor's own")
	}
	return d, nil
}

// versionNumber reads "id:00010003".
func versionNumber(what, text string, missing uint32) (uint32, error) {
	if text == "" {
		return missing, nil
	}
	digits, ok := strings.CutPrefix(text, "id:")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil || len(digits) != 8 {
		return 0, fmt.Errorf(`%s: %q is not "id:" and eight hexadecimal digits`, what, text)
	}
	return uint32(n), nil
}

func (d *denial) byFirmware() bool { return d.firmwareFrom != 0 || d.firmwareUpTo != 0 }

// names reports whether the entry is about TPMs of this vendor, model and version.
// A version that cannot be read is within every range: a denied TPM must not slip
// through by its spelling.
func (d *denial) names(n wire.EKNames) bool {
	if vendor, ok := vendorNumber(n.Manufacturer); d.vendor != "" && (!ok || vendor != d.vendor) {
		return false
	}
	if d.model != "" && !strings.EqualFold(d.model, n.Model) {
		return false
	}
	if !d.ranged {
		return true
	}
	version, ok := n.Firmware()
	return !ok || d.versionFrom <= version && version <= d.versionTo
}

// checkDenied refuses what is denied whatever its firmware. The names are those of
// the EK certificate; a TPM without one can only be taken off its list.
func (t *Trust) checkDenied(n wire.EKNames) error {
	for i := range t.denied {
		if d := &t.denied[i]; !d.byFirmware() && d.names(n) {
			return fault.New(fault.EKDenied, d.reason)
		}
	}
	return nil
}

// CheckFirmware refuses a TPM whose firmware is on the deny list with
// fault.EKDenied. A TPM of a vendor and model with denied firmware that masks its
// own, because the AK is not in the endorsement hierarchy, is refused as well: it
// could hide no better.
func (t *Trust) CheckFirmware(x *TPM, c Counters) error {
	if !t.deniesFirmware {
		return nil
	}
	names, ok := x.names()
	if !ok {
		return nil
	}
	for i := range t.denied {
		d := &t.denied[i]
		switch {
		case !d.byFirmware() || !d.names(names):
		case !c.Plain:
			return fault.New(fault.EKDenied, d.reason, "(some firmware of this model; make the attestation key in the endorsement hierarchy, so that it can be told)")
		case d.firmwareFrom <= c.Firmware && (d.firmwareUpTo == 0 || c.Firmware <= d.firmwareUpTo):
			return fault.New(fault.EKDenied, d.reason)
		}
	}
	return nil
}
