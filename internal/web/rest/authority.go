package rest

import (
	"context"
	"encoding/pem"
	"net/http"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// Authority is an authority as the API shows it.
type Authority struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind" enum:"root,issuing"`
	State     string     `json:"state"`
	Parent    string     `json:"parent,omitempty"`
	Key       string     `json:"key,omitempty" doc:"Key URI; absent if the key is elsewhere"`
	KeyReady  bool       `json:"key_ready" doc:"The server can sign with it now"`
	Subject   string     `json:"subject,omitempty"`
	Serial    string     `json:"serial,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	NotAfter  *time.Time `json:"not_after,omitempty"`
	CRLShards int        `json:"crl_shards"`
	PEM       string     `json:"pem,omitempty"`
	Hardware  *Hardware  `json:"hardware,omitempty" doc:"What holds the key, as an operator declared it; absent: a file"`
}

// Hardware is an HSM for the record.
type Hardware struct {
	Model       string `json:"model" minLength:"1" maxLength:"128" doc:"Maker and model"`
	Certificate string `json:"certificate,omitempty" maxLength:"128" doc:"Number of its validation, such as FIPS 140-3 #4718"`
	Level       string `json:"level,omitempty" maxLength:"128" doc:"Level of its validation, such as 3 or EAL4+"`
}

// row is what is kept; nil is nothing.
func (h *Hardware) row() authority.Hardware {
	if h == nil {
		return authority.Hardware{}
	}
	return authority.Hardware(*h)
}

func (a *API) authorities() {
	add(a, op{method: http.MethodGet, path: "/authorities", action: access.AuthorityRead, summary: "List authorities"}, a.listAuthorities)
	add(a, op{method: http.MethodGet, path: "/authorities/{name}", action: access.AuthorityRead, summary: "Show an authority"}, a.showAuthority)
	add(a, op{method: http.MethodPost, path: "/authorities/{name}/retirement", action: access.AuthorityManage, summary: "Retire an authority: it issues no more, its status goes on", everywhere: true}, a.retireAuthority)
	add(a, op{method: http.MethodPost, path: "/authorities", action: access.AuthorityManage, summary: "Make an issuing authority, or sign the request of one elsewhere", everywhere: true, status: http.StatusCreated, localOnly: true}, a.createAuthority)
	add(a, op{method: http.MethodPost, path: "/authorities/{name}/revocation", action: access.AuthorityManage, summary: "Revoke an issuing authority with the root's key", everywhere: true, localOnly: true}, a.revokeAuthority)
	add(a, op{method: http.MethodPost, path: "/authorities/{name}/crl", action: access.AuthorityManage, summary: "Sign a root's CRL and renew its responder", everywhere: true, localOnly: true}, a.signRootCRL)
	add(a, op{method: http.MethodPost, path: "/authorities/import", action: access.AuthorityManage, summary: "Import an authority that exists already", everywhere: true, status: http.StatusCreated}, a.importAuthority)
	a.rootsElsewhere()
}

func showAuthority(plane *authority.Snapshot, m *authority.Member) Authority {
	out := Authority{
		Name: m.Name, Kind: string(m.Kind), State: m.State.String(), Key: m.KeyURI, KeyReady: m.Issuer != nil, CRLShards: m.CRLShards,
	}
	if m.Hardware != (authority.Hardware{}) {
		h := Hardware(m.Hardware)
		out.Hardware = &h
	}
	if parent, ok := plane.AuthorityByID(m.Parent); ok {
		out.Parent = parent.Name
	}
	if m.X509 != nil {
		out.Subject, out.Serial = m.X509.Subject.String(), hexSerial(m.X509.SerialNumber.Bytes())
		out.NotBefore, out.NotAfter = &m.X509.NotBefore, &m.X509.NotAfter
		out.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate}))
	}
	return out
}

func (a *API) listAuthorities(ctx context.Context, _ *access.Caller, _ *nothing) (*list[Authority], error) {
	plane, err := a.cfg.Authority.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	var items []Authority
	for _, m := range plane.Authorities() {
		items = append(items, showAuthority(plane, m))
	}
	return newList(items, ""), nil
}

// NamePath names an object in a path.
type NamePath struct {
	Name string `path:"name" maxLength:"64"`
}

func (a *API) showAuthority(ctx context.Context, _ *access.Caller, in *NamePath) (*one[Authority], error) {
	return a.answerAuthority(ctx, in.Name)
}

func (a *API) answerAuthority(ctx context.Context, name string) (*one[Authority], error) {
	plane, err := a.cfg.Authority.Refresh(ctx)
	if err != nil {
		return nil, err
	}
	m, err := plane.Authority(name)
	if err != nil {
		return nil, err
	}
	return &one[Authority]{showAuthority(plane, m)}, nil
}

func (a *API) retireAuthority(ctx context.Context, c *access.Caller, in *NamePath) (*one[Authority], error) {
	if err := a.cfg.Authority.Retire(ctx, c.Name, in.Name); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, in.Name)
}

// RootAct is what every act of a root needs.
type RootAct struct {
	Root           string `json:"root" default:"root" doc:"Name of the root"`
	RootPassphrase string `json:"root_passphrase,omitempty" doc:"Passphrase of the root's key, used for this act and dropped; a key in the signer needs none"`
}

// session opens the root for one act.
func (a *API) session(ctx context.Context, r RootAct) (*authority.RootSession, error) {
	return a.cfg.Authority.OpenRoot(ctx, r.Root, keystore.Secret(r.RootPassphrase))
}

func (a *API) createAuthority(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		RootAct
		Name       string    `json:"name" minLength:"1" maxLength:"40"`
		CommonName string    `json:"common_name,omitempty" maxLength:"64"`
		KeyType    string    `json:"key_type,omitempty" doc:"Absent: p256, or what the signer's key is"`
		Key        string    `json:"key,omitempty" maxLength:"128" doc:"signer:NAME of a key that birthmark-signer has; absent: a new file"`
		CRLShards  int       `json:"crl_shards,omitempty" minimum:"0" maximum:"256"`
		CSR        string    `json:"csr,omitempty" doc:"PEM or base64 PKCS #10 of an authority whose key is elsewhere"`
		Hardware   *Hardware `json:"hardware,omitempty" doc:"What holds the key, for the record"`
	}
},
) (*one[Authority], error) {
	b := &in.Body
	session, err := a.session(ctx, b.RootAct)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	n := authority.NewAuthority{Name: b.Name, CommonName: b.CommonName, KeyType: profile.KeyType(b.KeyType), KeyURI: b.Key, CRLShards: b.CRLShards, Hardware: b.Hardware.row()}
	if b.CSR != "" {
		csr, err := decodeRequest(b.CSR)
		if err != nil {
			return nil, err
		}
		if _, err := session.SignSubordinate(ctx, c.Name, n, csr); err != nil {
			return nil, err
		}
		return a.answerAuthority(ctx, b.Name)
	}
	if b.Key == "" {
		if n.Secret, err = a.cfg.System.KeySecret("file:" + b.Name); err != nil {
			return nil, fault.Wrap(fault.KeyUnavailable, err)
		}
	}
	if _, err := session.CreateIssuing(ctx, c.Name, n); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, b.Name)
}

type rootActOn struct {
	Name string `path:"name" maxLength:"64"`
	Body struct {
		RootAct
		Reason string `json:"reason,omitempty" default:"cACompromise"`
	}
}

func (a *API) revokeAuthority(ctx context.Context, c *access.Caller, in *rootActOn) (*one[Authority], error) {
	session, err := a.session(ctx, in.Body.RootAct)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	if err := a.cfg.System.RevokeAuthority(ctx, c, session, in.Name, in.Body.Reason); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, in.Name)
}

func (a *API) signRootCRL(ctx context.Context, c *access.Caller, in *rootActOn) (*one[Authority], error) {
	in.Body.Root = in.Name
	session, err := a.session(ctx, in.Body.RootAct)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	if err := a.cfg.System.SignRootCRL(ctx, c, session); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, in.Name)
}

func (a *API) importAuthority(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Name        string    `json:"name" minLength:"1" maxLength:"40"`
		Certificate string    `json:"certificate" doc:"PEM"`
		Key         string    `json:"key,omitempty" doc:"PEM PKCS #8; without it the authority only vouches for certificates that devices present"`
		Hardware    *Hardware `json:"hardware,omitempty" doc:"What holds the key, for the record"`
	}
},
) (*one[Authority], error) {
	e := authority.Existing{Name: in.Body.Name, Certificate: []byte(in.Body.Certificate), Hardware: in.Body.Hardware.row()}
	if in.Body.Key != "" {
		e.Key = []byte(in.Body.Key)
	}
	if err := a.cfg.System.ImportAuthority(ctx, c, e); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, in.Body.Name)
}
