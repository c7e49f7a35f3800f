package chain

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// CRLs answers for certificates from a set of CRLs, as RFC 5280, section 6.3,
// has it: complete CRLs, shards, and deltas on top of either. A CRL counts only
// if the certificate's issuer signed it with a key that may sign CRLs, if it is
// current, if its scope takes in the certificate and if all that is critical in
// it is understood. Indirect CRLs are not used. It is safe for concurrent use.
type CRLs struct {
	at    time.Time
	lists map[string][]*crl // by the issuer's canonical name
}

// NewCRLs returns a StatusChecker over these CRLs for one moment.
func NewCRLs(lists []*x509.RevocationList, at time.Time) *CRLs {
	c := &CRLs{at: at.Truncate(time.Second), lists: map[string][]*crl{}}
	for _, l := range lists {
		if l == nil {
			continue
		}
		name, _, _ := canonicalName(l.RawIssuer)
		c.lists[name] = append(c.lists[name], newCRL(l))
	}
	return c
}

// Status looks for the certificate in the CRLs of its issuer.
func (c *CRLs) Status(ctx context.Context, cert, issuer *x509.Certificate) (Status, error) {
	if err := ctx.Err(); err != nil {
		return Status{}, err
	}
	name, _, _ := canonicalName(cert.RawIssuer)
	lists := c.lists[name]
	if len(lists) == 0 {
		return Status{Detail: "there is no CRL of its issuer"}, nil
	}
	points := readPoints(cert)
	var usable []*crl
	elsewhere, problem := "", ""
	for _, l := range lists {
		if why := l.idp.outside(cert, points); why != "" {
			elsewhere = why
		} else if why := l.usable(issuer, c.at); why != "" {
			problem = why
		} else {
			usable = append(usable, l)
		}
	}
	if len(usable) == 0 {
		return Status{Detail: cmp.Or(problem, elsewhere)}, nil
	}
	return combine(newest(usable), cert.SerialNumber, points), nil
}

// newest keeps, of the CRLs of one scope, the one with the highest number, so
// that a release from hold is not undone by an older CRL that is still current.
func newest(lists []*crl) []*crl {
	latest := map[string]*crl{}
	var order []string
	for _, l := range lists {
		k := l.scope
		if l.base != nil {
			k = "delta " + k
		}
		old := latest[k]
		if old == nil {
			order = append(order, k)
		}
		if old == nil || l.newerThan(old) {
			latest[k] = l
		}
	}
	kept := make([]*crl, 0, len(order))
	for _, k := range order {
		kept = append(kept, latest[k])
	}
	return kept
}

// combine weighs the CRLs of all scopes: one revocation is enough to refuse,
// and only when together they cover all reasons is the certificate good.
func combine(lists []*crl, certSerial *big.Int, points []point) Status {
	var covered reasons
	var worst *entry
	complete := false
	for _, l := range lists {
		switch {
		case l.base == nil:
			complete = true
			covered |= l.covers(points)
			worst = graver(worst, l.lookUp(certSerial, deltaFor(l, lists)))
		case !l.outdated(lists):
			worst = graver(worst, l.find(certSerial))
		}
	}
	detail := "the CRLs do not cover all reasons"
	if !complete {
		detail = "there is a delta CRL without its base"
	}
	if worst != nil && worst.reason == removeFromCRL {
		worst = nil
	}
	switch {
	case worst != nil && worst.reason == certificateHold:
		return Status{State: OnHold, Reason: worst.reason, Since: worst.since}
	case worst != nil:
		return Status{State: Revoked, Reason: worst.reason, Since: worst.since}
	case covered == allReasons:
		return Status{State: Good}
	}
	return Status{Detail: detail}
}

// graver returns the entry that weighs more: revoked, on hold, released, none.
func graver(a, b *entry) *entry {
	weight := func(e *entry) int {
		switch {
		case e == nil:
			return 0
		case e.reason == removeFromCRL:
			return 1
		case e.reason == certificateHold:
			return 2
		}
		return 3
	}
	if weight(b) > weight(a) {
		return b
	}
	return a
}

// outdated reports whether a complete CRL of its scope has overtaken a delta.
func (l *crl) outdated(lists []*crl) bool {
	return slices.ContainsFunc(lists, func(o *crl) bool {
		return o.base == nil && o.scope == l.scope && !l.newerThan(o)
	})
}

// deltaFor returns the delta that goes with a complete CRL (section 6.3.3 (c)).
func deltaFor(l *crl, lists []*crl) *crl {
	for _, d := range lists {
		if d.base != nil && d.scope == l.scope && l.list.Number != nil && d.list.Number != nil &&
			d.base.Cmp(l.list.Number) <= 0 && d.list.Number.Cmp(l.list.Number) > 0 {
			return d
		}
	}
	return nil
}

// CRLReason values that change the course of things.
const (
	certificateHold = 6
	removeFromCRL   = 8
)

// crl is a CRL with what decides where it applies, read once.
type crl struct {
	list    *x509.RevocationList
	useless string   // why it can never be used, or nothing
	base    *big.Int // of a delta: the number it builds on
	scope   string   // the issuing distribution point's bytes
	idp     issuingPoint

	once    sync.Once
	entries map[string]*entry // by serial number; made once, like flaw
	flaw    string            // what makes the entries useless, or nothing

	mu     sync.Mutex
	signed map[string]string // guarded by mu: what is wrong with the signature, by public key
}

