//go:build unix

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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/format/tpm/tpmtest"
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

// TestEventLogLeadsToTheRegisters extends the registers of a TPM as the log says.
func TestEventLogLeadsToTheRegisters(t *testing.T) {
	chip := softwareTPM(t)
	written := tpmtest.NewLog(tpm.AlgSHA256, tpm.AlgSHA384, tpm.AlgSHA1)
	for i, pcr := range []int{0, 4, 0, 7, 23, 4} {
		data := []byte{byte(i)}
		written.Measure(pcr, tpm.EventSeparator, data)
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
				{HashAlg: tpm2.TPMAlgSHA256, Digest: sum(tpm.AlgSHA256, data)}, {HashAlg: tpm2.TPMAlgSHA384, Digest: sum(tpm.AlgSHA384, data)},
			}},
		}.Execute(chip)
		if err != nil {
			t.Fatal(err)
		}
	}
	l := parseLog(t, written.Bytes())
	for pcr, value := range l.Replay(tpm.AlgSHA256) {
		if got := register(t, chip, tpm2.TPMAlgSHA256, pcr); !bytes.Equal(got, value) {
			t.Errorf("register %d holds %x, the log leads to %x", pcr, got, value)
		}
	}
	if len(l.Replay(tpm.AlgSHA256)) != 4 || len(l.Replay(tpm.AlgSHA1)) != 4 {
		t.Error("registers are missing")
	}
}

func register(t testing.TB, chip transport.TPM, bank tpm2.TPMAlgID, pcr int) []byte {
	t.Helper()
	read, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: bank, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(pcr))},
	}}}.Execute(chip)
	if err != nil || len(read.PCRValues.Digests) != 1 {
		t.Fatalf("register %d: %v", pcr, err)
	}
	return read.PCRValues.Digests[0].Buffer
}

// TestKeyFileLoadsAgain keeps a key as a file and loads it below a parent that is
// made anew.
func TestKeyFileLoadsAgain(t *testing.T) {
	chip := softwareTPM(t)
	parent := func() (tpm2.NamedHandle, func()) {
		made, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHOwner,
			InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](tpm.StorageTemplate()),
		}.Execute(chip)
		if err != nil {
			t.Fatal(err)
		}
		return tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, func() {
			if _, err := (tpm2.FlushContext{FlushHandle: made.ObjectHandle}).Execute(chip); err != nil {
				t.Fatal(err)
			}
		}
	}
	handle, flush := parent()
	created, err := tpm2.Create{
		ParentHandle: handle,
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](tpm.SubjectTemplate(tpm.ECP256)),
	}.Execute(chip)
	if err != nil {
		t.Fatal(err)
	}
	flush()
	want := &tpm.KeyFile{EmptyAuth: true, Parent: tpm.HierarchyOwner, Public: tpm2.Marshal(created.OutPublic), Private: tpm2.Marshal(created.OutPrivate)}
	file, err := want.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpm.ParseKeyFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	public, err := tpm.Unsized(got.Public)
	if err != nil {
		t.Fatal(err)
	}
	private, err := tpm.Unsized(got.Private)
	if err != nil {
		t.Fatal(err)
	}
	handle, flush = parent()
	defer flush()
	loaded, err := tpm2.Load{
		ParentHandle: handle, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](public), InPrivate: tpm2.TPM2BPrivate{Buffer: private},
	}.Execute(chip)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(loaded.Name.Buffer, parsePublic(t, public).Name()) {
		t.Errorf("loaded %x", loaded.Name.Buffer)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: loaded.ObjectHandle}).Execute(chip); err != nil {
		t.Fatal(err)
	}
}
