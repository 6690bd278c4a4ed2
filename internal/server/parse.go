package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/names"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/wire"
)

// parser converts a request's fields to package session's types, and collects all faults. If there are none, nothing
// needs to be checked again.
type parser struct{ faults requestError }

// parserOf returns the parser of a call, with the faults that the gateway found in an HTTP call's body or query.
func parserOf(ctx context.Context) parser {
	faults, _ := ctx.Value(faultsKey{}).(requestError)
	return parser{slices.Clone(faults)}
}

func (p *parser) fault(field, format string, args ...any) {
	if p.faults.cover(field) {
		return
	}
	p.faults = append(p.faults, &session.FieldError{Field: field, Want: fmt.Sprintf(format, args...)})
}

// err returns all faults, or nil.
func (p *parser) err() error {
	if len(p.faults) == 0 {
		return nil
	}
	return p.faults
}

// uuid accepts the usual form of a UUID, in either case.
func (p *parser) uuid(field, s string) string {
	u, err := uuid.Parse(s)
	if s == "" {
		p.fault(field, "is required and must be a UUID")
	} else if err != nil || len(s) != len(u.String()) {
		p.fault(field, "must be a UUID such as 0198c0de-8a1b-7c3d-9e4f-5a6b7c8d9e0f")
	}
	return u.String()
}

// name accepts a name of a device or an owner (see names.Check).
func (p *parser) name(field, s string, most int) string {
	if err := names.Check(s, most); err != nil {
		p.fault(field, "%v", err)
	}
	return s
}

// startFields are what the three streaming requests have in common.
type startFields interface {
	GetRequestId() string
	GetSealTo() string
	GetDisplayName() string
	GetDevice() *pb.DeviceSide
}

func (p *parser) start(r startFields) session.Start {
	st := session.Start{
		RequestID:   p.uuid("request_id", r.GetRequestId()),
		DisplayName: p.name("display_name", r.GetDisplayName(), names.MaxDisplayName),
	}
	if d := r.GetDevice(); d != nil {
		_, isNew := r.(*pb.CreateWalletRequest)
		st.Device = p.device(d, !isNew)
	}
	if to := r.GetSealTo(); to != "" {
		rec, err := age.ParseX25519Recipient(to)
		if err == nil {
			// A point of small order parses, and fails only when something is encrypted to it.
			_, err = rec.Wrap(make([]byte, 16))
		}
		if err != nil {
			p.fault("seal_to", "must be an age X25519 recipient (age1...)")
		}
		st.SealTo = rec
	}
	return st
}

// device reads where the client's side runs. fromSet says that the run starts from a set.
func (p *parser) device(d *pb.DeviceSide, fromSet bool) *session.Device {
	out := &session.Device{Instance: p.uuid("device.instance", d.GetInstance()), Attempt: d.GetAttempt(), Ack: d.GetAck()}
	switch {
	case fromSet:
		out.ShareSetID = p.uuid("device.share_set_id", d.GetShareSetId())
	case d.GetShareSetId() != "":
		p.fault("device.share_set_id", "must be empty: a new wallet starts from no set")
	}
	return out
}

const maxParts = 64 // in one call; more than a run has

func (p *parser) parts(field string, messages []*pb.ProtocolMessage) (out []session.Numbered) {
	if len(messages) == 0 || len(messages) > maxParts {
		p.fault(field, "must be 1 to %d messages", maxParts)
		return nil
	}
	for i, m := range messages {
		part, err := wire.Part(m)
		if err != nil {
			p.fault(fmt.Sprintf("%s[%d]", field, i), "must be one part of the protocol: %v", err)
		}
		out = append(out, session.Numbered{Sequence: m.GetSequence(), Ack: m.GetAck(), Part: part})
	}
	return out
}

func (p *parser) curve(field string, c pb.Curve) session.Curve {
	switch c {
	case pb.Curve_CURVE_SECP256K1:
		return session.Secp256k1
	case pb.Curve_CURVE_ED25519:
		return session.Ed25519
	default:
		p.fault(field, "must be CURVE_SECP256K1 or CURVE_ED25519")
		return 0
	}
}

func (p *parser) curves(field string, in []pb.Curve) []session.Curve {
	var out []session.Curve
	for i, c := range in {
		out = append(out, p.curve(fmt.Sprintf("%s[%d]", field, i), c))
	}
	slices.Sort(out)
	if len(slices.Compact(slices.Clone(out))) != len(in) {
		p.fault(field, "must name each curve once")
	}
	return out
}

func (p *parser) method(field string, m pb.BackupMethod) session.BackupMethod {
	out := session.BackupMethod(m) //nolint:gosec // G115: an unknown number is invalid either way
	if m != pb.BackupMethod(out) || !out.Valid() {
		p.fault(field, "must be one of BACKUP_METHOD_PASSWORD, _ICLOUD, _GDRIVE, _PASSKEY, _FIREBASE, _CUSTOM")
	}
	return out
}

const (
	defaultPage = 50
	maxPage     = 100
)

func (p *parser) pageSize(field string, n int32) int {
	if n < 0 || n > maxPage {
		p.fault(field, "must be from 0 to %d; 0 means %d", maxPage, defaultPage)
	}
	if n == 0 {
		return defaultPage
	}
	return int(n)
}

// A page token is the position of the last wallet on the previous page.
func toPageToken(at session.Position) string {
	if at == (session.Position{}) {
		return ""
	}
	return strconv.FormatInt(at.CreateTime.UnixMicro(), 10) + "." + at.ID
}

// pageToken rejects anything that toPageToken did not make, such as an earlier release's token, which was ordered by
// id.
func (p *parser) pageToken(field, s string) (after session.Position) {
	if s == "" {
		return after
	}
	created, id, _ := strings.Cut(s, ".")
	micros, bad := strconv.ParseInt(created, 10, 64)
	at := session.Position{CreateTime: time.UnixMicro(micros).UTC(), ID: id}
	if u, err := uuid.Parse(id); bad != nil || err != nil || u.String() != id || toPageToken(at) != s {
		p.fault(field, "must be a next_page_token as it came; those of an earlier release are no longer good: "+
			"begin with the first page")
		return after
	}
	return at
}