type entry struct {
	reason int
	since  time.Time
}

var (
	oidCRLNumber          = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReasonCode         = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate     = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDeltaIndicator     = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint       = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKeyID     = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
)

func newCRL(l *x509.RevocationList) *crl {
	c := &crl{list: l, signed: map[string]string{}}
	seen := map[string]bool{}
	for _, e := range l.Extensions {
		if id := e.Id.String(); seen[id] {
			c.useless = "the CRL has an extension twice"
		} else {
			seen[id] = true
		}
		switch {
		case e.Id.Equal(oidIssuingPoint):
			c.scope = string(e.Value)
			var why string
			if c.idp, why = readIssuingPoint(e.Value); why != "" {
				c.useless = why
			}
		case e.Id.Equal(oidDeltaIndicator):
			in := cryptobyte.String(e.Value)
			c.base = new(big.Int)
			if !in.ReadASN1Integer(c.base) || !in.Empty() || c.base.Sign() < 0 {
				c.useless = "the CRL's delta indicator cannot be read"
			}
		case e.Id.Equal(oidCRLNumber), e.Id.Equal(oidAuthorityKeyID):
		case e.Critical:
			c.useless = "the CRL has the critical extension " + e.Id.String()
		}
	}
	return c
}

func (l *crl) newerThan(o *crl) bool {
	if l.list.Number != nil && o.list.Number != nil {
		if c := l.list.Number.Cmp(o.list.Number); c != 0 {
			return c > 0
		}
	}
	return l.list.ThisUpdate.After(o.list.ThisUpdate)
}

// usable says why this CRL cannot answer for the issuer's certificates, or nothing. The
// signature comes last because it costs most.
func (l *crl) usable(issuer *x509.Certificate, at time.Time) string {
	switch {
	case l.useless != "":
		return l.useless
	case at.Before(l.list.ThisUpdate):
		return "the CRL is from " + l.list.ThisUpdate.UTC().Format(time.RFC3339) + ", later than the moment asked for"
	case l.list.NextUpdate.IsZero():
		return "the CRL does not say when the next one comes"
	case at.After(l.list.NextUpdate):
		return "the CRL was to be replaced at " + l.list.NextUpdate.UTC().Format(time.RFC3339)
	}
	if why := l.signature(issuer); why != "" {
		return why
	}
	l.once.Do(l.index)
	return l.flaw
}

// signature checks the CRL's signature once for each key.
func (l *crl) signature(issuer *x509.Certificate) string {
	key := string(issuer.RawSubjectPublicKeyInfo)
	if !maySignCRLs(issuer) {
		return "the issuer may not sign CRLs (keyUsage)"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if why, known := l.signed[key]; known {
		return why
	}
	_, why := verifiable(l.list.SignatureAlgorithm, issuer.PublicKey, minRSABits)
	switch {
	case why == mismatch:
		why = "the CRL is not signed by the certificate's issuer"
	case why != "":
		why = "the CRL's signature: " + why
	case issuer.CheckSignature(l.list.SignatureAlgorithm, l.list.RawTBSRevocationList, l.list.Signature) != nil:
		why = "the CRL is not signed by the certificate's issuer"
	}
	l.signed[key] = why
	return why
}

func maySignCRLs(issuer *x509.Certificate) bool {
	for _, e := range issuer.Extensions {
		if e.Id.Equal(oidKeyUsage) {
			return issuer.KeyUsage&x509.KeyUsageCRLSign != 0
		}
	}
	return true
}

// index reads the entries. One that cannot be understood makes the whole CRL
// useless (section 5.3).
func (l *crl) index() {
	l.entries = make(map[string]*entry, len(l.list.RevokedCertificateEntries))
	for i := range l.list.RevokedCertificateEntries {
		e := &l.list.RevokedCertificateEntries[i]
		for _, x := range e.Extensions {
			if x.Critical && !x.Id.Equal(oidReasonCode) && !x.Id.Equal(oidInvalidityDate) {
				l.flaw = "an entry of the CRL has the critical extension " + x.Id.String()
				return
			}
		}
		if e.ReasonCode == removeFromCRL && l.base == nil {
			l.flaw = "a complete CRL has a removeFromCRL entry"
			return
		}
		k := serialKey(e.SerialNumber)
		l.entries[k] = graver(l.entries[k], &entry{e.ReasonCode, e.RevocationTime})
	}
}

func serialKey(certSerial *big.Int) string { return string(certSerial.Append(nil, 16)) }

func (l *crl) find(certSerial *big.Int) *entry { return l.entries[serialKey(certSerial)] }

// lookUp finds a certificate in a complete CRL as the delta changes it.
func (l *crl) lookUp(certSerial *big.Int, delta *crl) *entry {
	was := l.find(certSerial)
	if delta == nil || was == nil || was.reason != certificateHold {
		return was
	}
	// Only a hold can be released.
	if e := delta.find(certSerial); e != nil && e.reason == removeFromCRL {
		return nil
	}
	return was
}
