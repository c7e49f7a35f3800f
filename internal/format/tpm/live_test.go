package tpm_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/needs"
)

// softwareTPM starts a TPM of its own for the test.
func softwareTPM(t *testing.T) transport.TPM {
	t.Helper()
	needs.Linux(t)
	swtpm := needs.Command(t, "swtpm")
	dir, err := os.MkdirTemp("", "tpm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, pid := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	// With --daemon it returns when the socket listens.
	out, err := exec.CommandContext(t.Context(), swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--daemon", "--pid", "file="+pid,
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear").CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm: %v: %s", err, out)
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(pid)
		if n, _ := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n > 1 {
			_ = syscall.Kill(n, syscall.SIGTERM)
		}
	})
	chip, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

// primary has the TPM make a key from a template and returns its public area.
func primary(t *testing.T, chip transport.TPM, hierarchy tpm2.TPMHandle, template []byte) ([]byte, error) {
	t.Helper()
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: hierarchy,
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](template),
	}.Execute(chip)
	if err != nil {
		return nil, err
	}
	if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(chip); err != nil {
		t.Fatal(err)
	}
	return made.OutPublic.Bytes(), nil
}

func TestATPMMakesTheEKsThatWeRebuild(t *testing.T) {
	chip := softwareTPM(t)
	for _, template := range tpm.EKTemplates() {
		if template.Bits == 4096 {
			continue // libtpms has none; compared with the profile in TestEKTemplates
		}
		t.Run(template.Name, func(t *testing.T) {
			nonces := [][]byte{nil}
			if template.Low() {
				nonces = append(nonces, []byte("a nonce of the maker"))
			}
			made := make(map[string]bool)
			for _, nonce := range nonces {
				sent, err := primary(t, chip, tpm2.TPMRHEndorsement, template.Public(nonce))
				if err != nil {
					t.Fatal(err)
				}
				built, err := tpm.EKPublic(template, parsePublic(t, sent).Key)
				if err != nil || !bytes.Equal(built, sent) {
					t.Errorf("rebuilt %x\nsent    %x: %v", built, sent, err)
				}
				made[string(sent)] = true
			}
			if len(made) != len(nonces) {
				t.Error("the nonce makes no other key")
			}
		})
	}
}

func TestATPMMakesOurKeys(t *testing.T) {
	chip := softwareTPM(t)
	templates := map[string]struct {
		make      func(tpm.KeyKind) []byte
		hierarchy tpm2.TPMHandle
		want      tpm.Attributes
		refuse    tpm.Attributes
	}{
		"attestation": {tpm.AKTemplate, tpm2.TPMRHOwner, tpm.Restricted | tpm.Sign, tpm.Decrypt},
		"subject":     {tpm.SubjectTemplate, tpm2.TPMRHOwner, tpm.Sign, tpm.Restricted | tpm.Decrypt},
		"IDevID":      {tpm.IDevIDTemplate, tpm2.TPMRHEndorsement, tpm.Sign | tpm.AdminWithPolicy, tpm.Restricted | tpm.Decrypt},
		"IAK":         {tpm.IAKTemplate, tpm2.TPMRHEndorsement, tpm.Sign | tpm.AdminWithPolicy | tpm.Restricted, tpm.Decrypt},
	}
	for name, template := range templates {
		for _, kind := range []tpm.KeyKind{tpm.ECP256, tpm.ECP384, tpm.ECP521, tpm.RSA2048, tpm.RSA3072} {
			t.Run(name+" "+string(kind), func(t *testing.T) {
				sent, err := primary(t, chip, template.hierarchy, template.make(kind))
				if err != nil {
					t.Fatal(err)
				}
				p := parsePublic(t, sent)
				fixed := tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin
				if !p.Attributes.Has(fixed|template.want) || p.Attributes.Any(template.refuse) {
					t.Errorf("attributes %#x", uint32(p.Attributes))
				}
				if p.Attributes.Has(tpm.Restricted) != (p.Scheme.Alg != tpm.AlgNull) && name != "IDevID" {
					t.Errorf("scheme %v", p.Scheme)
				}
			})
		}
		if template.make("brainpool") != nil {
			t.Errorf("%s: a template for a kind that there is not", name)
		}
	}
	if _, err := primary(t, chip, tpm2.TPMRHOwner, tpm.StorageTemplate()); err != nil {
		t.Errorf("storage root key: %v", err)
	}
}
