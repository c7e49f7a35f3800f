package pkcs11

import (
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"runtime"

	"github.com/birthmark/birthmark/internal/fault"
)

// machines of ELF files by Go's names.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390, "ppc64le": elf.EM_PPC64,
}

// Inspect says in plain words why a module's file cannot be loaded, before the
// system's loader says it in its own.
func Inspect(path string) error {
	if path == "" {
		return fault.New(fault.TokenModule, "no module is named")
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.TokenModule, path, "is not there")
	case err != nil:
		return fault.Wrap(fault.TokenModule, err, path, "cannot be looked at")
	case !info.Mode().IsRegular():
		return fault.New(fault.TokenModule, path, "is no file")
	}
	if runtime.GOOS != "linux" {
		return nil
	}
	f, err := elf.Open(path)
	if err != nil {
		return fault.Wrap(fault.TokenModule, err, path, "is no shared library, or may not be read")
	}
	defer f.Close()
	switch want, known := machines[runtime.GOARCH]; {
	case f.Type != elf.ET_DYN:
		return fault.New(fault.TokenModule, path, "is no shared library")
	case known && f.Machine != want:
		return fault.New(fault.TokenModule, path, "is for another kind of processor:", f.Machine, "not", want)
	}
	return nil
}
