package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/birthmark/birthmark/cmd/internal/program"
	"github.com/birthmark/birthmark/internal/edge/agent"
	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
	format "github.com/birthmark/birthmark/internal/format/tpm"
)

type enrollCmd struct {
	tpmFlags `embed:""`

	Server string `help:"The server's device listener." required:"" placeholder:"https://HOST:PORT" env:"BIRTHMARK_AGENT_SERVER"`
	CA     string `name:"ca" help:"PEM file with the authorities to trust (birthmark authority bundle)." placeholder:"FILE" required:"" type:"existingfile" env:"BIRTHMARK_AGENT_CA"`
	Out    string `help:"Folder for key, certificate and chain." required:"" placeholder:"DIR" type:"path" env:"BIRTHMARK_AGENT_OUT"`
	Label  string `help:"Label of the profile; nothing: the product's first." env:"BIRTHMARK_AGENT_LABEL"`
	Key    string `help:"Where the key is made: tpm or file." enum:"tpm,file" default:"tpm"`
	Kind   string `help:"Kind of the key." enum:"p256,p384,rsa2048" default:"p256"`

	Serial     string `help:"Device serial, with --secret-file." placeholder:"SN" env:"BIRTHMARK_AGENT_SERIAL"`
	SecretFile string `help:"File with the device's one-time secret." placeholder:"FILE" type:"existingfile"`
	IDevID     string `name:"idevid" help:"The device's initial certificate: a PEM file, with --idevid-key, or tpm for the one that a station has put into the TPM." placeholder:"FILE"`
	IDevIDKey  string `name:"idevid-key" help:"Its key: PKCS #8 or TSS2 PEM." placeholder:"FILE" type:"existingfile"`
	NV         string `name:"nv" help:"NV index of the initial certificate in the TPM." default:"0x01C90000"`
	Handle     string `help:"Handle of the initial certificate's key in the TPM." default:"0x81020000"`

	AK       bool   `name:"ak" help:"Get a certificate for the TPM's attestation key, too."`
	AKLabel  string `name:"ak-label" help:"Label of its profile." default:"attestation-key"`
	AKHandle string `name:"ak-handle" help:"Keep the attestation key at this handle, for other programs." placeholder:"HANDLE"`

	EventLog string        `help:"The firmware's log of this boot, sent where the server asks for a quote." placeholder:"FILE" default:"/sys/kernel/security/tpm0/binary_bios_measurements"`
	Patience time.Duration `help:"How long a server that does not answer is asked again." default:"1m"`
	JSON     bool          `help:"Print JSON."`
}

// Run enrolls, renews or finds that there is nothing to do.
func (c *enrollCmd) Run(ctx context.Context, io *streams) error {
	config, err := c.config(ctx)
	if err != nil {
		return err
	}
	a, err := agent.New(*config)
	if err != nil {
		return err
	}
	out, err := a.Enroll(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return program.PrintJSON(io.out, out)
	}
	words := map[string]string{
		agent.Enrolled: "Enrolled", agent.Renewed: "Renewed", agent.Nothing: "Nothing to do",
	}
	_, err = fmt.Fprintf(io.out, "%s: the certificate in %s ends %s.\n", words[out.Did], c.Out, out.NotAfter.Format(time.RFC3339))
	return err
}

func (c *enrollCmd) config(ctx context.Context) (*agent.Config, error) {
	out := &agent.Config{
		Dir: c.Out, Server: c.Server, Label: c.Label, Key: c.Key, Kind: format.KeyKind(c.Kind),
		AK: c.AK, AKLabel: c.AKLabel, Patience: c.Patience, Now: time.Now,
	}
	var err error
	if out.Trust, err = os.ReadFile(c.CA); err != nil {
		return nil, err
	}
	if out.AKHandle, err = handle("--ak-handle", c.AKHandle); err != nil {
		return nil, err
	}
	if c.Key == agent.InTPM || c.IDevID == fromTPM {
		if out.TPM, err = c.open(ctx); err != nil {
			return nil, err
		}
	}
	if c.EventLog != "" {
		out.EventLog, _ = os.ReadFile(c.EventLog) // firmware without one is no error here
	}
	out.Requester, err = c.requester(ctx, out.TPM)
	return out, err
}

// fromTPM stands for the initial certificate that a station has put into the TPM.
const fromTPM = "tpm"

// requester says who asks first; later the device shows what it got.
func (c *enrollCmd) requester(ctx context.Context, t *tpm.TPM) (agent.Requester, error) {
	switch {
	case c.IDevID != "" && (c.Serial != "" || c.SecretFile != ""):
		return agent.Requester{}, fault.New(fault.ParameterInvalid, "say --serial with --secret-file or --idevid, not both")
	case c.IDevID == fromTPM:
		return c.inTPM(ctx, t)
	case c.IDevID != "":
		text, err := os.ReadFile(c.IDevID)
		if err != nil {
			return agent.Requester{}, err
		}
		return agent.ReadRequester(ctx, text, c.IDevIDKey, t)
	case (c.Serial == "") != (c.SecretFile == ""):
		return agent.Requester{}, fault.New(fault.ParameterInvalid, "--serial and --secret-file go together")
	}
	text, err := secret(c.SecretFile)
	return agent.Requester{DeviceSerial: c.Serial, Secret: string(text)}, err
}

func (c *enrollCmd) inTPM(ctx context.Context, t *tpm.TPM) (agent.Requester, error) {
	at, err := handle("--handle", c.Handle)
	if err != nil {
		return agent.Requester{}, err
	}
	index, err := handle("--nv", c.NV)
	if err != nil {
		return agent.Requester{}, err
	}
	key, err := t.KeyAt(ctx, at)
	if err != nil {
		return agent.Requester{}, err
	}
	text, err := t.ReadNV(ctx, index)
	if err != nil {
		return agent.Requester{}, err
	}
	certificate, err := x509.ParseCertificate(text)
	if key == nil || err != nil {
		return agent.Requester{}, fault.New(fault.AgentState, fmt.Sprintf("the TPM holds no initial key at %#08x or no certificate at %#08x", at, index))
	}
	return agent.Requester{Certificates: [][]byte{certificate.Raw}, Key: t.Signer(ctx, key)}, nil
}
