package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// Key is a key of a TPM: where it is and how it is loaded.
type Key struct {
	Public []byte // TPMT_PUBLIC
	// Private is the key below the storage root key, encrypted so that only this TPM
	// loads it (the octets of a TPM2B_PRIVATE); empty: the key is persistent, or made
	// anew from its template each time.
	Private []byte
	// Handle is where the key is kept in the TPM; 0: nowhere.
	Handle uint32

	parsed   *format.Public
	template []byte // of an attestation key that is made anew each time
}

// Parsed returns the key's public area with its parts.
func (k *Key) Parsed() *format.Public { return k.parsed }

// newKey parses the public area that the TPM sent.
func newKey(public []byte) (*Key, error) {
	parsed, err := format.ParsePublic(public)
	if err != nil {
		return nil, err
	}
	return &Key{Public: public, parsed: parsed}, nil
}

// StorageRoot is the handle of the storage root key, below which keys are kept
// (TCG TPM v2.0 Provisioning Guidance, section 7.8).
const StorageRoot = 0x81000001

// storageRoot makes sure that there is a storage root key. Two programs that do
// so at once make the same one.
func (u *turn) storageRoot() (tpm2.NamedHandle, error) {
	public, name, err := u.readPublic(StorageRoot)
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	if public == nil {
		made, err := u.createPrimary(u.owner(), format.StorageTemplate())
		if err != nil {
			return tpm2.NamedHandle{}, err
		}
		err = u.persist(made, StorageRoot)
		if dropErr := u.drop(); err == nil {
			err = dropErr
		}
		if err != nil {
			return tpm2.NamedHandle{}, err
		}
		if public, name, err = u.readPublic(StorageRoot); err != nil {
			return tpm2.NamedHandle{}, err
		}
	}
	const storage = format.Restricted | format.Decrypt | format.FixedTPM
	if p, err := format.ParsePublic(public); err != nil || !p.Attributes.Has(storage) {
		return tpm2.NamedHandle{}, fault.New(fault.TPMHandle, fmt.Sprintf("%#08x holds no storage root key", StorageRoot))
	}
	return tpm2.NamedHandle{Handle: StorageRoot, Name: name}, nil
}

// readPublic returns the public area (TPMT_PUBLIC) and name of a key, nil where
// there is none at the handle.
func (u *turn) readPublic(handle uint32) ([]byte, tpm2.TPM2BName, error) {
	got, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(u)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, tpm2.TPM2BName{}, nil
	}
	if err != nil {
		return nil, tpm2.TPM2BName{}, failed("TPM2_ReadPublic", err)
	}
	return got.OutPublic.Bytes(), got.Name, nil
}

// loadedKey is a key that commands can use.
type loadedKey struct {
	tpm2.NamedHandle
	public []byte // TPMT_PUBLIC
}

func (l *loadedKey) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: l.Handle, Name: l.Name, Auth: tpm2.PasswordAuth(nil)}
}

func (u *turn) createPrimary(hierarchy tpm2.AuthHandle, template []byte) (*loadedKey, error) {
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: hierarchy, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(u)
	if err != nil {
		return nil, failed("TPM2_CreatePrimary", err)
	}
	u.keep(made.ObjectHandle)
	return &loadedKey{tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, made.OutPublic.Bytes()}, nil
}

// persist keeps a loaded key at a handle.
func (u *turn) persist(k *loadedKey, handle uint32) error {
	_, err := tpm2.EvictControl{Auth: u.owner(), ObjectHandle: k.NamedHandle, PersistentHandle: tpm2.TPMHandle(handle)}.Execute(u)
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		held, _, err := u.readPublic(handle)
		if err == nil && !bytes.Equal(held, k.public) {
			err = fault.New(fault.TPMHandle, fmt.Sprintf("%#08x", handle))
		}
		return err
	}
	return failed("TPM2_EvictControl", err)
}

func (u *turn) endorsement() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(u.t.c.EndorsementAuth)}
}

// load makes a key usable, and makes sure that it is the one meant.
func (u *turn) load(k *Key) (*loadedKey, error) {
	var l *loadedKey
	var err error
	switch {
	case k.Handle != 0:
		public, name, err := u.readPublic(k.Handle)
		if err != nil {
			return nil, err
		}
		l = &loadedKey{tpm2.NamedHandle{Handle: tpm2.TPMHandle(k.Handle), Name: name}, public}
	case len(k.Private) > 0:
		if l, err = u.loadChild(k.Public, k.Private); err != nil {
			return nil, err
		}
	default:
		if l, err = u.createPrimary(u.endorsement(), k.template); err != nil {
			return nil, err
		}
	}
	if !bytes.Equal(l.public, k.Public) {
		return nil, fault.New(fault.TPMHandle, "the TPM holds another key than before")
	}
	return l, nil
}

func (u *turn) loadChild(public, private []byte) (*loadedKey, error) {
	parent, err := u.storageRoot()
	if err != nil {
		return nil, err
	}
	got, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: private}, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](public),
	}.Execute(u)
	if err != nil {
		return nil, failed("TPM2_Load", err)
	}
	u.keep(got.ObjectHandle)
	return &loadedKey{tpm2.NamedHandle{Handle: got.ObjectHandle, Name: got.Name}, public}, nil
}

