package authority

import (
	"unicode/utf8"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// maxHardware is how many characters each word on an HSM may have.
const maxHardware = 128

// check refuses words that people could not read in a record. Whether they are
// true is for the ceremony's witnesses: nothing here can see into an HSM.
func (h Hardware) check() error {
	for _, text := range []string{h.Model, h.Certificate, h.Level} {
		if utf8.RuneCountInString(text) > maxHardware || !profile.Text(text) {
			return fault.New(fault.AuthorityInvalid, "model, certificate and level of an HSM have at most", maxHardware, "printable characters each")
		}
	}
	if h.Model == "" && h != (Hardware{}) {
		return fault.New(fault.AuthorityInvalid, "the HSM's model is missing")
	}
	return nil
}
