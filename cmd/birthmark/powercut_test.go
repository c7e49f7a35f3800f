//go:build linux

package main

import (
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/birthmark/birthmark/internal/needs"
)

// A power cut is simulated with a real file system: the data folder lies on an
// image of its own, and what is in the image at the moment of the cut is all
// that is left. What the kernel holds and nobody synced is not in it.

const powerCuts = 8

func TestPowerCut(t *testing.T) {
	d := newDisk(t)
	needs.Time(t)
	c := newCrash(t, t.TempDir(), filepath.Join(d.mount, "data"), "")
	c.startNode(0)
	c.run(powerCuts, d.cut)
}

// TestPowerCutShowsUnsyncedWrites is the control: with syncs that do nothing
// the same comparison must find lost acknowledgements, or it could not find
// any.
func TestPowerCutShowsUnsyncedWrites(t *testing.T) {
	strace := needs.Command(t, "strace")
	d := newDisk(t)
	needs.Time(t)
	c := newCrash(t, t.TempDir(), filepath.Join(d.mount, "data"), "")
	c.nodes[0].under = []string{
		strace, "-f", "-qq", "--seccomp-bpf", "-o", os.DevNull,
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:retval=0",
	}
	c.startNode(0)
	c.load(func(*mathrand.Rand) {
		time.Sleep(2 * time.Second)
		d.cut(c.nodes[0])
	})
	if c.issued.Load() == 0 {
		t.Fatal("nothing was acknowledged before the cut")
	}
	problems := c.compare()
	t.Logf("%d acknowledged, %d found lost", c.issued.Load()+c.renewed.Load()+c.revoked.Load(), len(problems))
	if len(problems) == 0 {
		t.Error("writes that were never synced survived the cut: the test would not notice a lost certificate")
	}
}

// disk is a file system in an image.
type disk struct {
	t            *testing.T
	image, mount string
	cuts         int
}

// newDisk mounts a new image, or names what is missing.
func newDisk(t *testing.T) *disk {
	t.Helper()
	needs.Linux(t)
	mkfs := needs.Command(t, "mkfs.ext4")
	needs.Root(t)
	dir := t.TempDir()
	d := &disk{t: t, image: filepath.Join(dir, "disk"), mount: filepath.Join(dir, "mount")}
	if err := os.Mkdir(d.mount, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 256<<20); err != nil {
		t.Fatal(err)
	}
	d.run(mkfs, "-q", d.image)
	out, err := exec.Command("mount", "-o", "loop", d.image, d.mount).CombinedOutput()
	needs.Need(t, "loop mounts: "+string(out), err == nil)
	t.Cleanup(func() { d.run("umount", "-l", d.mount) })
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// cut ends the server and leaves what had reached the disk. The server stands
// still while the image is copied, so that the copy is of one moment.
func (d *disk) cut(n *crashNode) {
	d.t.Helper()
	if err := n.server().Signal(syscall.SIGSTOP); err != nil {
		d.t.Fatal(err)
	}
	d.cuts++
	left := d.image + ".left"
	d.run("cp", "--sparse=always", d.image, left)
	n.kill()
	d.run("umount", d.mount)
	if err := os.Rename(left, d.image); err != nil {
		d.t.Fatal(err)
	}
	d.run("mount", "-o", "loop", d.image, d.mount)
}
