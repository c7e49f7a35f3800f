package enroll

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/request"
)

// ApprovalKind is the kind of act that waits when a profile wants an operator's
// word for each enrollment.
const ApprovalKind = "certificate.enroll"

const (
	approvalLife  = 7 * 24 * time.Hour
	approvalRetry = 5 * time.Minute
)

// wanted is the act as it is approved: exactly this device gets a certificate
// under this profile for this key.
type wanted struct {
	Device       string `json:"device"`
	DeviceSerial string `json:"device_serial"`
	Profile      string `json:"profile"`
	Purpose      string `json:"purpose"`
	SPKI         string `json:"spki_sha256"`
	Idempotency  string `json:"idempotency"`
}

// checkApproval lets the request pass when an operator approved this very act;
// otherwise it puts the act down as waiting and returns *Waiting.
func (e *Enroller) checkApproval(ctx context.Context, d *decision, csr *request.Request) error {
	params, err := access.Canonical(wanted{
		Device: d.requester.device.ID.String(), DeviceSerial: d.requester.device.DeviceSerial,
		Profile: d.road.Profile.Name, Purpose: d.purpose,
		SPKI: hex.EncodeToString(csr.SPKIDigest[:]), Idempotency: hex.EncodeToString(d.idempotency[:]),
	})
	if err != nil {
		return err
	}
	digest := access.ActDigest(ApprovalKind, params)
	a, err := e.approvals.ApprovalByDigest(ctx, digest)
	switch {
	case fault.Has(err, fault.ApprovalUnknown):
		return e.askApproval(ctx, d, params, digest)
	case err != nil:
		return err
	case a.State == access.Executed:
		return e.answered(ctx, d, csr)
	case a.State == access.Refused:
		return fault.New(fault.ApprovalRefused)
	case e.now().After(a.ExpiresAt):
		return e.askApproval(ctx, d, params, digest)
	case a.State == access.Approved:
		d.approval = a.ID
		return nil
	}
	return &Waiting{Approval: a.ID, RetryAfter: approvalRetry}
}

// answered finds the certificate that an executed approval led to.
func (e *Enroller) answered(ctx context.Context, d *decision, csr *request.Request) error {
	c, err := e.devices.CredentialBySPKI(ctx, access.Everything(), csr.SPKIDigest)
	if err != nil {
		return err
	}
	if !e.replayable(d, &c) {
		return fault.New(fault.RequestReplayed)
	}
	d.replay = &c
	return nil
}

func (e *Enroller) askApproval(ctx context.Context, d *decision, params []byte, digest [32]byte) error {
	now := e.now()
	actor := deviceActor(d.requester.device.ID)
	a := access.Approval{
		Kind: ApprovalKind, Params: params, Digest: digest, Requester: actor,
		State: access.Waiting, RequestedAt: now, ExpiresAt: now.Add(approvalLife),
	}
	id, err := e.approvals.AddApproval(ctx, a, ledger.Entry{
		Kind: ledger.ApprovalRequested, At: now, Actor: actor,
		Body: ledger.JSON(map[string]any{"kind": a.Kind, "digest": hex.EncodeToString(digest[:]), "params": json.RawMessage(params)}),
	})
	if err != nil {
		return err
	}
	return &Waiting{Approval: id, RetryAfter: approvalRetry}
}
