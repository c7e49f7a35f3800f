package tpmnest

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

// inside keeps key and certificate in the TPM.
type inside struct {
	t             *tpm.TPM
	handle, index uint32
}

func (h *inside) key(ctx context.Context) (*tpm.Key, error) { return h.t.KeyAt(ctx, h.handle) }

func (h *inside) make(ctx context.Context, t *tpm.TPM, kind format.KeyKind) (*tpm.Key, error) {
	return t.NewKey(ctx, kind, h.handle)
}

func (h *inside) write(ctx context.Context, c fixture.Credential) error {
	return h.t.WriteNV(ctx, h.index, c.Certificate)
}

func (h *inside) read(ctx context.Context) ([]byte, error) {
	text, err := h.t.ReadNV(ctx, h.index)
	if err != nil {
		return nil, err
	}
	in := cryptobyte.String(text)
	var certificate cryptobyte.String
	if !in.ReadASN1Element(&certificate, asn1.SEQUENCE) {
		return nil, fault.New(fault.ReadBackWrong, fmt.Sprintf("NV index %#08x holds no certificate", h.index))
	}
	return certificate, nil
}

// beside keeps key and certificate as files of the device's own folder.
type beside struct{ dir string }

// The files of a device.
const (
	keyFile         = "key.pem"
	certificateFile = "certificate.pem"
	chainFile       = "chain.pem"
)

func newBeside(dir, deviceSerial string) (*beside, error) {
	name := url.PathEscape(deviceSerial) // any character, and no path
	if strings.Trim(name, ".") == "" {
		return nil, fault.New(fault.FixtureFailed, "files need a device serial that the line says")
	}
	b := &beside{filepath.Join(dir, name)}
	return b, os.MkdirAll(b.dir, 0o700)
}

func (h *beside) key(context.Context) (*tpm.Key, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return tpm.ParseFile(text)
}

func (h *beside) make(ctx context.Context, t *tpm.TPM, kind format.KeyKind) (*tpm.Key, error) {
	k, err := t.NewKey(ctx, kind, 0)
	if err != nil {
		return nil, err
	}
	text, err := k.File()
	if err != nil {
		return nil, err
	}
	return k, durable.WriteFile(filepath.Join(h.dir, keyFile), text)
}

func (h *beside) write(_ context.Context, c fixture.Credential) error {
	var chain []byte
	for _, one := range c.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	if err := durable.WriteFile(filepath.Join(h.dir, chainFile), chain); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(h.dir, certificateFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}))
}

func (h *beside) read(context.Context) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, certificateFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fault.New(fault.ReadBackWrong, certificateFile, "holds no certificate")
	}
	return block.Bytes, nil
}
