package agent

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/edge/tpm"
	"github.com/birthmark/birthmark/internal/fault"
)

// Finding is one thing that the doctor looked at, in plain words.
type Finding struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Code   string `json:"code,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Examination says what to look at.
type Examination struct {
	TPM    tpm.Config
	Dir    string // empty: not looked at
	Server string // empty: not looked at
	Trust  []byte
	Now    func() time.Time
}

// Doctor looks at everything that an enrollment needs and changes nothing.
func Doctor(ctx context.Context, x Examination) []Finding {
	all := []Finding{rights(x.TPM.Path)}
	t, err := tpm.Open(ctx, x.TPM)
	if err != nil {
		all = append(all, bad("tpm", err))
	} else {
		i := t.Info()
		all = append(all, good("tpm", i.Path, "answers: maker", i.Manufacturer+",", i.Vendor+",", "firmware", i.Firmware))
		all = append(all, x.endorsement(ctx, t)...)
		all = append(all, handles(ctx, t), attestationKey(ctx, t))
	}
	if x.Dir != "" {
		all = append(all, x.folder(ctx, t))
	}
	return append(all, x.link(ctx)...)
}

func good(what string, detail ...any) Finding {
	return Finding{What: what, OK: true, Detail: strings.TrimSuffix(fmt.Sprintln(detail...), "\n")}
}

func bad(what string, err error) Finding {
	f := fault.Of(err)
	detail := f.Message
	if f.Detail != "" {
		detail += ": " + f.Detail
	}
	if cause := errors.Unwrap(f); f.Code == fault.Unexpected && cause != nil {
		detail = cause.Error()
	}
	return Finding{What: what, Detail: detail, Code: f.Code.String(), Remedy: f.Remedy}
}

// rights says who may open the TPM.
func rights(path string) Finding {
	if path == "" {
		path = "/dev/tpmrm0"
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(path, ":"):
		return good("rights", path, "is a port: whoever reaches it may use it")
	case errors.Is(err, fs.ErrNotExist):
		return bad("rights", fault.New(fault.TPMUnreachable, "there is no", path+":", "is the TPM switched on in the firmware, and its driver loaded?"))
	case err != nil:
		return bad("rights", err)
	}
	who := info.Mode().Perm().String()
	if text := owner(info); text != "" {
		who += " " + text
	}
	if path == "/dev/tpm0" {
		who += "; one program at a time: prefer /dev/tpmrm0"
	}
	return good("rights", path, who)
}

// endorsement looks for the endorsement key, its certificate and its template.
func (x *Examination) endorsement(ctx context.Context, t *tpm.TPM) []Finding {
	e, err := t.Endorsement(ctx)
	if err != nil {
		return []Finding{bad("ek", err)}
	}
	where := "made anew for each use"
	if e.Handle != 0 {
		where = fmt.Sprintf("kept at %#08x", e.Handle)
	}
	key := good("ek", "template", e.Template+",", where)
	if len(e.Certificate) == 0 {
		f := bad("ek certificate", fault.New(fault.EKNotListed, "the TPM has none"))
		f.Detail = "the TPM has none: the server takes this device only if its maker's list of keys was imported"
		return []Finding{key, f}
	}
	c, err := x509.ParseCertificate(e.Certificate)
	if err != nil {
		return []Finding{key, bad("ek certificate", fault.Wrap(fault.EKCertificate, err))}
	}
	if expired(c, x.Now()) {
		return []Finding{key, bad("ek certificate", fault.New(fault.EKExpired, "on", c.NotAfter.Format(time.DateOnly)))}
	}
	return []Finding{key, good("ek certificate", "by", c.Issuer.String()+",", "until", c.NotAfter.Format(time.DateOnly)+",", len(e.Chain), "intermediates in the TPM")}
}

// handles looks whether the TPM has room for an enrollment, which takes two objects
// and a session.
func handles(ctx context.Context, t *tpm.TPM) Finding {
	h, err := t.Handles(ctx)
	if err != nil {
		return bad("room", err)
	}
	text := fmt.Sprintf("%d objects and %d sessions loaded, %d keys and %d indices kept", len(h.Objects), len(h.Sessions), len(h.Persistent), len(h.NV))
	if len(h.Objects) > 1 || len(h.Sessions) > 2 {
		return bad("room", fault.New(fault.TPMFailed, text+": another program has left them loaded; tpm2_flushcontext -t and -l clear them"))
	}
	return good("room", text)
}

func attestationKey(ctx context.Context, t *tpm.TPM) Finding {
	ak, err := t.AttestationKey(ctx, "", 0)
	if err != nil {
		return bad("ak", err)
	}
	return good("ak", "can be made, name", fmt.Sprintf("%x", ak.Parsed().Name()[2:10]))
}

// folder looks whether key and certificate are there, fit and can be used.
func (x *Examination) folder(ctx context.Context, t *tpm.TPM) Finding {
	h := &home{x.Dir}
	text, err := h.read(KeyFile)
	if err != nil {
		return bad("folder", err)
	}
	if text == nil {
		return good("folder", x.Dir, "holds no key yet")
	}
	s, err := StatusOf(x.Dir, x.Now())
	if err != nil {
		return bad("folder", err)
	}
	public, err := tries(ctx, t, text)
	if err != nil {
		return bad("folder", err)
	}
	c, err := h.certificate(CertificateFile)
	switch {
	case err != nil:
		return bad("folder", err)
	case c == nil:
		return good("folder", x.Dir, "holds a usable key and no certificate yet")
	case !public.Equal(c.PublicKey):
		return bad("folder", fault.New(fault.AgentState, CertificateFile, "is for another key than", KeyFile))
	case s.Certificate.Expired:
		return bad("folder", fault.New(fault.AgentState, "the certificate ended on", c.NotAfter.Format(time.RFC3339)+":", "enroll again"))
	}
	return good("folder", "key in the "+s.Key+" works, certificate until", c.NotAfter.Format(time.RFC3339))
}

// tries signs with a key and returns its public key.
func tries(ctx context.Context, t *tpm.TPM, text []byte) (interface{ Equal(crypto.PublicKey) bool }, error) {
	var signer crypto.Signer
	var err error
	switch {
	case !isTPMKey(text):
		if signer, err = parsePKCS8(text); err != nil {
			return nil, fault.Wrap(fault.AgentState, err, KeyFile)
		}
	case t == nil:
		return nil, fault.New(fault.TPMUnreachable, "so the key cannot be tried")
	default:
		k, err := tpm.ParseFile(text)
		if err != nil {
			return nil, fault.Wrap(fault.AgentState, err, KeyFile)
		}
		signer = t.Signer(ctx, k)
	}
	digest := sha256.Sum256([]byte("birthmark-agent doctor"))
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); err != nil {
		return nil, err
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, fault.New(fault.AgentState, KeyFile, "is of a kind that we do not use")
	}
	return public, nil
}

// clockLimit is how far a clock may be off: certificates begin only minutes before
// they were issued.
const clockLimit = 2 * time.Minute

// link looks whether the server answers as one of ours, and at the two clocks.
func (x *Examination) link(ctx context.Context) []Finding {
	if x.Server == "" {
		if x.Now().Year() < 2025 {
			return []Finding{bad("clock", fault.New(fault.AgentLink, "this clock says", x.Now().Format(time.RFC3339)))}
		}
		return []Finding{good("clock", x.Now().Format(time.RFC3339))}
	}
	s, err := newServer(x.Server, x.Trust, Requester{})
	if err != nil {
		return []Finding{bad("server", err)}
	}
	defer s.close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"/.well-known/est/cacerts", nil)
	if err != nil {
		return []Finding{bad("server", err)}
	}
	begin := x.Now()
	resp, err := s.http.Do(req)
	if err != nil {
		return []Finding{bad("server", noAnswer(err))}
	}
	_ = resp.Body.Close() // only the head is of interest
	took := x.Now().Sub(begin)
	all := []Finding{good("server", s.base, "answers", resp.StatusCode, "after", took.Round(time.Millisecond))}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		if off := at.Sub(begin.Add(took / 2)).Abs(); off > clockLimit {
			return append(all, bad("clock", fault.New(fault.AgentLink, "this clock is", off.Round(time.Second), "off the server's")))
		}
	}
	return append(all, good("clock", x.Now().Format(time.RFC3339), "as the server's"))
}
