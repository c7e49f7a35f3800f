package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/pki/chain"
	"github.com/birthmark/birthmark/internal/pki/lint"
	"github.com/birthmark/birthmark/internal/pki/profile"
	"github.com/birthmark/birthmark/internal/web/rest"
)

type certificateCmd struct {
	List    certificateListCmd    `cmd:"" help:"List certificates, newest first."`
	Show    certificateShowCmd    `cmd:"" help:"Show a certificate."`
	Revoke  certificateRevokeCmd  `cmd:"" help:"Revoke a certificate for good."`
	Hold    certificateHoldCmd    `cmd:"" help:"Put a certificate on hold."`
	Release certificateReleaseCmd `cmd:"" help:"Release a certificate from hold."`
	Expiry  certificateExpiryCmd  `cmd:"" help:"Certificates that end soon, by day and product."`
	Verify  certificateVerifyCmd  `cmd:"" help:"Check the path of any certificate in a file."`
	Lint    certificateLintCmd    `cmd:"" help:"Check any certificate in a file against RFC 5280 and a profile."`
	Check   certificateCheckCmd   `cmd:"" help:"Look up a certificate that was seen somewhere; one of ours that no record names raises an alarm."`
}

var certificateHeader = []string{"SERIAL", "KIND", "PURPOSE", "PROFILE", "STATE", "NOT AFTER"}

func certificateRow(c *rest.Certificate) []string {
	state := c.State
	if c.Reason != "" {
		state += " (" + c.Reason + ")"
	}
	return []string{c.Serial, c.Kind, c.Purpose, c.Profile, state, day(c.NotAfter)}
}

type certificateListCmd struct {
	remote    `embed:""`
	Device    string `help:"Only of this device (serial or id)."`
	Authority string `help:"Only of this authority."`
	Product   string `help:"Only of this product."`
	Kind      string `help:"Only of this kind."`
	State     string `help:"Only in this state."`
	After     string `help:"Start after this cursor."`
	Limit     int    `help:"Most rows; 0 lists all." default:"100"`
}

// Run lists certificates.
func (c *certificateListCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/certificates",
		query("device", c.Device, "authority", c.Authority, "product", c.Product, "kind", c.Kind, "state", c.State, "after", c.After),
		c.Limit, certificateHeader, certificateRow)
}

// serialFlag names a certificate.
type serialFlag struct {
	Serial string `help:"Certificate serial, hexadecimal." required:""`
}

func (s *serialFlag) path() string { return "/certificates/" + url.PathEscape(s.Serial) }

// printCertificate prints one certificate for a person.
func printCertificate(io *streams) func(*rest.Certificate) error {
	return func(c *rest.Certificate) error {
		fmt.Fprintf(io.out, "%s\n  authority  %s\n  profile    %s\n  kind       %s %s\n  device     %s\n  state      %s %s\n  key        %s\n  valid      %s to %s\n",
			c.Serial, c.Authority, c.Profile, c.Kind, c.Purpose, c.Device, c.State, c.Reason, c.Key, day(c.NotBefore), day(c.NotAfter))
		fmt.Fprint(io.out, c.PEM)
		return nil
	}
}

type certificateShowCmd struct {
	remote     `embed:""`
	serialFlag `embed:""`
}

// Run shows a certificate.
func (c *certificateShowCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodGet, c.path(), nil, printCertificate(io))
}

type certificateRevokeCmd struct {
	remote     `embed:""`
	serialFlag `embed:""`
	Reason     string `help:"RFC 5280 reason." default:"unspecified"`
}

// Run revokes a certificate.
func (c *certificateRevokeCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, c.path()+"/revocation", map[string]string{"reason": c.Reason}, func(r *rest.Certificate) error {
		fmt.Fprintf(io.out, "Revoked %s (%s).\n", r.Serial, r.Reason)
		return nil
	})
}

type certificateHoldCmd struct {
	remote     `embed:""`
	serialFlag `embed:""`
}

// Run puts a certificate on hold.
func (c *certificateHoldCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodPost, c.path()+"/hold", nil, func(r *rest.Certificate) error {
		fmt.Fprintf(io.out, "%s is on hold.\n", r.Serial)
		return nil
	})
}

type certificateReleaseCmd struct {
	remote     `embed:""`
	serialFlag `embed:""`
}

// Run releases a certificate from hold.
func (c *certificateReleaseCmd) Run(ctx context.Context, io *streams) error {
	return call(ctx, &c.remote, io, http.MethodDelete, c.path()+"/hold", nil, func(r *rest.Certificate) error {
		fmt.Fprintf(io.out, "%s is %s again.\n", r.Serial, r.State)
		return nil
	})
}

type certificateExpiryCmd struct {
	remote `embed:""`
	Days   string `help:"How far to look ahead." default:"30"`
}

// Run prints how many certificates end, by day and product.
func (c *certificateExpiryCmd) Run(ctx context.Context, io *streams) error {
	return listAll(ctx, &c.remote, io, "/expiry", query("days", c.Days), 0, []string{"DAY", "PRODUCT", "CERTIFICATES"},
		func(e *rest.Expiry) []string { return []string{e.Day, e.Product, fmt.Sprint(e.Count)} })
}

