package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

type quickstartCmd struct {
	Data    string `help:"Folder for everything it makes." default:"birthmark-quickstart" type:"path"`
	Devices int    `help:"How many simulated devices are made." default:"200"`
	Exit    bool   `help:"Stop when the story is told instead of serving on."`
}

// story is a quickstart under way.
type story struct {
	cmd     *quickstartCmd
	io      *streams
	node    *node
	caller  access.Caller
	at      addresses
	anchors *x509.CertPool
	issuing *x509.Certificate
}

// Run makes a PKI and a factory, provisions devices at simulated stations over
// the real paths, shows what is refused, and serves on.
func (c *quickstartCmd) Run(ctx context.Context, io *streams) error {
	if c.Devices < 1 || c.Devices > 100_000 {
		return fault.New(fault.ParameterInvalid, "--devices takes 1 to 100000")
	}
	settings := Settings{
		Data: c.Data, ServerKey: "p256", CRLValidity: 24 * time.Hour, OCSPValidity: time.Hour, LogLevel: "error", LogFormat: "text",
		DeviceListen: freePort("127.0.0.1:8443"), ConsoleListen: freePort("127.0.0.1:9080"), StatusListen: freePort("127.0.0.1:8080"),
	}
	log, closeLog := newLogger(&settings, io.err)
	defer closeLog()
	s := &story{cmd: c, io: io}
	if err := s.makePKI(ctx, settings, log); err != nil {
		return joinClose(ctx, s.node, err)
	}
	return s.serve(ctx, log, settings)
}

// freePort returns the address, or one with a port the system picks if it is
// taken.
func freePort(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close() // it was only to see whether the address is free
	return address
}

// makePKI makes the data folder on the first run and finds it on the second.
func (s *story) makePKI(ctx context.Context, settings Settings, log *slog.Logger) (err error) {
	begin := time.Now()
	user, err := localUser()
	if err != nil {
		return err
	}
	if s.node, err = openNode(ctx, settings, log, nodeOptions{create: true}); err != nil {
		return err
	}
	passphrase := filepath.Join(s.cmd.Data, "secrets", "root.passphrase")
	if _, err := os.Stat(passphrase); errors.Is(err, os.ErrNotExist) {
		if err := writeFile(passphrase, append(keystore.NewPassphrase(rand.Reader), '\n'), 0o600); err != nil {
			return err
		}
	}
	secret, err := readSecret(passphrase)
	if err != nil {
		return err
	}
	_, statErr := os.Stat(s.node.folder.bundle())
	err = s.node.install(ctx, installation{
		organization: "Quickstart", statusURL: "http://localhost:8080", quickstart: true,
		keyType: profile.P256, root: secret, operator: user,
	})
	if err != nil {
		return err
	}
	if s.caller, err = s.node.access.LocalCaller(ctx, user); err != nil {
		return err
	}
	if statErr == nil {
		s.say("Found the PKI of the last run in %s.", s.cmd.Data)
		return nil
	}
	s.say("Made a root, an issuing authority, profiles and a ledger in %s (%s).", s.cmd.Data, since(begin))
	return nil
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.io.out, format+"\n", args...) }

func since(t time.Time) string { return time.Since(t).Round(time.Millisecond).String() }

// serve runs the server and tells the story beside it.
func (s *story) serve(ctx context.Context, log *slog.Logger, settings Settings) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	told := make(chan error, 1)
	err := s.node.serve(running, func(at addresses) {
		s.at = at
		go func() {
			err := s.tell(running)
			told <- err
			if s.cmd.Exit || err != nil {
				stop()
			}
		}()
	})
	select {
	case failed := <-told:
		err = errors.Join(failed, err)
	default:
		if err == nil && ctx.Err() == nil {
			err = errors.New("the server stopped before the story was told")
		}
	}
	return joinClose(ctx, s.node, err)
}

