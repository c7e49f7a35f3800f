package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// issuing measures issuing alone on one core, with the benchmarks that package
// issuing has: only there may an authority's key be asked to sign.
func (b *bench) issuing(ctx context.Context) error {
	b.step("issuing alone, one core")
	times, length := 5, "1s"
	if b.plan.quick {
		times, length = 3, "200ms"
	}
	b.figures.issuing = map[string][]float64{}
	for range times {
		cmd := exec.CommandContext(ctx, filepath.Join(b.folder, "issuing.test"), "-test.run=^$", "-test.cpu=1",
			"-test.bench=^Benchmark(CreateCertificate|IssueVerified|IssueSelfChecked)$", "-test.benchtime="+length)
		cmd.Dir = b.folder
		text, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("benchmarks of package issuing: %w\n%s", err, text)
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			f := strings.Fields(lines.Text())
			if len(f) < 4 || f[3] != "ns/op" {
				continue
			}
			ns, err := strconv.ParseFloat(f[2], 64)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(f[0], "Benchmark")
			b.figures.issuing[name] = append(b.figures.issuing[name], 1e9/ns)
		}
	}
	if len(b.figures.issuing) != 3 {
		return fmt.Errorf("package issuing has other benchmarks than expected: %v", b.figures.issuing)
	}
	return nil
}
