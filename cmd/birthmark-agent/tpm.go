package main

import (
	"bytes"
	"context"
	"os"
	"strconv"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
)

// tpmFlags say which TPM.
type tpmFlags struct {
	TPM             string `name:"tpm" help:"Device file, Unix socket or HOST:PORT of the TPM; nothing: /dev/tpmrm0 or /dev/tpm0." placeholder:"PATH" env:"BIRTHMARK_AGENT_TPM"`
	EKTemplate      string `name:"ek-template" help:"Endorsement key to use, by its template, such as H-3; nothing: the first that the maker certified." placeholder:"NAME"`
	OwnerFile       string `help:"File with the password of the TPM's owner hierarchy, if it has one." placeholder:"FILE" type:"existingfile"`
	EndorsementFile string `help:"File with the password of the TPM's endorsement hierarchy, if it has one." placeholder:"FILE" type:"existingfile"`
}

func (f *tpmFlags) config() (tpm.Config, error) {
	c := tpm.Config{Path: f.TPM, Template: f.EKTemplate}
	var err error
	if c.OwnerAuth, err = secret(f.OwnerFile); err == nil {
		c.EndorsementAuth, err = secret(f.EndorsementFile)
	}
	return c, err
}

func (f *tpmFlags) open(ctx context.Context) (*tpm.TPM, error) {
	c, err := f.config()
	if err != nil {
		return nil, err
	}
	return tpm.Open(ctx, c)
}

// secret reads a password from a file; none without a file.
func secret(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	return bytes.TrimRight(text, "\r\n"), err
}

// handle reads a handle such as 0x81010100; nothing is 0.
func handle(flag, text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return 0, fault.New(fault.ParameterInvalid, flag, "is not a number such as 0x81010100")
	}
	return uint32(n), nil
}
