package main

import (
	"encoding/pem"
	"os"

	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/label"
	"github.com/birthmark/birthmark/internal/fault"
)

type labelCmd struct {
	Serial      string `help:"Device serial." required:""`
	Product     string `help:"Product." required:""`
	Certificate string `help:"The device's certificate, PEM or DER." required:"" type:"existingfile"`
	Format      string `help:"Format of the drawing, or text for what the code holds." enum:"svg,text" default:"svg"`
	Out         string `help:"File to write; nothing: standard output." placeholder:"FILE" type:"path"`
}

// Run draws a label.
func (c *labelCmd) Run(io *streams) error {
	der, err := os.ReadFile(c.Certificate)
	if err != nil {
		return err
	}
	if block, _ := pem.Decode(der); block != nil {
		if block.Type != "CERTIFICATE" {
			return fault.New(fault.ParameterInvalid, c.Certificate, "begins with something other than a certificate")
		}
		der = block.Bytes
	}
	l := label.Of(c.Serial, c.Product, der)
	out := []byte(l.Text() + "\n")
	if c.Format == "svg" {
		if out, err = l.SVG(); err != nil {
			return err
		}
	}
	if c.Out != "" {
		return durable.WriteFile(c.Out, out)
	}
	_, err = io.out.Write(out)
	return err
}
