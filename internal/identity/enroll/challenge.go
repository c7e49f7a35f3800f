package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/format/station"
	wire "github.com/birthmark/birthmark/internal/format/tpm"
	"github.com/birthmark/birthmark/internal/identity/attest"
	"github.com/birthmark/birthmark/internal/identity/attest/tpm"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
)

// ChallengeRequest asks for a challenge that a device's TPM has to answer before
// it enrolls; see Request.TPM.
type ChallengeRequest struct {
	Requester     Requester
	Label         string // that the enrollment will use
	Claim         wire.Claim
	RemoteAddress string // for the log only
}

// Challenge judges what a device says of its TPM and returns what only this TPM
// can answer, within ten minutes, for the same requester and label, once. It
// writes nothing.
func (e *Enroller) Challenge(ctx context.Context, r ChallengeRequest) (*wire.Challenge, error) {
	if err := e.mayAttest(); err != nil {
		return nil, err
	}
	plane, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	q := Request{Operation: Enroll, Requester: r.Requester, Label: r.Label}
	for range decideTries {
		var d *decision
		d, err = e.groundChallenge(ctx, plane, &q)
		if err == nil {
			var answer *wire.Challenge
			if answer, err = e.challengeDevice(ctx, d, &r.Claim); err == nil {
				return answer, nil
			}
		}
		if !errors.Is(err, device.ErrStale) {
			newer := e.afterRefusal(ctx, plane, err)
			if newer == nil {
				if d != nil {
					e.alarmDevice(ctx, d, err)
					e.recordRefusal(ctx, refusedDevice(d, err))
				}
				return nil, err
			}
			plane = newer
			continue
		}
		if plane, err = e.authorities.RefreshAfter(ctx, plane.Epoch); err != nil {
			return nil, err
		}
	}
	return nil, fault.New(fault.IssuanceBusy)
}

// Known judges who asks, as Enroll and Challenge do first, and nothing else.
func (e *Enroller) Known(ctx context.Context, r Requester) error {
	plane, err := e.authorities.Snapshot(ctx)
	if err != nil {
		return err
	}
	_, err = e.authenticate(ctx, plane, &Request{Operation: Enroll, Requester: r})
	return err
}

// mayAttest refuses while nothing is issued, and where there is nobody to judge
// TPMs.
func (e *Enroller) mayAttest() error {
	if e.attest == nil {
		return fault.New(fault.EvidenceMissing, "this server takes no evidence of TPMs")
	}
	return e.mayIssue()
}

// groundChallenge finds the device and the profile that a challenge is for.
func (e *Enroller) groundChallenge(ctx context.Context, plane *authority.Snapshot, r *Request) (*decision, error) {
	q, err := e.authenticate(ctx, plane, r)
	if err != nil {
		return nil, err
	}
	if !q.device.State.MayEnroll() {
		return nil, fault.New(fault.DeviceState, q.device.State.String())
	}
	d := &decision{requester: q, epoch: plane.Epoch}
	if err := e.chooseProfile(plane, r, d); err != nil {
		return nil, err
	}
	return d, nil
}

func (e *Enroller) challengeDevice(ctx context.Context, d *decision, claim *wire.Claim) (*wire.Challenge, error) {
	m, err := e.makersAt(ctx, d.epoch)
	if err != nil {
		return nil, err
	}
	dev := &d.requester.device
	return e.challenge(ctx, &challenged{
		by: d.asked(), claim: claim, makers: m, need: d.need, product: dev.Product, device: dev.ID,
		chipFits: func(c *factory.Chip) error { return chipFitsDevice(d, c) },
		tpmFits:  func(ek [32]byte) error { return e.checkSameTPM(ctx, d, ek) },
		seen:     func(x *tpm.TPM) { d.hardware = &hardware{tpm: x} },
	})
}

// ChallengeUnit is Challenge for a unit of a production order whose TPM a station
// has before it; see station.Unit.TPM. Many goroutines may call it for one session.
func (e *Enroller) ChallengeUnit(ctx context.Context, s *StationSession, r *station.ChallengeRequest) (*wire.Challenge, error) {
	if e.line == nil {
		return nil, fault.New(fault.StationCertificate)
	}
	if err := e.mayAttest(); err != nil {
		return nil, err
	}
	a := &attempt{session: s, unit: &station.Unit{ID: r.ID, Order: r.Order, DeviceSerial: r.DeviceSerial}, begun: e.now(), challenging: true}
	var answer *wire.Challenge
	err := e.eachEpoch(ctx, a, func(epoch int64) (err error) {
		answer, err = e.tryChallenge(ctx, a, &r.Claim, epoch)
		return err
	})
	return answer, err
}

