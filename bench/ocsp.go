package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"

	"golang.org/x/crypto/ocsp"
)

const (
	ocspClients      = 16
	ocspCertificates = 500 // asked about again and again
)

// ocsp measures answers about the same certificates again and again against a
// server that has them in a map.
func (b *bench) ocsp(ctx context.Context) error {
	b.step("OCSP, %d clients, %d certificates", ocspClients, ocspCertificates)
	list, err := b.collectAnswers(ctx)
	if err != nil {
		return err
	}
	p, err := b.startPart(ctx, "presigned")
	if err != nil {
		return err
	}
	var at listening
	if err := p.ask(list, &at); err != nil {
		return err
	}
	requests := make([][]byte, len(list))
	for i, one := range list {
		head := fmt.Sprintf("POST /ocsp/issuing HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n", len(one.Request))
		requests[i] = append([]byte(head), one.Request...)
	}
	b.figures.map1 = &target{letter: "map", name: "Go server with a map", pid: p.pid(), order: order{Address: at.Address, Issuer: b.sqlite.issuer, OCSP: requests}}
	b.figures.ocsp = &target{letter: "b", name: "Birthmark", pid: b.sqlite.server.pid(), order: order{Address: b.sqlite.status, Issuer: b.sqlite.issuer, OCSP: requests}}
	for range b.plan.passes {
		for _, t := range []*target{b.figures.map1, b.figures.ocsp} {
			if err := b.cell(ctx, t, ocspClients); err != nil {
				return fmt.Errorf("OCSP (%s): %w", t.letter, err)
			}
		}
	}
	return nil
}

// collectAnswers asks the server once about its newest certificates.
func (b *bench) collectAnswers(ctx context.Context) ([]exchange, error) {
	var page struct {
		Items []struct {
			Serial string `json:"serial"`
		} `json:"items"`
	}
	if err := b.sqlite.get(ctx, fmt.Sprintf("/certificates?limit=%d", ocspCertificates), &page); err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(b.sqlite.issuer)
	if err != nil {
		return nil, err
	}
	var list []exchange
	for _, one := range page.Items {
		octets, err := hex.DecodeString(one.Serial)
		if err != nil {
			return nil, err
		}
		der, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: new(big.Int).SetBytes(octets)}, issuer, nil)
		if err != nil {
			return nil, err
		}
		answer, err := postOCSP(ctx, "http://"+b.sqlite.status+"/ocsp/issuing", der)
		if err != nil {
			return nil, err
		}
		list = append(list, exchange{der, answer})
	}
	if len(list) == 0 {
		return nil, errors.New("no certificates to ask about")
	}
	return list, nil
}

func postOCSP(ctx context.Context, url string, der []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(der))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 64<<10))
}
