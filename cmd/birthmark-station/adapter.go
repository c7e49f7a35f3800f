package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station/fixture"
	"github.com/birthmark/birthmark/internal/edge/station/folder"
	"github.com/birthmark/birthmark/internal/edge/station/program"
	"github.com/birthmark/birthmark/internal/edge/station/serialline"
	"github.com/birthmark/birthmark/internal/edge/station/sim"
	"github.com/birthmark/birthmark/internal/edge/station/tokennest"
	"github.com/birthmark/birthmark/internal/edge/station/tpmnest"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// adapterFlags choose how devices are reached.
type adapterFlags struct {
	Adapter  string        `help:"How devices are reached: exec, dir, serial, tpm, pkcs11 or sim." enum:"exec,dir,serial,tpm,pkcs11,sim" default:"exec" env:"BIRTHMARK_STATION_ADAPTER"`
	Exec     string        `help:"exec: program to start for each unit." placeholder:"PATH" env:"BIRTHMARK_STATION_EXEC"`
	ExecArg  []string      `help:"exec: argument of the program; may be repeated." placeholder:"ARG" sep:"none"`
	Dir      string        `help:"dir: hot folder." placeholder:"DIR" type:"path"`
	Port     []string      `help:"serial: NEST=PORT for each nest, or one PORT for all." placeholder:"PORT"`
	Baud     int           `help:"serial: speed." default:"115200"`
	StepTime time.Duration `help:"exec, dir: how long one step may take." default:"1m"`

	TPM      []string `name:"tpm" help:"tpm: NEST=PATH for each nest, or one PATH for all: a device file, a Unix socket or HOST:PORT." placeholder:"PATH"`
	TPMKey   string   `name:"tpm-key" help:"tpm: kind of the keys." enum:"p256,p384,rsa2048" default:"p256"`
	TPMAt    string   `name:"tpm-handle" help:"tpm: persistent handle of the key." default:"0x81020000"`
	NV       string   `name:"nv" help:"tpm: NV index of the certificate." default:"0x01C90000"`
	TPMDir   string   `name:"tpm-dir" help:"tpm: keep key (TSS2 PEM), certificate and chain as files in DIR/SERIAL, not in the TPM." placeholder:"DIR" type:"path"`
	TPMOwner string   `name:"tpm-owner-file" help:"tpm: file with the password of the owner hierarchy." placeholder:"FILE" type:"existingfile"`

	Module   string   `name:"pkcs11-module" help:"pkcs11: path of the maker's library." placeholder:"PATH" type:"path"`
	Token    []string `name:"pkcs11-token" help:"pkcs11: NEST=LABEL of the token for each nest, or one LABEL for all." placeholder:"LABEL"`
	PINFile  string   `name:"pkcs11-pin-file" help:"pkcs11: file with the user's PIN." placeholder:"FILE" type:"existingfile"`
	KeyLabel string   `name:"pkcs11-key" help:"pkcs11: label of the key that gets the certificate." default:"idevid"`
	KeyID    string   `name:"pkcs11-id" help:"pkcs11: its id, hexadecimal." default:"01"`
	KeyKind  string   `name:"pkcs11-kind" help:"pkcs11: kind of a new key." enum:"p256,p384,rsa2048" default:"p256"`
	ChipKey  string   `name:"pkcs11-chip-key" help:"pkcs11: label of the key that the chip's maker lists; its id is the chip's UID." placeholder:"LABEL"`

	SimSeed     string `help:"sim: seed that all chips follow from." default:"birthmark"`
	SimFirst    int    `help:"sim: number of the first chip."`
	SimPrefix   string `help:"sim: first characters of the device serials that the devices say." default:"SIM"`
	SimFailures string `help:"sim: failure rate of steps, such as install=0.01,prove=0.002." placeholder:"RATES"`
}

