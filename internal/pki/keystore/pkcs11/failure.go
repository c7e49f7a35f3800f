//go:build pkcs11 && cgo

package pkcs11

import (
	"errors"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"github.com/birthmark/birthmark/internal/fault"
)

// is reports whether an error is one of these return values of the module.
func is(err error, codes ...uint) bool {
	e, ok := errors.AsType[p11.Error](err)
	return ok && slices.Contains(codes, uint(e))
}

// name returns the standard's name of a return value, such as CKR_PIN_LOCKED.
func name(err error) string {
	e, ok := errors.AsType[p11.Error](err)
	if !ok {
		return "an unknown error"
	}
	_, text, ok := strings.Cut(e.Error(), "CKR_")
	if !ok {
		return "a return value of the maker's own"
	}
	return "CKR_" + text
}

// failed returns a return value of the module as a fault that says what to do.
func failed(err error) error {
	switch {
	case gone(err):
		return fault.Wrap(fault.TokenMissing, err, name(err))
	case exhausted(err):
		return fault.Wrap(fault.TokenSessions, err, name(err))
	case is(err, p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_KEY_TYPE_INCONSISTENT, p11.CKR_OBJECT_HANDLE_INVALID):
		return fault.Wrap(fault.TokenKey, err, name(err))
	}
	return fault.Wrap(fault.TokenFailed, err, name(err))
}

// gone reports whether the token is away.
func gone(err error) bool {
	return is(err, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_DEVICE_REMOVED, p11.CKR_SLOT_ID_INVALID,
		p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_CRYPTOKI_NOT_INITIALIZED)
}

// exhausted reports whether the token has no more sessions.
func exhausted(err error) bool { return is(err, p11.CKR_SESSION_COUNT) }

// broken reports whether a call may succeed in a new session. What the call
// itself was wrong about stays wrong.
func broken(err error) bool {
	if _, ok := errors.AsType[p11.Error](err); !ok {
		return fault.Has(err, fault.TokenMissing) || fault.Has(err, fault.TokenKey)
	}
	return !is(err, p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_DATA_LEN_RANGE, p11.CKR_DATA_INVALID,
		p11.CKR_KEY_SIZE_RANGE, p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_TYPE_INVALID,
		p11.CKR_TEMPLATE_INCONSISTENT, p11.CKR_CURVE_NOT_SUPPORTED, p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_TOKEN_WRITE_PROTECTED)
}
