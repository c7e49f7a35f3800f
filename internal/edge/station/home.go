package station

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/birthmark/birthmark/internal/edge/refusal"
	"github.com/birthmark/birthmark/internal/edge/station/durable"
	"github.com/birthmark/birthmark/internal/edge/station/link"
	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
)

// The files of a state folder. A credential is one file, so that key and
// certificate can never be of two different ones.
const (
	settingsFile   = "station.json"
	trustFile      = "trust.pem"
	credentialFile = "credential.pem"
	pendingFile    = "pending.pem" // the key of a certificate that is asked for
)

// Settings is what a station keeps of its enrollment.
type Settings struct {
	Server  string `json:"server"`
	Station string `json:"station"`
	Site    string `json:"site"`
}

// Home is a station's state folder.
type Home struct {
	dir        string
	settings   Settings
	trust      *x509.CertPool
	credential atomic.Pointer[tls.Certificate]
}

// Enrollment is what enrolling takes.
type Enrollment struct {
	Dir    string // made if it is not there
	Server string // https://host:port
	Code   string
	Trust  []byte // PEM of the authorities to trust
}

// Enroll spends a one-time code for the station's first certificate, or for that
// of a new computer. Repeating it after an answer that was lost uses the same
// key, for which the server repeats the same answer.
func Enroll(ctx context.Context, e Enrollment) (*Home, error) {
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(e.Trust) {
		return nil, fault.New(fault.ParameterInvalid, "the trust file holds no certificate")
	}
	if err := os.MkdirAll(e.Dir, 0o700); err != nil {
		return nil, err
	}
	h := &Home{dir: e.Dir, trust: trust, settings: Settings{Server: e.Server}}
	client, err := link.New(link.Config{URL: e.Server, Trust: trust})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	err = h.next(func(csr []byte) (*station.Enrolled, error) {
		in, err := client.Enroll(ctx, &station.EnrollRequest{Code: e.Code, CSR: csr})
		if err != nil {
			return nil, err
		}
		h.settings.Station, h.settings.Site = refusal.Printable(in.Station), refusal.Printable(in.Site)
		settings, err := json.MarshalIndent(h.settings, "", "  ")
		if err != nil {
			return nil, err
		}
		return in, errors.Join(h.write(trustFile, e.Trust), h.write(settingsFile, append(settings, '\n')))
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// OpenHome opens the state folder of a station that has enrolled.
func OpenHome(dir string) (*Home, error) {
	h := &Home{dir: dir, trust: x509.NewCertPool()}
	text, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.StationCertificate, "there is no enrolled station in", dir)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &h.settings); err != nil {
		return nil, fault.Wrap(fault.ParameterInvalid, err, settingsFile, "is damaged: enroll again")
	}
	bundle, err := os.ReadFile(filepath.Join(dir, trustFile))
	if err != nil {
		return nil, err
	}
	if !h.trust.AppendCertsFromPEM(bundle) {
		return nil, fault.New(fault.ParameterInvalid, trustFile, "is damaged: enroll again")
	}
	return h, h.load()
}

// Dir returns the folder.
func (h *Home) Dir() string { return h.dir }

// Settings returns who the station is.
func (h *Home) Settings() Settings { return h.settings }

// Credential returns the station's certificate and key.
func (h *Home) Credential() *tls.Certificate { return h.credential.Load() }

// Connect returns a link to the station's server.
func (h *Home) Connect() (*link.Client, error) { return h.ConnectTo(h.settings.Server) }

// ConnectTo returns a link to a server that has moved.
func (h *Home) ConnectTo(server string) (*link.Client, error) {
	return link.New(link.Config{URL: server, Trust: h.trust, Credential: h.Credential})
}

// load reads the credential as it is on the disk now: another process may have
// renewed it.
func (h *Home) load() error {
	path := filepath.Join(h.dir, credentialFile)
	c, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return fault.Wrap(fault.StationCertificate, err, "the station's certificate cannot be read")
	}
	h.credential.Store(&c)
	return nil
}

// Due reports whether two thirds of the certificate's life are over.
func (h *Home) Due(now time.Time) bool {
	leaf := h.Credential().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return now.After(leaf.NotBefore.Add(life / 3 * 2))
}

// Renew gets the next certificate if it is time, and whether it did. A process
// that finds another one at it leaves it to that.
func (h *Home) Renew(ctx context.Context, client *link.Client, now time.Time) (bool, error) {
	if err := h.load(); err != nil || !h.Due(now) {
		return false, err
	}
	release, ok, err := durable.Hold(filepath.Join(h.dir, "renew.lock"))
	if err != nil || !ok {
		return false, err
	}
	defer release()
	err = h.next(func(csr []byte) (*station.Enrolled, error) {
		return client.Renew(ctx, &station.RenewRequest{CSR: csr})
	})
	if err != nil {
		return false, err
	}
	client.Renewed()
	return true, nil
}

// next makes a key, has a certificate issued for it and puts both in place. The
// key is on the disk before it is sent: were the answer lost, the same question
// gets the same answer.
func (h *Home) next(ask func(csr []byte) (*station.Enrolled, error)) error {
	key, err := h.pendingKey()
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	got, err := ask(csr)
	if err != nil {
		if fault.Of(err).Kind == fault.Conflict {
			_ = os.Remove(filepath.Join(h.dir, pendingFile)) // this key is of no use any more
		}
		return err
	}
	text, err := credentialPEM(key, got)
	if err != nil {
		return err
	}
	if err := h.write(credentialFile, text); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(h.dir, pendingFile)) // a leftover is only a key of no certificate
	return h.load()
}

func (h *Home) pendingKey() (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(filepath.Join(h.dir, pendingFile))
	if err == nil {
		if block, _ := pem.Decode(text); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := key.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, h.write(pendingFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// credentialPEM checks that the certificate is for the key and writes both.
func credentialPEM(key *ecdsa.PrivateKey, got *station.Enrolled) ([]byte, error) {
	leaf, err := x509.ParseCertificate(got.Certificate)
	if err != nil {
		return nil, fault.Wrap(fault.StationLink, err, "the server sent what is not a certificate")
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		return nil, fault.New(fault.StationLink, "the server sent a certificate for another key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	// The root stays out of the handshake: who is to accept it has it.
	certs := append([][]byte{got.Certificate}, got.Chain[:max(0, len(got.Chain)-1)]...)
	for _, one := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	return text, nil
}

// write puts a file in place in one piece, readable by the owner alone.
func (h *Home) write(name string, text []byte) error {
	return durable.WriteFile(filepath.Join(h.dir, name), text)
}
