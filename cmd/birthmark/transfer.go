package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/web/rest"
)

// octets sends a body as it is; refusals come back as the fault that the server
// named.
func (a *api) octets(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+rest.Prefix+path, body)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	return a.perform(req)
}

// download writes an answer to a file, which is there whole or not at all, or to
// standard output.
func (a *api) download(ctx context.Context, method, path string, body io.Reader, file string, io_ *streams) error {
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := a.octets(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if file == "" || file == "-" {
		if _, err := io.Copy(io_.out, resp.Body); err != nil {
			return fault.Wrap(fault.ServerUnreached, err, "the answer was cut off")
		}
		return nil
	}
	part := file + ".part"
	out, err := os.Create(part)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, file, "cannot be written")
	}
	defer func() { _ = os.Remove(part) }() // it has its name by then, or is not whole
	_, copied := io.Copy(out, resp.Body)
	if err := errors.Join(copied, out.Sync(), out.Close()); err != nil {
		return fault.Wrap(fault.ServerUnreached, err, "the answer was cut off")
	}
	if err := os.Rename(part, file); err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, file, "cannot be written")
	}
	return nil
}
