package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

// Event is one act as a receiver hears of it.
type Event struct {
	ID    int64           `json:"id"`   // index in the ledger: grows, the same when sent again
	Kind  string          `json:"kind"` // as in the ledger
	At    time.Time       `json:"at"`
	Actor string          `json:"actor"` // a station or part of the product; "operator" for people
	Data  json.RawMessage `json:"data"`
}

// Delivery is the body of one request.
type Delivery struct {
	Webhook string  `json:"webhook"`
	Events  []Event `json:"events"`
}

// collect returns the next events that a webhook wants, and the index of the
// entry after the last that was looked at.
func (d *Deliverer) collect(ctx context.Context, batches []ledger.Batch, from int64, w *factory.Webhook) (events []Event, next int64, err error) {
	next = from
	for _, b := range batches {
		for at, p := range b.Each(FollowedClasses) {
			if at < from || !wanted(w, &p) {
				continue
			}
			e, err := d.event(ctx, at, &p)
			if err != nil {
				return nil, 0, err
			}
			events = append(events, e)
			if len(events) == mostEvents {
				return events, at + 1, nil
			}
		}
		next = max(next, b.First+int64(len(b.Leaves)))
	}
	return events, next, nil
}

// wanted reports whether a webhook wants an entry; of order.changed only that an
// order was closed is told.
func wanted(w *factory.Webhook, p *ledger.Parsed) bool {
	if !slices.Contains(factory.Events(), p.Kind) || len(w.Events) > 0 && !slices.Contains(w.Events, string(p.Kind)) {
		return false
	}
	return p.Kind != ledger.OrderChanged || closed(p.Body)
}

// closed reports whether the body of order.changed says that the order is
// closed now.
func closed(b ledger.Body) bool {
	var o struct {
		State json.RawMessage `json:"state"`
	}
	if json.Unmarshal(b.AppendJSON(nil), &o) != nil {
		return false
	}
	text := strings.Trim(string(o.State), `"`)
	return text == factory.OrderClosed.String() || text == strconv.Itoa(int(factory.OrderClosed))
}

// event puts names beside the numbers of an entry.
func (d *Deliverer) event(ctx context.Context, at int64, p *ledger.Parsed) (Event, error) {
	e := Event{ID: at, Kind: string(p.Kind), At: p.At.UTC(), Actor: p.Actor}
	if e.Actor == "" {
		e.Actor = "operator"
	}
	body := p.Body.AppendJSON(nil)
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return Event{}, fault.Wrap(fault.LedgerBroken, err)
	}
	for _, n := range naming {
		raw, ok := fields[n.field]
		if !ok {
			continue
		}
		name, err := n.name(ctx, d.cfg.Store, strings.Trim(string(raw), `"`))
		if err != nil && fault.Of(err).Kind != fault.NotFound {
			return Event{}, err
		}
		if name != "" {
			fields[n.as], _ = json.Marshal(name) // a string always has a form
		}
	}
	data, err := json.Marshal(fields)
	e.Data = data
	return e, err
}

// naming says which numbers of an entry get a name beside them.
var naming = []struct {
	field, as string
	name      func(ctx context.Context, s Names, text string) (string, error)
}{
	{"order", "order_number", func(ctx context.Context, s Names, text string) (string, error) {
		o, err := s.Order(ctx, access.Everything(), number(text))
		return o.Number, err
	}},
	{"station", "station_name", func(ctx context.Context, s Names, text string) (string, error) {
		st, err := s.Station(ctx, access.Everything(), number(text))
		return st.Name, err
	}},
	{"device", "device_serial", func(ctx context.Context, s Names, text string) (string, error) {
		id, err := device.ParseID(text)
		if err != nil {
			return "", nil
		}
		dev, err := s.Device(ctx, access.Everything(), id)
		return dev.DeviceSerial, err
	}},
	{"credential", "certificate_serial", func(ctx context.Context, s Names, text string) (string, error) {
		c, err := s.Credential(ctx, access.Everything(), device.CredentialID(number(text)))
		return strings.ToUpper(hex.EncodeToString(c.CertSerial)), err
	}},
}

// number reads an id; what is none has no name.
func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// SignatureHeader carries the signature of a delivery: "t=UNIX,v1=HEX", the HMAC
// with SHA-256 over "UNIX.BODY".
const SignatureHeader = "Birthmark-Signature"

// errSecret is what operators see of a secret that does not open.
var errSecret = errors.New("the webhook's secret cannot be opened; set a new one")

func (d *Deliverer) send(ctx context.Context, w *factory.Webhook, events []Event) error {
	body, err := json.Marshal(Delivery{Webhook: w.Name, Events: events})
	if err != nil {
		return err
	}
	secret, err := d.cfg.Secret(w)
	if err != nil {
		return errSecret
	}
	return d.cfg.Sender.Post(ctx, w.URL, http.Header{
		"Content-Type":  {"application/json"},
		"User-Agent":    {"birthmark"},
		SignatureHeader: {sign(secret, d.cfg.Now(), body)},
	}, bytes.NewReader(body))
}

func sign(secret []byte, at time.Time, body []byte) string {
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "%d.", at.Unix())
	h.Write(body)
	return fmt.Sprintf("t=%d,v1=%x", at.Unix(), h.Sum(nil))
}
