//go:build !pkcs11 || !cgo

package pkcs11

import "context"

// Certificate explains that this program was built without PKCS #11.
func (*Token) Certificate(context.Context, string, []byte) ([]byte, error) { return nil, without() }

// SetCertificate explains that this program was built without PKCS #11.
func (*Token) SetCertificate(context.Context, string, []byte, []byte) error { return without() }
