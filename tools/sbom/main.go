// Command sbom writes the software bill of materials of a Go binary in
// CycloneDX 1.6 JSON. It reads only what the linker recorded in the binary, so
// it lists what is really inside, and the same binary gives the same bytes: no
// clock, no random serial number.
//
//	sbom --version v1.2.3 dist/birthmark_v1.2.3_linux_amd64
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

func main() {
	version := flag.String("version", "", "the release's version")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: sbom [--version V] BINARY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *version, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(path, version string, out io.Writer) error {
	binary, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", path, err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(describe(info, version, sha256.Sum256(binary)))
}

type document struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func describe(info *debug.BuildInfo, version string, digest [32]byte) document {
	product := component{
		Type:    "application",
		Ref:     purl(info.Main.Path, version),
		Name:    info.Main.Path,
		Version: version,
		PURL:    purl(info.Main.Path, version),
		Hashes:  []hash{{"SHA-256", hex.EncodeToString(digest[:])}},
	}
	for _, setting := range info.Settings {
		product.Properties = append(product.Properties, property{"go:build:" + setting.Key, setting.Value})
	}

	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	components := []component{{
		Type: "framework", Ref: purl("std", goVersion), Name: "std", Version: goVersion, PURL: purl("std", goVersion),
	}}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		one := component{
			Type: "library", Ref: purl(module.Path, module.Version),
			Name: module.Path, Version: module.Version, PURL: purl(module.Path, module.Version),
		}
		if module.Sum != "" {
			one.Properties = []property{{"go:sum", module.Sum}}
		}
		components = append(components, one)
	}

	refs := make([]string, len(components))
	for i, one := range components {
		refs[i] = one.Ref
	}
	return document{
		Schema:       "http://cyclonedx.org/schema/bom-1.6.schema.json",
		Format:       "CycloneDX",
		SpecVersion:  "1.6",
		SerialNumber: uuid(digest),
		Version:      1,
		Metadata:     metadata{product},
		Components:   components,
		Dependencies: []dependency{{product.Ref, refs}},
	}
}

func purl(path, version string) string {
	if version == "" {
		return "pkg:golang/" + path
	}
	return "pkg:golang/" + path + "@" + version
}

// uuid makes the document's serial number from the binary's digest: a UUID of
// version 8 (RFC 9562), whose content is free.
func uuid(digest [32]byte) string {
	u := digest[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
