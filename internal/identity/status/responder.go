package status

import (
	"context"
	"crypto/fips140"
	"crypto/sha1" //nolint:gosec // RFC 6960 clients name issuers by SHA-1
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/pki/issuing"
	"github.com/birthmark/birthmark/internal/pki/keystore"
)

// signTimeout bounds signing for callers who may have left: others wait for the
// same answer.
const signTimeout = 10 * time.Second

// Answer answers a DER OCSPRequest. The same bytes asked again cost a hash and a
// look-up. Faults: OCSPMalformed, OCSPUnauthorized, OCSPBusy (tryLater).
func (s *Service) Answer(ctx context.Context, request []byte) (*Answer, error) {
	if a := s.answers.get(request, s.now()); a != nil && s.fresh() {
		return a, nil
	}
	parsed, err := parseOCSPRequest(request)
	if err != nil {
		return nil, err
	}
	if parsed.nonce != nil {
		if !s.signRate.AllowN(s.now(), 1) {
			return nil, fault.New(fault.OCSPBusy)
		}
		a, _, err := s.sign(ctx, parsed)
		if err != nil {
			return nil, err
		}
		return &a.Answer, nil
	}
	// Who asks after a revocation must not share an answer that began before.
	shared := fmt.Sprintf("ocsp %d %s", s.answers.generation(), request)
	wait := s.signing.DoChan(shared, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
		defer cancel()
		a, generation, err := s.sign(ctx, parsed)
		if err != nil {
			return nil, err
		}
		a.request = string(request)
		s.answers.put(a, generation)
		return &a.Answer, nil
	})
	select {
	case <-ctx.Done():
		return nil, fault.Wrap(fault.OCSPBusy, ctx.Err())
	case r := <-wait:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Answer), nil
	}
}

// sign makes an answer from what is on record now.
func (s *Service) sign(ctx context.Context, r *ocspRequest) (*cachedAnswer, uint64, error) {
	generation := s.answers.generation()
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return nil, 0, busy(err)
	}
	index := s.issuers.of(snap)
	m := index[r.ids[0].issuer]
	for i := range r.ids {
		// One answer has one signer, so all certificates must be of one issuer.
		if m == nil || index[r.ids[i].issuer] != m {
			return nil, 0, fault.New(fault.OCSPUnauthorized)
		}
	}
	signer, err := s.responders.get(ctx, s, m)
	if err != nil {
		return nil, 0, err
	}
	now := moment(s.now())
	a := &cachedAnswer{
		Answer: Answer{ThisUpdate: now, NextUpdate: now.Add(s.ocspLife), MaxAge: s.ocspMaxAge},
		usable: now.Add(s.ocspLife / 2),
	}
	answers := make([]issuing.OCSPAnswer, len(r.ids))
	unknown := false
	for i := range r.ids {
		answers[i] = issuing.OCSPAnswer{CertID: r.ids[i].raw, ThisUpdate: a.ThisUpdate, NextUpdate: a.NextUpdate}
		c, err := s.look(ctx, m, r.ids[i].certSerial)
		switch {
		case fault.Has(err, fault.CredentialUnknown):
			answers[i].Status, unknown = issuing.OCSPUnknown, true
			continue
		case err != nil:
			return nil, 0, busy(err)
		}
		a.about = append(a.about, c.ID)
		if c.State == device.Revoked || c.State == device.Held {
			answers[i].Status, answers[i].RevokedAt, answers[i].Reason = issuing.OCSPRevoked, moment(c.RevokedAt), c.Reason
		}
	}
	if unknown {
		// Whoever makes serials up must not have the processor, nor the cache
		// for long.
		if r.nonce == nil && !s.signRate.AllowN(s.now(), 1) {
			return nil, 0, fault.New(fault.OCSPBusy)
		}
		a.usable = now.Add(s.ocspMaxAge)
	}
	if r.nonce != nil {
		a.MaxAge = 0
	}
	if a.DER, err = signer.Sign(now, answers, r.nonce); err != nil {
		return nil, 0, busy(err)
	}
	sum := sha256.Sum256(a.DER)
	a.ETag = `"` + hex.EncodeToString(sum[:16]) + `"`
	return a, generation, nil
}

// busy is tryLater with the reason for the log.
func busy(err error) error { return fault.Wrap(fault.OCSPBusy, err) }

// look finds a certificate of this authority in the register.
func (s *Service) look(ctx context.Context, m *authority.Member, certSerial []byte) (device.Credential, error) {
	c, err := s.find(ctx, access.Everything(), certSerial)
	if err == nil && c.Authority != m.ID {
		return device.Credential{}, fault.New(fault.CredentialUnknown)
	}
	return c, err
}

