package lint

import "github.com/birthmark/birthmark/internal/pki/profile"

// Certificate returns what is to be said about a certificate.
func Certificate(der []byte) []Finding { return nil }

// AgainstProfile returns where a certificate differs from a profile.
func AgainstProfile(der []byte, p *profile.Profile) []Finding { return nil }
