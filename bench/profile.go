package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// With BENCH_PROFILE=FOLDER the servers under load are profiled: the binary is
// built with one more file, which the product does not have, and each cell
// leaves a processor profile in the folder for `go tool pprof`.

// profiled is that file.
const profiled = `package main

import (
	"net/http"
	_ "net/http/pprof"
	"os"
)

func init() {
	if address := os.Getenv("BENCH_PPROF"); address != "" {
		go http.ListenAndServe(address, nil)
	}
}
`

// overlay writes the file and what tells go build of it.
func overlay(folder string) (flag string, err error) {
	source := filepath.Join(folder, "profiled.go")
	if err := os.WriteFile(source, []byte(profiled), 0o600); err != nil {
		return "", err
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(here, "cmd", "birthmark", "profiled.go"): source,
	}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "overlay.json")
	return "-overlay=" + path, os.WriteFile(path, text, 0o600)
}

// profile fetches a profile of a server while it is under load. The function
// that it returns waits for its end.
func (b *bench) profile(ctx context.Context, t *target, clients int) func() error {
	if b.plan.profiles == "" || t.pprof == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", t.pprof, max(1, int(b.plan.cell.Seconds())))
		done <- fetch(ctx, url, filepath.Join(b.plan.profiles, fmt.Sprintf("%s-%d.cpu", t.letter, clients)))
	}()
	return func() error {
		err := <-done
		return errors.Join(err, fetch(ctx, "http://"+t.pprof+"/debug/pprof/allocs", filepath.Join(b.plan.profiles, t.letter+".allocs")))
	}
}

// fetch writes what an address answers into a file.
func fetch(ctx context.Context, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
