package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/birthmark/birthmark/internal/pki/cms"
)

// order is what the load process is told to do.
type order struct {
	Do string // "make", "connect" or "run"

	First, Last int // make: requests of these devices, and forget those before

	Clients int    // connect
	Address string // connect
	Anchors []byte // connect: DER certificate that the server's must chain to; nil: no TLS

	For    time.Duration // run
	From   int           // run: first device
	Strict bool          // run: wrong secrets must be refused
	Issuer []byte        // run: DER certificate that signs the answers
	OCSP   [][]byte      // run: ask these again and again instead of enrolling
	All    bool          // run: answer with how long each took
}

// cell is what a run has measured.
type cell struct {
	Error    string
	Done     int // certificates or OCSP answers
	Refused  int // requests with a wrong secret that were refused
	Took     time.Duration
	P50, P99 time.Duration
	Next     int             // first device that was not used
	Short    bool            // devices ran out
	Checked  int             // answers whose content was verified
	Failed   int             // units that did not pass
	Why      string          // of the first that did not
	All      []time.Duration `json:",omitempty"` // sorted, if it was asked for
}

// load is the process that plays the devices.
type load struct {
	pool        pool
	connections []*connection
}

// runLoad obeys orders until the input ends.
func runLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetGCPercent(400) // the pool is large and lives long
	l := &load{}
	return obeyAll(ctx, in, out, l.obey)
}

// obeyAll reads orders and answers each, until the input ends.
func obeyAll[Order any](ctx context.Context, in io.Reader, out io.Writer, obey func(context.Context, *Order) (cell, error)) error {
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for ctx.Err() == nil {
		var o Order
		if err := orders.Decode(&o); err != nil {
			return err
		}
		c, err := obey(ctx, &o)
		if err != nil {
			c.Error = err.Error()
		}
		if err := answers.Encode(&c); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) obey(ctx context.Context, o *order) (cell, error) {
	switch o.Do {
	case "make":
		if l.pool.first == 0 {
			l.pool.first = o.First
		}
		l.pool.forget(o.First)
		err := l.pool.extend(o.Last)
		debug.FreeOSMemory()
		return cell{}, err
	case "connect":
		return cell{}, l.connect(o)
	case "run":
		return l.run(ctx, o)
	}
	return cell{}, fmt.Errorf("no such order: %q", o.Do)
}

func (l *load) connect(o *order) error {
	var config *tls.Config
	if o.Anchors != nil {
		anchor, err := x509.ParseCertificate(o.Anchors)
		if err != nil {
			return err
		}
		config = &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(anchor)
	}
	for range o.Clients {
		c, err := connect(o.Address, config)
		if err != nil {
			return err
		}
		l.connections = append(l.connections, c)
	}
	return nil
}

// answered is an answer kept to be looked at once the clock has stopped.
type answered struct {
	number int
	body   []byte
}

// checkEvery is how many answers go by between two that are kept.
const checkEvery = 97

// client is one closed loop: it asks again as soon as it is answered.
type client struct {
	connection *connection
	took       []time.Duration
	kept       []answered
	done       int
	refused    int
	short      bool
}

// run has every connection ask until the time is over.
func (l *load) run(ctx context.Context, o *order) (cell, error) {
	clients := make([]*client, len(l.connections))
	errs := make([]error, len(clients))
	var next atomic.Int64
	next.Store(int64(o.From))
	var all sync.WaitGroup
	begin := time.Now()
	for i, c := range l.connections {
		clients[i] = &client{connection: c, took: make([]time.Duration, 0, 1<<12)}
		all.Go(func() { errs[i] = l.loop(ctx, o, clients[i], &next, begin.Add(o.For)) })
	}
	all.Wait()
	took := time.Since(begin)
	for _, c := range l.connections {
		_ = c.net.Close() // it has served its purpose
	}
	l.connections = nil
	if err := errors.Join(errs...); err != nil {
		return cell{}, err
	}
	return l.sum(o, clients, cell{Took: took, Next: int(next.Load())})
}

func (l *load) loop(ctx context.Context, o *order, c *client, next *atomic.Int64, end time.Time) error {
	for n := 1; ctx.Err() == nil; n++ {
		before := time.Now()
		if !before.Before(end) {
			return nil
		}
		number := int(next.Add(1) - 1)
		request, refuse := []byte(nil), false
		if o.OCSP != nil {
			request = o.OCSP[number%len(o.OCSP)]
		} else {
			if number > l.pool.last() {
				next.Add(-1)
				c.short = true
				return nil
			}
			request, refuse = l.pool.request(number), o.Strict && wrong(number)
		}
		status, body, err := c.connection.do(request)
		switch {
		case err != nil:
			return fmt.Errorf("device %d: %w", number, err)
		case refuse && status == 401:
			c.refused++
			continue
		case refuse || status != 200:
			return fmt.Errorf("device %d: answered %d: %s", number, status, body)
		}
		c.took = append(c.took, time.Since(before))
		c.done++
		if n%checkEvery == 1 {
			c.kept = append(c.kept, answered{number, bytes.Clone(body)})
		}
	}
	return ctx.Err()
}

// sum verifies what was kept and puts the clients' figures together.
func (l *load) sum(o *order, clients []*client, total cell) (cell, error) {
	issuer, err := x509.ParseCertificate(o.Issuer)
	if err != nil {
		return total, err
	}
	var took []time.Duration
	for _, c := range clients {
		total.Done += c.done
		total.Refused += c.refused
		total.Short = total.Short || c.short
		took = append(took, c.took...)
		for _, a := range c.kept {
			if err := l.check(o, issuer, a); err != nil {
				return total, fmt.Errorf("device %d: %w", a.number, err)
			}
			total.Checked++
		}
	}
	if len(took) == 0 {
		return total, errors.New("nothing was answered")
	}
	slices.Sort(took)
	total.P50, total.P99 = took[len(took)/2], took[len(took)*99/100]
	if o.All {
		total.All = took
	}
	return total, nil
}

func (l *load) check(o *order, issuer *x509.Certificate, a answered) error {
	if o.OCSP != nil {
		answer, err := ocsp.ParseResponse(a.body, issuer)
		if err == nil && answer.Status != ocsp.Good {
			err = errors.New("the status is not good")
		}
		return err
	}
	key, err := keyOf(l.pool.request(a.number))
	if err != nil {
		return err
	}
	return checkCertificate(a.body, key, issuer)
}

// checkCertificate wants base64 of a certs-only message with one certificate,
// for the key, signed by the issuer.
func checkCertificate(body, key []byte, issuer *x509.Certificate) error {
	der, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil {
		return err
	}
	list, err := cms.ParseCertsOnly(der)
	if err != nil {
		return err
	}
	if len(list) != 1 {
		return fmt.Errorf("%d certificates", len(list))
	}
	cert, err := x509.ParseCertificate(list[0])
	if err != nil {
		return err
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, key) {
		return errors.New("a certificate for another key")
	}
	return cert.CheckSignatureFrom(issuer)
}