// adapters are the ways to reach devices, by name.
var adapters = map[string]func(*adapterFlags) (fixture.Adapter, error){
	"exec": func(f *adapterFlags) (fixture.Adapter, error) {
		return program.New(program.Config{Command: append([]string{f.Exec}, f.ExecArg...), StepTime: f.StepTime})
	},
	"dir": func(f *adapterFlags) (fixture.Adapter, error) {
		return folder.New(folder.Config{Dir: f.Dir, StepTime: f.StepTime})
	},
	"serial": func(f *adapterFlags) (fixture.Adapter, error) {
		ports := byNest(f.Port)
		if len(ports) == 0 {
			return nil, fault.New(fault.ParameterInvalid, "the adapter serial needs --port")
		}
		return serialline.NewAdapter(serialline.AdapterConfig{Ports: ports, Baud: f.Baud, Random: rand.Reader})
	},
	"tpm":    func(f *adapterFlags) (fixture.Adapter, error) { return f.tpm() },
	"pkcs11": func(f *adapterFlags) (fixture.Adapter, error) { return f.pkcs11() },
	"sim": func(f *adapterFlags) (fixture.Adapter, error) {
		failures, err := sim.ParseFailures(f.SimFailures)
		if err != nil {
			return nil, err
		}
		return sim.New(sim.Config{Seed: f.SimSeed, First: f.SimFirst, SerialPrefix: f.SimPrefix, Failures: failures, Random: rand.Reader})
	},
}

// byNest reads NEST=PLACE; the empty nest stands for all.
func byNest(list []string) map[string]string {
	places := map[string]string{}
	for _, one := range list {
		nest, place, named := strings.Cut(one, "=")
		if !named {
			nest, place = "", one
		}
		places[nest] = place
	}
	return places
}

func (f *adapterFlags) tpm() (fixture.Adapter, error) {
	c := tpmnest.Config{TPMs: byNest(f.TPM), Kind: tpm.KeyKind(f.TPMKey), Dir: f.TPMDir}
	for _, one := range []struct {
		flag, text string
		to         *uint32
	}{{"--tpm-handle", f.TPMAt, &c.Handle}, {"--nv", f.NV, &c.Index}} {
		n, err := strconv.ParseUint(one.text, 0, 32)
		if err != nil {
			return nil, fault.New(fault.ParameterInvalid, one.flag, "is not a number such as 0x81020000")
		}
		*one.to = uint32(n)
	}
	if f.TPMOwner != "" {
		text, err := os.ReadFile(f.TPMOwner)
		if err != nil {
			return nil, err
		}
		c.OwnerAuth = bytes.TrimRight(text, "\r\n")
	}
	return tpmnest.New(c)
}

func (f *adapterFlags) pkcs11() (fixture.Adapter, error) {
	id, err := hex.DecodeString(f.KeyID)
	if err != nil {
		return nil, fault.New(fault.ParameterInvalid, "--pkcs11-id is not hexadecimal")
	}
	return tokennest.New(tokennest.Config{
		Module: f.Module, Tokens: byNest(f.Token), Label: f.KeyLabel, ID: id, Kind: profile.KeyType(f.KeyKind), ChipLabel: f.ChipKey,
		PIN: func() ([]byte, error) {
			if f.PINFile == "" {
				return nil, fault.New(fault.ParameterInvalid, "the adapter pkcs11 needs --pkcs11-pin-file")
			}
			text, err := os.ReadFile(f.PINFile)
			return bytes.TrimRight(text, "\r\n"), err
		},
	})
}

func (f *adapterFlags) open() (fixture.Adapter, error) { return adapters[f.Adapter](f) }

type chipsCmd struct {
	SimSeed  string `help:"Seed that all chips follow from." default:"birthmark"`
	SimFirst int    `help:"Number of the first chip."`
	Count    int    `help:"How many." default:"100"`
}

// Run lists simulated chips as CSV: what an unsigned manifest needs.
func (c *chipsCmd) Run(io *streams) error {
	w := csv.NewWriter(io.out)
	if err := w.Write([]string{"vendor", "uid", "chip_type", "slot", "spki"}); err != nil {
		return err
	}
	for i := range c.Count {
		chip, err := sim.NewChip(c.SimSeed, c.SimFirst+i)
		if err != nil {
			return err
		}
		if err := w.Write([]string{sim.Vendor, chip.UID, sim.ChipType, "0", base64.StdEncoding.EncodeToString(chip.SPKI)}); err != nil {
			return err
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		return fmt.Errorf("write chips: %w", err)
	}
	return nil
}
