package rest

import (
	"context"
	"encoding/pem"
	"net/http"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// rootsElsewhere are the acts that a root needs here when its key is elsewhere,
// as after a key ceremony.
func (a *API) rootsElsewhere() {
	add(a, op{method: http.MethodPost, path: "/authorities/requests", action: access.AuthorityManage, summary: "Make the key of an issuing authority that a root elsewhere will sign, and its request", everywhere: true, status: http.StatusCreated}, a.requestAuthority)
	add(a, op{method: http.MethodPost, path: "/authorities/{name}/crl/import", action: access.AuthorityManage, summary: "Publish a CRL that a root elsewhere has signed", everywhere: true}, a.importCRL)
}

// AuthorityRequest is what a root elsewhere signs.
type AuthorityRequest struct {
	Name string `json:"name"`
	CSR  string `json:"csr" doc:"PEM PKCS #10"`
}

func (a *API) requestAuthority(ctx context.Context, c *access.Caller, in *struct {
	Body struct {
		Name       string    `json:"name" minLength:"1" maxLength:"40"`
		CommonName string    `json:"common_name,omitempty" maxLength:"64"`
		KeyType    string    `json:"key_type,omitempty" doc:"Absent: p256, or what the signer's key is"`
		Key        string    `json:"key,omitempty" maxLength:"128" doc:"signer:NAME of a key that birthmark-signer has; absent: a new file"`
		CRLShards  int       `json:"crl_shards,omitempty" minimum:"0" maximum:"256"`
		Hardware   *Hardware `json:"hardware,omitempty" doc:"What holds the key, for the record"`
	}
},
) (*one[AuthorityRequest], error) {
	b := &in.Body
	csr, err := a.cfg.Authority.RequestIssuing(ctx, c.Name, authority.NewAuthority{
		Name: b.Name, CommonName: b.CommonName, KeyType: profile.KeyType(b.KeyType), KeyURI: b.Key, CRLShards: b.CRLShards, Hardware: b.Hardware.row(),
	})
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	return &one[AuthorityRequest]{AuthorityRequest{Name: b.Name, CSR: string(text)}}, nil
}

func (a *API) importCRL(ctx context.Context, c *access.Caller, in *struct {
	NamePath
	Body struct {
		CRL string `json:"crl" doc:"PEM"`
	}
},
) (*one[Authority], error) {
	block, _ := pem.Decode([]byte(in.Body.CRL))
	if block == nil || block.Type != "X509 CRL" {
		return nil, fault.New(fault.CRLInvalid, "it is not one in PEM")
	}
	if err := a.cfg.System.ImportCRL(ctx, c, in.Name, block.Bytes); err != nil {
		return nil, err
	}
	return a.answerAuthority(ctx, in.Name)
}
