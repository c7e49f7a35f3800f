package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
)

// maxIndex bounds what is read of one NV index.
const maxIndex = 16 << 10

// index is the public area of an NV index with its name.
type index struct {
	tpm2.NamedHandle
	public tpm2.TPMSNVPublic
}

// findIndex returns an NV index, nil where there is none.
func (u *turn) findIndex(handle uint32) (*index, error) {
	got, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(handle)}.Execute(u)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("TPM2_NV_ReadPublic", err)
	}
	public, err := got.NVPublic.Contents()
	if err != nil {
		return nil, failed("TPM2_NV_ReadPublic", err)
	}
	return &index{tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: got.NVName}, *public}, nil
}

// readIndex returns what an NV index holds, nil where there is none or nothing was
// written.
func (u *turn) readIndex(handle uint32) ([]byte, error) {
	i, err := u.findIndex(handle)
	if err != nil || i == nil || !i.public.Attributes.Written {
		return nil, err
	}
	size := int(i.public.DataSize)
	if size > maxIndex {
		return nil, fault.New(fault.TPMFailed, fmt.Sprintf("NV index %#08x holds %d octets", handle, size))
	}
	auth := tpm2.AuthHandle{Handle: i.Handle, Name: i.Name, Auth: tpm2.PasswordAuth(nil)}
	if !i.public.Attributes.AuthRead {
		auth = u.owner()
	}
	text := make([]byte, 0, size)
	for len(text) < size {
		piece := min(size-len(text), u.nvBuffer())
		got, err := tpm2.NVRead{AuthHandle: auth, NVIndex: i.NamedHandle, Size: uint16(piece), Offset: uint16(len(text))}.Execute(u)
		if err != nil {
			return nil, failed("TPM2_NV_Read", err)
		}
		if len(got.Data.Buffer) == 0 {
			return nil, fault.New(fault.TPMFailed, "TPM2_NV_Read: the TPM sends nothing")
		}
		text = append(text, got.Data.Buffer...)
	}
	return text, nil
}

// nvBuffer is how much of an index one command carries. Answers must fit the
// smallest buffers between us and the TPM, too.
func (u *turn) nvBuffer() int { return min(max(u.t.info.NVBuffer, 64), 1024) }

func (u *turn) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(u.t.c.OwnerAuth)}
}

// certificates splits certificates in DER that follow one another. What is behind
// the last one, such as the zeros of an index that is longer, is left out.
func certificates(text []byte) [][]byte {
	var all [][]byte
	in := cryptobyte.String(text)
	for {
		var one cryptobyte.String
		if !in.ReadASN1Element(&one, asn1.SEQUENCE) {
			return all
		}
		all = append(all, one)
	}
}

// ReadNV returns what an NV index holds, nil where there is none.
func (t *TPM) ReadNV(ctx context.Context, handle uint32) (text []byte, err error) {
	err = t.turn(ctx, func(u *turn) error {
		text, err = u.readIndex(handle)
		return err
	})
	return text, err
}

// WriteNV puts text into an NV index that the owner makes for it, or made before:
// everybody may read it, only the owner may change it. An index of another size is
// made anew. A power cut in between leaves an index that holds no certificate,
// or the new text in part: write again and read back.
func (t *TPM) WriteNV(ctx context.Context, handle uint32, text []byte) error {
	if len(text) > maxIndex {
		return fault.New(fault.ParameterInvalid, "more than fits an NV index")
	}
	return t.turn(ctx, func(u *turn) error {
		if held, err := u.readIndex(handle); err == nil && bytes.Equal(held, text) {
			return nil
		}
		i, err := u.roomFor(handle, len(text))
		if err != nil {
			return err
		}
		offset := 0
		for piece := range slices.Chunk(text, u.nvBuffer()) {
			_, err := tpm2.NVWrite{
				AuthHandle: u.owner(), NVIndex: i.NamedHandle, Data: tpm2.TPM2BMaxNVBuffer{Buffer: piece}, Offset: uint16(offset),
			}.Execute(u)
			if err != nil {
				return failed("TPM2_NV_Write", err)
			}
			if offset == 0 { // the first write sets Written, which is part of the name
				if i, err = u.findIndex(handle); err != nil {
					return err
				}
			}
			offset += len(piece)
		}
		return nil
	})
}

// roomFor returns an index of the size, made where there is none.
func (u *turn) roomFor(handle uint32, size int) (*index, error) {
	i, err := u.findIndex(handle)
	if err != nil {
		return nil, err
	}
	if i != nil && (!i.public.Attributes.OwnerWrite || i.public.Attributes.PolicyWrite) {
		return nil, fault.New(fault.TPMHandle, fmt.Sprintf("NV index %#08x is not ours", handle))
	}
	if i != nil && int(i.public.DataSize) != size {
		if _, err := (tpm2.NVUndefineSpace{AuthHandle: u.owner(), NVIndex: i.NamedHandle}).Execute(u); err != nil {
			return nil, failed("TPM2_NV_UndefineSpace", err)
		}
		i = nil
	}
	if i != nil {
		return i, nil
	}
	_, err = tpm2.NVDefineSpace{AuthHandle: u.owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(handle), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(u)
	if err != nil {
		return nil, failed("TPM2_NV_DefineSpace", err)
	}
	i, err = u.findIndex(handle)
	if err == nil && i == nil {
		err = fault.New(fault.TPMFailed, "TPM2_NV_DefineSpace: the index is not there")
	}
	return i, err
}