// tell is the story itself.
func (s *story) tell(ctx context.Context) error {
	if err := s.readAnchors(ctx); err != nil {
		return err
	}
	p, err := s.produce(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	devices, err := p.activate(ctx)
	if err != nil {
		return err
	}
	if err := s.showRevocation(ctx, devices); err != nil {
		return err
	}
	if err := p.ship(ctx); err != nil {
		return err
	}
	if err := p.report(ctx); err != nil {
		return err
	}
	if err := s.account(ctx); err != nil {
		return err
	}
	return s.whatNext(ctx, p.order.Number)
}

func (s *story) readAnchors(ctx context.Context) error {
	pem, err := os.ReadFile(s.node.folder.bundle())
	if err != nil {
		return err
	}
	s.anchors = x509.NewCertPool()
	s.anchors.AppendCertsFromPEM(pem)
	plane, err := s.node.authority.Snapshot(ctx)
	if err != nil {
		return err
	}
	m, err := plane.Authority("issuing")
	if err != nil {
		return err
	}
	s.issuing = m.X509
	return nil
}

// account prints what the register holds now.
func (s *story) account(ctx context.Context) error {
	counts, err := s.node.store.Counts(ctx, s.caller.Scope)
	if err != nil {
		return err
	}
	size, err := s.node.store.LedgerSize(ctx)
	if err != nil {
		return err
	}
	s.say("The register: %d devices active, %d certificates good, %d revoked, %d entries in the ledger.",
		counts.Devices[device.Active], counts.Credentials[device.Issued]+counts.Credentials[device.Confirmed],
		counts.Credentials[device.Revoked], size)
	return nil
}

// whatNext writes a script that enrolls a key made by openssl and says how to
// use it.
func (s *story) whatNext(ctx context.Context, order string) error {
	added, err := s.node.register.Add(ctx, &s.caller, []device.NewDevice{{DeviceSerial: "MY-" + rand.Text()[:6], Product: quickstartBoard}})
	if err != nil {
		return err
	}
	path := filepath.Join(s.cmd.Data, "try-enroll.sh")
	text := fmt.Sprintf(tryScript, s.node.folder.bundle(), added[0].Device.DeviceSerial, added[0].Secret, s.at.device, s.at.status)
	if err := writeFile(path, []byte(text), 0o700); err != nil {
		return err
	}
	s.say("\nTry it yourself, with a key of your own:\n  sh %s\n", path)
	s.say("And the command line, in another terminal:\n  %[1]s order show %[3]s --data %[2]s\n  %[1]s device list --data %[2]s\n  %[1]s ledger verify --data %[2]s",
		invocation(), s.cmd.Data, order)
	if !s.cmd.Exit {
		s.say("\nServing: devices https://%s  status http://%s  API http://%s. Stop with Ctrl-C.", s.at.device, s.at.status, s.at.console)
	}
	return nil
}

// invocation is how the user started this program.
func invocation() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/birthmark"
	}
	return os.Args[0]
}

// tryScript enrolls a key made by openssl with curl. Arguments: bundle, device
// serial, secret, device address, status address.
const tryScript = `#!/bin/sh
# Enrolls a key made by openssl over EST with curl, and asks OCSP about it.
set -eu
cd "$(mktemp -d)"
openssl ecparam -name prime256v1 -genkey -noout -out device.key
openssl req -new -key device.key -subj "/CN=%[2]s" -outform DER -out device.csr
openssl base64 -e -in device.csr -out device.b64
curl --silent --show-error --fail-with-body --cacert "%[1]s" --user "%[2]s:%[3]s" \
  --header "Content-Type: application/pkcs10" --data-binary @device.b64 \
  --output answer.b64 "https://%[4]s/.well-known/est/simpleenroll"
openssl base64 -d -A -in answer.b64 -out answer.p7
openssl pkcs7 -inform DER -in answer.p7 -print_certs -out device.pem
openssl x509 -in device.pem -noout -subject -issuer -serial -dates
openssl verify -CAfile "%[1]s" device.pem
curl --silent --show-error --fail --output issuing.cer "http://%[5]s/ca/issuing.cer"
openssl x509 -inform DER -in issuing.cer -out issuing.pem
openssl ocsp -issuer issuing.pem -cert device.pem -CAfile "%[1]s" -url "http://%[5]s/ocsp/issuing" -no_nonce
echo "The device's key and certificate are in $PWD"
`