// tryChallenge decides once, under one epoch, whether the unit may be challenged.
// A unit that has its identity already may: its station may have missed the answer,
// or wants it reworked. What counts of the order and the serial is decided when the
// answer comes.
func (e *Enroller) tryChallenge(ctx context.Context, a *attempt, claim *wire.Claim, epoch int64) (*wire.Challenge, error) {
	if err := e.groundUnit(ctx, a, epoch); err != nil {
		return nil, err
	}
	if a.former == nil || !living(a.former) || a.former.Order != a.order.ID {
		if err := factory.MayMake(a.order); err != nil {
			return nil, err
		}
		if err := a.checkFormer(); err != nil {
			return nil, err
		}
	}
	if a.product.KeyModel != device.KeyModelOnDevice {
		return nil, fault.New(fault.KeyModel, "the units of", a.product.Name, "show no TPM")
	}
	if err := a.chooseRoad(); err != nil {
		return nil, err
	}
	m, err := e.makersAt(ctx, a.control.Epoch)
	if err != nil {
		return nil, err
	}
	return e.challenge(ctx, &challenged{
		by: a.asked(e), claim: claim, makers: m, need: a.need, product: a.product.ID, device: e.devices.DeviceID(a.unit.DeviceSerial),
		chipFits: func(c *factory.Chip) error { return e.unitFits(a, c) },
		seen:     func(x *tpm.TPM) { a.hardware = &hardware{tpm: x} },
	})
}

// challenged is a claim on its way to a challenge.
type challenged struct {
	by       asked
	claim    *wire.Claim
	makers   *makers
	need     need
	product  int64
	device   device.ID
	chipFits func(*factory.Chip) error // says why the device may not have this chip
	tpmFits  func(ek [32]byte) error   // says why it may not have this TPM; nil: a unit's may be replaced
	seen     func(*tpm.TPM)            // is told of the TPM that is claimed
}

// challenge judges a claim in the order of proof and wraps a secret for it.
func (e *Enroller) challenge(ctx context.Context, c *challenged) (*wire.Challenge, error) {
	policy, err := c.makers.policy(c.product)
	if err != nil {
		return nil, err
	}
	found := &listing{store: e.attest.Chips}
	x, err := c.makers.trust.Check(c.claim, found.options(ctx, e.now()))
	if err != nil {
		c.seen(claimed(c.claim))
		return nil, err
	}
	c.seen(x)
	chip, err := found.look(ctx, x.EK)
	if err != nil {
		return nil, err
	}
	if err := c.possible(x, chip, policy); err != nil {
		return nil, err
	}
	if chip != nil {
		if err := c.chipFits(chip); err != nil {
			return nil, err
		}
	}
	if err := e.checkOwner(ctx, x.EK, c.device, nil); err != nil {
		return nil, err
	}
	if c.tpmFits != nil {
		if err := c.tpmFits(x.EK); err != nil {
			return nil, err
		}
	}
	t, secret, err := newTicket(c.by, e.now(), e.attest.Random)
	if err != nil {
		return nil, err
	}
	t.tpm, t.grounds = *x, c.makers.grounds(c.product)
	answer := &wire.Challenge{Nonce: t.nonce[:], ExpiresAt: t.ref.ExpiresAt.UTC()}
	if answer.Credential, answer.Secret, err = x.Credential(e.attest.Random, secret[:]); err != nil {
		return nil, err
	}
	if policy != nil {
		answer.Quote = policy.Request()
	}
	answer.Ticket, err = e.attest.tickets.seal(ctx, t)
	return answer, err
}

// possible refuses a TPM that cannot prove what is demanded, whatever it answers.
func (c *challenged) possible(x *tpm.TPM, chip *factory.Chip, policy *tpm.Policy) error {
	most := attest.KeyInChip | attest.Fresh
	if x.Genuine {
		most |= attest.Genuine
	}
	if chip != nil {
		most |= attest.Listed
	}
	if policy != nil {
		most |= attest.Firmware
	}
	return c.need.check(shown{kind: attest.TPM, claims: most})
}

// listing looks an endorsement key up once.
type listing struct {
	store  Chips
	looked bool
	chip   *factory.Chip // nil: it is in no manifest
}

// options lets a claim be judged by the manifests.
func (l *listing) options(ctx context.Context, now time.Time) tpm.ClaimOptions {
	return tpm.ClaimOptions{Now: now, Listed: func(ek [32]byte) (bool, error) {
		chip, err := l.look(ctx, ek)
		return chip != nil, err
	}}
}

func (l *listing) look(ctx context.Context, ek [32]byte) (*factory.Chip, error) {
	if l.looked {
		return l.chip, nil
	}
	c, err := l.store.ChipByKey(ctx, ek)
	switch {
	case err == nil && listsEK(&c, ek):
		l.chip = &c
	case err != nil && !fault.Has(err, fault.ChipUnknown):
		return nil, err
	}
	l.looked = true
	return l.chip, nil
}

// slotEK is what manifests of TPMs call the slot of their keys.
const slotEK = "ek"

// listsEK reports whether a chip's entry has the key as an endorsement key. Another
// listed key may be in software, or in a chip that decrypts for whoever asks; a TPM
// played around it would open every credential.
func listsEK(c *factory.Chip, ek [32]byte) bool {
	return slices.ContainsFunc(c.Keys, func(k factory.ChipKey) bool { return k.Slot == slotEK && sha256.Sum256(k.SPKI) == ek })
}

// asked is who asks for what, as a ticket remembers it.
func (d *decision) asked() asked {
	return asked{
		device: d.requester.device.ID, deviceSerial: d.requester.device.DeviceSerial,
		requester: sha256.Sum256(d.requester.identify()), label: d.label.Name,
	}
}

func (a *attempt) asked(e *Enroller) asked {
	return asked{
		station: a.station.ID, order: a.order.ID, device: e.devices.DeviceID(a.unit.DeviceSerial), deviceSerial: a.unit.DeviceSerial,
	}
}
