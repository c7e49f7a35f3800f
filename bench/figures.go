package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// figures are what a run has found besides the cells.
type figures struct {
	postgres   string // version and settings
	issuing    map[string][]float64
	map1, ocsp *target
	looks      []timing
	starts     []float64 // seconds
	resident   int64
	crl        crlFigures
	factory    factoryFigures
	tpm        tpmFigures
}

// median is robust against passes in which the machine had other work.
func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	if len(sorted) == 0 {
		return 0
	}
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratios are the passes of two series, divided one by one: what drifts from
// pass to pass cancels.
func ratio(a, b []float64) float64 {
	list := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			list = append(list, a[i]/b[i])
		}
	}
	return median(list)
}

func megabytes(n int64) float64 { return float64(n) / (1 << 20) }

// table is text in columns, printed for people and as Markdown.
type table struct {
	title string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) text(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", t.title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0 // of the first column, the only one that is text
	for _, row := range t.rows {
		width = max(width, len(row[0]))
	}
	for _, row := range append([][]string{t.head}, t.rows...) {
		fmt.Fprintf(w, "%-*s\t%s\t\n", width, row[0], strings.Join(row[1:], "\t"))
	}
	_ = w.Flush() // out is what is being written to anyway
}

func (t *table) markdown(out io.Writer) {
	fmt.Fprintf(out, "\n### %s\n\n| %s |\n|---%s|\n", t.title, strings.Join(t.head, " | "), strings.Repeat("|---:", len(t.head)-1))
	for _, row := range t.rows {
		fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | "))
	}
}

// print writes all tables and, last, the ratio that matters most.
func (b *bench) print() {
	list := []*table{b.enrollTable(), b.factoryTable(), b.factoryAims(), b.tpmTable(), b.issuingTable(), b.ocspTable(), b.registerTable(), b.crlTable()}
	fmt.Fprintf(b.out, "\n%s, %d cores, %s; %s; load average %s\n",
		cpuModel(), runtime.NumCPU(), runtime.Version(), cmp.Or(b.figures.postgres, errNoPostgres.Error()), loadAverage())
	for _, t := range list {
		t.text(b.out)
	}
	if !b.plan.quick {
		fmt.Fprint(b.out, "\nThe same as Markdown:\n")
		for _, t := range list {
			t.markdown(b.out)
		}
	}
	most := b.most()
	fmt.Fprintf(b.out, "\nratio_b_a_%d %.2f\n", most, ratio(b.targets[1].stats[most].rate, b.targets[0].stats[most].rate))
}

func (b *bench) enrollTable() *table {
	t := &table{
		title: fmt.Sprintf("Enrollment over EST, %d devices stored, %d passes of %s", b.plan.stored, b.plan.passes, b.plan.cell),
		head: []string{
			"server", "clients", "certificates/s", "to (a)", "p50 ms", "to (a)", "p99 ms", "to (a)",
			"server CPU s/1000", "database CPU s/1000", "load CPU s/1000", "peak MB",
		},
	}
	for _, s := range b.targets {
		for _, clients := range b.plan.clients {
			of, a := s.stats[clients], b.targets[0].stats[clients]
			extra, peak := "", ""
			if s.extra != 0 {
				extra = fmt.Sprintf("%.3f", median(of.extra))
			}
			if clients == b.plan.clients[len(b.plan.clients)-1] {
				peak = fmt.Sprintf("%.0f", megabytes(s.peak))
			}
			t.add(fmt.Sprintf("(%s) %s", s.letter, s.name), fmt.Sprint(clients),
				fmt.Sprintf("%.0f", median(of.rate)), fmt.Sprintf("%.2f", ratio(of.rate, a.rate)),
				fmt.Sprintf("%.2f", median(of.p50)), fmt.Sprintf("%.2f", ratio(of.p50, a.p50)),
				fmt.Sprintf("%.1f", median(of.p99)), fmt.Sprintf("%.2f", ratio(of.p99, a.p99)),
				fmt.Sprintf("%.3f", median(of.cpu)), extra, fmt.Sprintf("%.3f", median(of.load)), peak)
		}
	}
	if b.pg == nil {
		t.add("(c) PostgreSQL: not installed", "", "", "", "", "", "", "", "", "", "", "")
	}
	return t
}

func (b *bench) factoryTable() *table {
	f := &b.figures.factory
	t := &table{
		title: fmt.Sprintf("The line on SQLite, %d stations of %d nests, %d passes of %s", lineStations, lineNests, b.plan.passes, b.plan.cell),
		head:  []string{"", "units/s", "to EST", "by CPU", "p50 ms", "p99 ms", "server CPU s/1000", "line CPU s/1000"},
	}
	add := func(name string, of *series) {
		if of == nil || len(of.rate) == 0 {
			return
		}
		t.add(name, fmt.Sprintf("%.0f", median(of.rate)), fmt.Sprintf("%.2f", ratio(of.rate, f.est.rate)), fmt.Sprintf("%.2f", ratio(f.est.all(), of.all())),
			fmt.Sprintf("%.2f", median(of.p50)), fmt.Sprintf("%.1f", median(of.p99)), fmt.Sprintf("%.3f", median(of.cpu)), fmt.Sprintf("%.3f", median(of.load)))
	}
	add(fmt.Sprintf("EST in the same passes, %d clients", b.most()), f.est)
	add("stream of requests, no chip proof", f.plain)
	add("stream of requests, chip proofs", f.proof)
	add("whole units: nonce, proof, issue, confirm", f.cycle)
	add(fmt.Sprintf("%d stations, a whole unit a second each", slowStations), f.slow)
	return t
}

