package lint

import (
	"strings"
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

func TestStatusURL(t *testing.T) {
	tests := []struct {
		url              string
		good, quickstart bool
	}{
		{"http://pki.example.com", true, true},
		{"http://pki.example.com/", true, true},
		{"http://pki.example.com:8080/status", true, true},
		{"http://PKI.Example.COM", true, true},
		{"http://pki.example.com.", true, true},
		{"http://8.8.8.8", true, true},
		{"http://[2606:4700::1111]:8080", true, true},

		{"http://localhost:8080", false, true},
		{"http://127.0.0.1:8080", false, true},
		{"http://127.1.2.3", false, true},
		{"http://[::1]", false, true},
		{"http://[::ffff:10.0.0.1]", false, true},
		{"http://10.1.2.3", false, true},
		{"http://172.16.0.1", false, true},
		{"http://192.168.1.1", false, true},
		{"http://169.254.169.254", false, true},
		{"http://[fe80::1]", false, true},
		{"http://[fd00::1]", false, true},
		{"http://[2001:db8::1]", false, true},
		{"http://100.64.0.1", false, true},
		{"http://198.18.0.1", false, true},
		{"http://203.0.113.5", false, true},
		{"http://0.0.0.0", false, true},
		{"http://[::]", false, true},
		{"http://224.0.0.1", false, true},
		{"http://255.255.255.255", false, true},
		{"http://pki", false, true},
		{"http://pki.local", false, true},
		{"http://pki.corp.internal", false, true},
		{"http://printer.lan", false, true},
		{"http://router.home.arpa", false, true},
		{"http://a.localhost", false, true},
		{"http://a.test", false, true},
		{"http://1.2.3", false, true},
		{"http://0x7f.1", false, true},
		{"http://a_b.example.com", false, true},
		{"http://-a.example.com", false, true},
		{"http://a..example.com", false, true},
		{"http://" + strings.Repeat("a", 64) + ".example.com", false, true},

		{"https://pki.example.com", false, false},
		{"ldap://pki.example.com", false, false},
		{"pki.example.com", false, false},
		{"//pki.example.com", false, false},
		{"http:pki.example.com", false, false},
		{"http://", false, false},
		{"http://:8080", false, false},
		{"", false, false},
		{"http://user@pki.example.com", false, false},
		{"http://user:pw@pki.example.com", false, false},
		{"http://pki.example.com?a=b", false, false},
		{"http://pki.example.com?", false, false},
		{"http://pki.example.com#", false, false},
		{"http://pki.example.com/#x", false, false},
		{"http://pki.example.com/a b", false, false},
		{"http://pki.example.com/%61", false, false},
		{"http://pki.example.com//a", false, false},
		{"http://pki.example.com/a/../b", false, false},
		{"http://pki.example.com/..", false, false},
		{"http://pki.exämple.com", false, false},
		{"http://pki.example.com/" + strings.Repeat("a", 200), false, false},
	}
	for _, tt := range tests {
		if err := StatusURL(tt.url, false); (err == nil) != tt.good || err != nil && !fault.Has(err, fault.StatusURL) {
			t.Errorf("%s: %v", tt.url, err)
		}
		if err := StatusURL(tt.url, true); (err == nil) != tt.quickstart {
			t.Errorf("%s in quickstart: %v", tt.url, err)
		}
	}
}
