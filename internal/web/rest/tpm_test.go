package rest_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm/tpmtest"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/web/webtest"
)

// bench is what the acts of tpm.txt know.
type bench struct {
	*world
	maker *tpmtest.Maker
	keys  map[string]crypto.Signer
	chip  *tpmtest.TPM
	ak    *tpmtest.Key
}

func TestTPMAPI(t *testing.T) {
	b := &bench{world: newWorld(t), keys: map[string]crypto.Signer{}}
	b.maker = tpmtest.NewMaker(t, "Acme", tpmtest.MakerOptions{Now: b.Now()})
	b.chip = tpmtest.New(t, b.maker, tpmtest.Options{Vendor: "id:41434D45", Model: "AC9"})
	b.ak = b.chip.NewAK(wire.ECP256)
	officer, _ := access.ActionsOf(access.RAOfficer)
	viewer, _ := access.ActionsOf(access.Viewer)
	_, err := b.Authority.AddProduct(t.Context(), "system", device.Product{Name: "gateway", Profiles: []string{"ldevid-tpm", "attestation-key"}})
	must(t, err)
	products, err := b.Store.Products(t.Context(), access.Everything())
	must(t, err)
	s := &webtest.Script{
		Network: "tcp", Address: b.network.Address, Bodies: map[string][]byte{},
		Vars: map[string]string{
			"officer": b.token(t, access.Everything(), officer...), "viewer": b.token(t, access.Everything(), viewer...),
			"devices": b.token(t, access.Everything(), access.DeviceRead),
			"sensor":  b.token(t, access.Limited([]int64{products[0].ID}, nil, nil), access.Actions()...),
		},
		Acts: map[string]func(*testing.T, *webtest.Script, []string){
			"bundle": b.actBundle, "attested": b.actAttested, "enrolled": b.actEnrolled,
		},
	}
	s.Run(t, "testdata/tpm.txt")
}

// bundle NAME SIGNER VERSION: the body NAME imports a version that SIGNER signed;
// ${SIGNER} is its fingerprint.
func (b *bench) actBundle(t *testing.T, s *webtest.Script, args []string) {
	key := b.keys[args[1]]
	if key == nil {
		_, key, _ = ed25519.GenerateKey(rand.Reader)
		b.keys[args[1]] = key
	}
	var version int64
	_, err := fmt.Sscan(args[2], &version)
	must(t, err)
	file := tpmtest.Bundle(version, b.maker)
	file.Deny = []attest.Deny{{Vendor: "id:4F4C4421", Reason: "weak keys", FirmwareTo: 0x1ff}}
	content, err := json.Marshal(file)
	must(t, err)
	text, err := attest.SignBundle(content, key, rand.Reader)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	s.Vars[args[1]] = attest.Fingerprint(spki)
	s.Bodies[args[0]], err = json.Marshal(map[string]any{"bundle": string(text), "signer": s.Vars[args[1]], "repin": slices.Contains(args[3:], "repin")})
	must(t, err)
}

// attested SERIAL: a device whose TPM proved two keys; ${SERIAL} is the serial of
// its operational certificate, ${ek} its endorsement key.
func (b *bench) actAttested(t *testing.T, s *webtest.Script, args []string) {
	b.Follow(t)
	d := b.Device(t, "gateway", args[0])
	by := enroll.Requester{DeviceSerial: args[0], Secret: []byte(d.Secret)}
	c, err := b.Enroller.Challenge(t.Context(), enroll.ChallengeRequest{Requester: by, Claim: b.chip.Claim(b.ak)})
	must(t, err)
	key := b.chip.NewSubject(wire.ECP256)
	answer, err := b.chip.Answer(b.ak, key, c)
	must(t, err)
	r, err := b.Enroller.Enroll(t.Context(), enroll.Request{
		Operation: enroll.Enroll, CSR: webtest.NewCSR(t, key.Signer, nil), Requester: by, TPM: &answer,
	})
	must(t, err)
	s.Vars[args[0]] = strings.ToUpper(hex.EncodeToString(r.Credential.CertSerial))
}