// all is the processor time of server and load together: where the machine has
// other work, too, its ratio says what rates would be without.
func (s *series) all() []float64 {
	list := make([]float64, len(s.cpu))
	for i := range list {
		list[i] = s.cpu[i] + s.load[i]
	}
	return list
}

// factoryAims holds the line's figures against what they should be.
func (b *bench) factoryAims() *table {
	f := &b.figures.factory
	t := &table{title: "The factory and its aims", head: []string{"", "measured", "aim", ""}}
	add := func(what string, measured, aim float64, most bool, format string) {
		verdict, bound := "met", "at least "
		if most {
			bound = "at most "
		}
		if measured > aim == most && measured != aim {
			verdict = "missed"
		}
		t.add(what, fmt.Sprintf(format, measured), bound+fmt.Sprintf(format, aim), verdict)
	}
	add("whole units a second", median(f.cycle.rate), aimCycle, false, "%.0f")
	add("units that did not pass, or were lost", float64(f.failed), 0, true, "%.0f")
	add("stream without chip proof, to EST", ratio(f.plain.rate, f.est.rate), aimPlain, false, "%.2f")
	add("stream with chip proofs, to EST", ratio(f.proof.rate, f.est.rate), aimProof, false, "%.2f")
	add("server under ten slow stations, % of a core", f.percent, aimSlow, true, "%.1f")
	if im := f.imported; im != nil {
		add(fmt.Sprintf("import of %d chips, s", im.Chips), im.Seconds, aimImport, true, "%.0f")
		add("server's peak meanwhile, MB", megabytes(im.Peak), aimImportPeak, true, "%.0f")
		add(fmt.Sprintf("EST p99 meanwhile to before (%.1f ms), %d clients", im.Idle, importClients), im.Busy/im.Idle, aimImportP99, true, "%.2f")
	}
	return t
}

func (b *bench) issuingTable() *table {
	t := &table{title: "Issuing alone, one core, P-256", head: []string{"", "certificates/s", "to x509.CreateCertificate"}}
	base := b.figures.issuing["CreateCertificate"]
	for _, row := range [][2]string{
		{"CreateCertificate", "x509.CreateCertificate"},
		{"IssueSelfChecked", "compiled profile, key checks itself"},
		{"IssueVerified", "compiled profile, full verification"},
	} {
		list := b.figures.issuing[row[0]]
		t.add(row[1], fmt.Sprintf("%.0f", median(list)), fmt.Sprintf("%.2f", ratio(list, base)))
	}
	return t
}

func (b *bench) ocspTable() *table {
	t := &table{title: fmt.Sprintf("OCSP, %d clients, %d certificates again and again", ocspClients, ocspCertificates), head: []string{
		"", "answers/s", "to the map", "p99 ms", "CPU s/1000",
	}}
	base := b.figures.map1.stats[ocspClients]
	for _, s := range []*target{b.figures.map1, b.figures.ocsp} {
		of := s.stats[ocspClients]
		t.add(s.name, fmt.Sprintf("%.0f", median(of.rate)), fmt.Sprintf("%.2f", ratio(of.rate, base.rate)),
			fmt.Sprintf("%.2f", median(of.p99)), fmt.Sprintf("%.4f", median(of.cpu)))
	}
	return t
}

func (b *bench) registerTable() *table {
	t := &table{title: fmt.Sprintf("The register with %d devices, SQLite", b.plan.stored+b.plan.spare), head: []string{"", "p50 ms", "worst ms"}}
	for _, look := range b.figures.looks {
		t.add(look.what, fmt.Sprintf("%.2f", ms(look.p50)), fmt.Sprintf("%.2f", ms(look.worst)))
	}
	t.add("start to ready", fmt.Sprintf("%.0f", 1000*median(b.figures.starts)), fmt.Sprintf("%.0f", 1000*slices.Max(b.figures.starts)))
	t.add("resident after start, MB", "", fmt.Sprintf("%.0f", megabytes(b.figures.resident)))
	return t
}

func (b *bench) crlTable() *table {
	f := b.figures.crl
	t := &table{title: fmt.Sprintf("CRL of %d entries, %.1f MB, SQLite", f.Entries, float64(f.Bytes)/1e6), head: []string{"", "CPU s", "s", "peak MB"}}
	t.add("first list, read from the record", fmt.Sprintf("%.2f", f.FirstCPU), "", fmt.Sprintf("%.0f", megabytes(f.FirstPeak)))
	t.add("refreshed after a revocation", fmt.Sprintf("%.2f", median(f.RefreshCPU)), fmt.Sprintf("%.2f", median(f.RefreshWall)), fmt.Sprintf("%.0f", megabytes(f.Peak)))
	return t
}

// cpuModel names the processor.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // without it the line says less
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // without it the line says less
	return strings.Join(strings.Fields(string(text) + " ? ? ?")[:3], " ")
}
