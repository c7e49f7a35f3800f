package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// patience is how long a process may take to end once it is told to.
const patience = 30 * time.Second

// process is a program that this one has started and will end.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder // lines of JSON that it writes
}

// start runs a program, with more environment, until it ends by itself, stop is called or ctx is done.
// Its standard error goes to a file in folder.
func start(ctx context.Context, folder, name string, env []string, program string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	log, err := os.OpenFile(filepath.Join(folder, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	p := &process{name: name, cmd: cmd}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// startPart runs a part of this program.
func startPart(ctx context.Context, folder, part string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, folder, part, nil, self, append([]string{part}, args...)...)
}

// ask writes a line of JSON and reads one.
func (p *process) ask(question, answer any) error {
	if err := json.NewEncoder(p.in).Encode(question); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return p.read(answer)
}

func (p *process) read(answer any) error {
	if err := p.out.Decode(answer); err != nil {
		return fmt.Errorf("%s did not answer, see its log: %w", p.name, err)
	}
	return nil
}

// stop tells the process to end and waits for it. That it then ended by our
// signal is no error.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	_ = p.in.Close() // it may be gone
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
			return nil
		}
		return err
	case <-time.After(patience):
		return errors.Join(p.cmd.Process.Kill(), fmt.Errorf("%s did not end in %s and was killed", p.name, patience))
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// tick is the unit of times in /proc/PID/stat on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// stat returns the fields of /proc/PID/stat after the program's name: state,
// parent, ...
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is not as expected", pid)
	}
	return fields, nil
}

// Places in the fields of stat (proc(5) counts from one, and the name is off).
const (
	statParent   = 1
	statUser     = 11
	statSystem   = 12
	statChildren = 13 // and the next: of children that have ended
)

func ticks(fields []string, from, to int) time.Duration {
	var sum time.Duration
	for _, f := range fields[from : to+1] {
		n, _ := strconv.ParseInt(f, 10, 64) // the kernel writes numbers
		sum += time.Duration(n) * tick
	}
	return sum
}

// processCPU is the processor time of one process.
func processCPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return ticks(fields, statUser, statSystem), nil
}

// treeCPU is the processor time of a process and its children, those that have
// ended included.
func treeCPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	sum := ticks(fields, statUser, statChildren+1)
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if fields, err := stat(child); err == nil && fields[statParent] == strconv.Itoa(pid) {
			sum += ticks(fields, statUser, statChildren+1)
		}
	}
	return sum, nil
}

// memory returns a figure of /proc/PID/status in bytes: VmHWM is the most that
// was resident, VmRSS what is now.
func memory(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s of process %d", name, pid)
}