// AttestationKey returns the TPM's attestation key of the kind, P-256 where none
// is named. It is a primary key of the endorsement hierarchy: it follows from the
// TPM's seed and our template, so nothing has to be kept to have it again, and
// its quotes tell the TPM's true counters. A handle other than 0 keeps it there,
// which is faster on a slow TPM.
func (t *TPM) AttestationKey(ctx context.Context, kind format.KeyKind, handle uint32) (k *Key, err error) {
	if kind == "" {
		kind = format.ECP256
	}
	template := format.AKTemplate(kind)
	if template == nil {
		return nil, fault.New(fault.ParameterInvalid, "there are no attestation keys of kind", string(kind))
	}
	err = t.turn(ctx, func(u *turn) error {
		l, err := u.createPrimary(u.endorsement(), template)
		if err != nil {
			return err
		}
		if k, err = newKey(l.public); err != nil {
			return err
		}
		k.template = template
		if handle == 0 {
			return nil
		}
		k.Handle = handle
		return u.persist(l, handle)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// NewKey makes a key for signing below the storage root key. With a handle other
// than 0 it is kept in the TPM too; a key that is there already is an error.
func (t *TPM) NewKey(ctx context.Context, kind format.KeyKind, handle uint32) (k *Key, err error) {
	if kind == "" {
		kind = format.ECP256
	}
	template := format.SubjectTemplate(kind)
	if template == nil {
		return nil, fault.New(fault.ParameterInvalid, "there are no keys of kind", string(kind))
	}
	err = t.turn(ctx, func(u *turn) error {
		if handle != 0 {
			held, _, err := u.readPublic(handle)
			if err != nil {
				return err
			}
			if held != nil {
				return fault.New(fault.TPMHandle, fmt.Sprintf("%#08x", handle))
			}
		}
		k, err = u.create(template)
		if err != nil || handle == 0 {
			return err
		}
		l, err := u.load(k)
		if err != nil {
			return err
		}
		k.Handle = handle
		return u.persist(l, handle)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// create makes a key below the storage root key.
func (u *turn) create(template []byte) (*Key, error) {
	parent, err := u.storageRoot()
	if err != nil {
		return nil, err
	}
	made, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(u)
	if err != nil {
		return nil, failed("TPM2_Create", err)
	}
	k, err := newKey(made.OutPublic.Bytes())
	if err != nil {
		return nil, err
	}
	k.Private = made.OutPrivate.Buffer
	return k, nil
}

// KeyAt returns the key that the TPM keeps at a handle, nil where there is none.
func (t *TPM) KeyAt(ctx context.Context, handle uint32) (k *Key, err error) {
	err = t.turn(ctx, func(u *turn) error {
		public, _, err := u.readPublic(handle)
		if err != nil || public == nil {
			return err
		}
		k, err = newKey(public)
		if err == nil {
			k.Handle = handle
		}
		return err
	})
	return k, err
}

// Evict removes the key that the TPM keeps at a handle; one that is not there is
// no error.
func (t *TPM) Evict(ctx context.Context, handle uint32) error {
	return t.turn(ctx, func(u *turn) error {
		public, name, err := u.readPublic(handle)
		if err != nil || public == nil {
			return err
		}
		l := &loadedKey{tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: name}, public}
		_, err = tpm2.EvictControl{Auth: u.owner(), ObjectHandle: l.NamedHandle, PersistentHandle: l.Handle}.Execute(u)
		return failed("TPM2_EvictControl", err)
	})
}

// File returns the key as a TSS2 key file, which OpenSSL's tpm2 provider loads.
// The key must have been made by NewKey.
func (k *Key) File() ([]byte, error) {
	if len(k.Private) == 0 {
		return nil, fault.New(fault.ParameterInvalid, "the key is kept in the TPM alone")
	}
	f := format.KeyFile{
		EmptyAuth: true, Parent: StorageRoot,
		Public:  tpm2.Marshal(tpm2.BytesAs2B[tpm2.TPMTPublic](k.Public)),
		Private: tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: k.Private}),
	}
	return f.MarshalPEM()
}

// ParseFile returns the key of a TSS2 key file that File wrote.
func ParseFile(pem []byte) (*Key, error) {
	f, err := format.ParseKeyFile(pem)
	if err != nil {
		return nil, err
	}
	if f.Parent != StorageRoot || !f.EmptyAuth {
		return nil, fault.New(fault.ParameterInvalid, fmt.Sprintf("the key file is for a parent other than %#08x, or has a password", StorageRoot))
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](f.Public)
	if err != nil {
		return nil, fault.Wrap(fault.AttestMalformed, err, "key file")
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](f.Private)
	if err != nil {
		return nil, fault.Wrap(fault.AttestMalformed, err, "key file")
	}
	k, err := newKey(public.Bytes())
	if err != nil {
		return nil, err
	}
	k.Private = private.Buffer
	return k, nil
}