type certificateVerifyCmd struct {
	File          string    `arg:"" help:"Certificate, PEM or DER; further certificates in it count as intermediates."`
	Anchors       string    `help:"PEM file with trust anchors." required:"" placeholder:"PEM"`
	Intermediates string    `help:"PEM file with intermediate certificates." placeholder:"PEM"`
	CRLs          string    `name:"crls" help:"File with CRLs; then every certificate of the path needs a known status." placeholder:"FILE"`
	At            time.Time `help:"Moment to judge for, RFC 3339 (default: now)." format:"2006-01-02T15:04:05Z07:00"`
	Usage         string    `help:"What the certificate is used for." default:"any" enum:"any,client,server,ocsp,codesigning"`
	Name          string    `help:"DNS name or address that the certificate must carry."`
	JSON          bool      `help:"Print JSON."`
}

// verdict is what verify prints.
type verdict struct {
	Trusted bool     `json:"trusted"`
	Code    string   `json:"code,omitempty"`
	Message string   `json:"message,omitempty"`
	Detail  string   `json:"detail,omitempty"`
	Remedy  string   `json:"remedy,omitempty"`
	Path    []string `json:"path,omitempty"`
}

// Run checks the path; exit 0 says trusted.
func (c *certificateVerifyCmd) Run(ctx context.Context, io *streams) error {
	path, err := c.verify(ctx, io)
	v := verdict{Trusted: err == nil}
	if err != nil {
		f, ok := errors.AsType[*fault.Error](err)
		if !ok {
			return err
		}
		v.Code, v.Message, v.Detail, v.Remedy = f.Code.String(), f.Message, f.Detail, f.Remedy
		if !c.JSON {
			return err
		}
	} else {
		for _, cert := range path.Certificates {
			v.Path = append(v.Path, cmp.Or(cert.Subject.String(), "(no subject)"))
		}
	}
	if c.JSON {
		if err := printJSON(io.out, v); err != nil || v.Trusted {
			return err
		}
		return errSilent
	}
	fmt.Fprintln(io.out, "trusted")
	for i, name := range v.Path {
		fmt.Fprintf(io.out, "%*s%s\n", 2*i+2, "", name)
	}
	return nil
}

func (c *certificateVerifyCmd) verify(ctx context.Context, io *streams) (*chain.Path, error) {
	text, err := fileText(io, c.File)
	if err != nil {
		return nil, err
	}
	certs, err := chain.ParseCertificates(text)
	if err != nil {
		return nil, err
	}
	o := chain.Options{At: c.At, Usage: chain.Usage(c.Usage), Host: c.Name, Presented: certs[1:]}
	if o.At.IsZero() {
		o.At = time.Now()
	}
	if o.Anchors, err = readPool(c.Anchors); err != nil {
		return nil, err
	}
	if c.Intermediates != "" {
		if o.Intermediates, err = readPool(c.Intermediates); err != nil {
			return nil, err
		}
	}
	if c.CRLs != "" {
		raw, err := os.ReadFile(c.CRLs)
		if err != nil {
			return nil, fault.Wrap(fault.ParameterInvalid, err, "the CRL file cannot be read")
		}
		lists, err := chain.ParseCRLs(raw)
		if err != nil {
			return nil, err
		}
		o.Status, o.RequireStatus = chain.NewCRLs(lists, o.At), true
	}
	return chain.Verify(ctx, certs[0], o)
}

func readPool(path string) (*chain.Pool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, path, "cannot be read")
	}
	return chain.ParsePool(raw)
}

type certificateLintCmd struct {
	File    string `arg:"" help:"Certificate, PEM or DER."`
	Profile string `help:"Preset, or file with a profile, to hold it against." placeholder:"NAME"`
	JSON    bool   `help:"Print JSON."`
}

// Run prints findings; exit 1 if one is an error.
func (c *certificateLintCmd) Run(io *streams) error {
	text, err := fileText(io, c.File)
	if err != nil {
		return err
	}
	der, err := certificateDER(text)
	if err != nil {
		return err
	}
	findings := lint.Certificate(der)
	if c.Profile != "" {
		p, err := c.profile(io)
		if err != nil {
			return err
		}
		findings = append(findings, lint.AgainstProfile(der, p)...)
	}
	if findings == nil {
		findings = []lint.Finding{}
	}
	failed := false
	for _, f := range findings {
		failed = failed || f.Severity == lint.Error
	}
	if c.JSON {
		err = printJSON(io.out, findings)
	} else {
		err = printFindings(io, findings)
	}
	if err == nil && failed {
		return errSilent
	}
	return err
}

func printFindings(io *streams, findings []lint.Finding) error {
	if len(findings) == 0 {
		fmt.Fprintln(io.out, "no findings")
		return nil
	}
	rows := make([][]string, len(findings))
	for i, f := range findings {
		rows[i] = []string{string(f.Severity), f.Rule, f.Source, f.Message}
	}
	return printTable(io.out, []string{"SEVERITY", "RULE", "SOURCE", "FINDING"}, rows)
}

// certificateDER takes the first certificate of a PEM file, or DER as it is, so
// that what no parser accepts can be looked at too.
func certificateDER(text []byte) ([]byte, error) {
	if len(text) > 0 && text[0] == 0x30 {
		return text, nil
	}
	certs, err := chain.ParseCertificates(text)
	if err != nil {
		return nil, err
	}
	return certs[0].Raw, nil
}

func (c *certificateLintCmd) profile(io *streams) (*profile.Profile, error) {
	text, ok := profile.Preset(c.Profile)
	if !ok {
		var err error
		if text, err = fileText(io, c.Profile); err != nil {
			return nil, fault.New(fault.ProfileUnknown, c.Profile)
		}
	}
	return profile.Parse(text)
}