// issuerIndex finds authorities by the hashes in CertIDs.
type issuerIndex struct {
	latest atomic.Pointer[indexed]
}

type indexed struct {
	snap *authority.Snapshot
	by   map[issuerKey]*authority.Member
}

// of returns the index of a snapshot.
func (x *issuerIndex) of(snap *authority.Snapshot) map[issuerKey]*authority.Member {
	if at := x.latest.Load(); at != nil && at.snap == snap {
		return at.by
	}
	by := make(map[issuerKey]*authority.Member)
	for _, m := range snap.Authorities() {
		if m.X509 == nil || m.State == authority.Revoked {
			continue
		}
		bits, ok := keyBits(m.X509.RawSubjectPublicKeyInfo)
		if !ok {
			continue
		}
		for _, k := range []issuerKey{hashed1(m.X509, bits), hashed256(m.X509, bits)} {
			by[k] = m
		}
	}
	x.latest.Store(&indexed{snap, by})
	return by
}

func hashed1(cert *x509.Certificate, bits []byte) issuerKey {
	k := issuerKey{hash: sha1Hash}
	// A name for an issuer and no part of a signature, so no matter for FIPS 140.
	fips140.WithoutEnforcement(func() {
		name, key := sha1.Sum(cert.RawSubject), sha1.Sum(bits) //nolint:gosec // see the import
		copy(k.name[:], name[:])
		copy(k.key[:], key[:])
	})
	return k
}

func hashed256(cert *x509.Certificate, bits []byte) issuerKey {
	return issuerKey{hash: sha256Hash, name: sha256.Sum256(cert.RawSubject), key: sha256.Sum256(bits)}
}

// keyBits returns the content of subjectPublicKey without the count of unused
// bits, which is what CertIDs hash.
func keyBits(spki []byte) ([]byte, bool) {
	in := cryptobyte.String(spki)
	var outer, bits cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) || !outer.SkipASN1(asn1.SEQUENCE) || !outer.ReadASN1(&bits, asn1.BIT_STRING) || len(bits) < 2 {
		return nil, false
	}
	return bits[1:], true
}

// responders holds this node's responder of each authority.
type responders struct {
	mu  sync.Mutex
	all map[int64]*responder // guarded by mu
}

type responder struct {
	*issuing.OCSPResponder
	renewAt time.Time
	ends    time.Time
}

func (r *responders) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = nil
}

// get returns an authority's responder; the first one to ask makes it.
func (r *responders) get(ctx context.Context, s *Service, m *authority.Member) (*responder, error) {
	r.mu.Lock()
	at := r.all[m.ID]
	r.mu.Unlock()
	now := s.now()
	if at != nil && now.Before(at.renewAt) {
		return at, nil
	}
	made, err := s.makeResponder(ctx, m.Name)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.all == nil {
			r.all = make(map[int64]*responder)
		}
		r.all[m.ID] = made
		return made, nil
	}
	if at != nil && now.Before(at.ends.Add(-s.ocspLife)) {
		return at, nil // an answer of the old one outlives it not
	}
	if fault.Has(err, fault.KeyUnavailable) && m.Issuer == nil {
		// Nobody has given us a responder for this authority.
		return nil, fault.Wrap(fault.OCSPUnauthorized, err)
	}
	return nil, busy(err)
}

func (s *Service) makeResponder(ctx context.Context, name string) (*responder, error) {
	v, err, _ := s.signing.Do("responder "+name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
		defer cancel()
		p, err := s.authorities.Responder(ctx, name)
		if err != nil {
			return nil, err
		}
		c := issuing.OCSPResponderConfig{Certificate: p.Chain[0], Key: p.Key, Rand: s.random}
		if check, ok := keystore.AsSelfChecker(p.Key); ok {
			c.Check = check
		}
		signer, err := issuing.NewOCSPResponder(c)
		if err != nil {
			return nil, err
		}
		return &responder{OCSPResponder: signer, renewAt: renewal(p, s.now()), ends: p.X509.NotAfter}, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*responder), nil
}

// renewal is when to look for a newer certificate. One that comes from a root
// session is looked for again and again once it is due.
func renewal(p *authority.Presented, now time.Time) time.Time {
	if now.Before(p.RenewAt) {
		return p.RenewAt
	}
	return now.Add(10 * time.Minute)
}

// renewResponders makes certificates anew before anybody waits for them.
func (s *Service) renewResponders(ctx context.Context) {
	snap, err := s.authorities.Snapshot(ctx)
	if err != nil {
		return
	}
	for _, m := range snap.Authorities() {
		if m.Issuer == nil || m.State != authority.Active {
			continue
		}
		if _, err := s.responders.get(ctx, s, m); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the OCSP responder has no certificate", "authority", m.Name, "error", err)
		}
	}
}
