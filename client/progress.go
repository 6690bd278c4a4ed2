package client

import (
	"time"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// The steps of an operation, as Progress.Status has them.
const (
	StatusQueued     = "Queued"
	StatusReading    = "Reading share"
	StatusDecrypting = "Decrypting share"
	StatusParsing    = "Parsing share"
	StatusGenerating = "Generating share"
	StatusEncrypting = "Encrypting share"
	StatusStoring    = "Storing share"
	StatusDone       = "Done"
)

// The operations, as Progress.Operation has them.
const (
	OperationCreate    = "create"
	OperationBackup    = "backup"
	OperationProvision = "provision"
)

// Progress is one step of an operation, the SDK's own steps and the service's in one order.
// A status may come twice. A failure is the operation's error, never a Progress.
type Progress struct {
	Status        string
	Done          bool   // true in the last Progress of an operation that succeeded, and only there
	Percent       uint32 // 0 to 100 of the whole operation; never falls
	Operation     string
	Curve         string        // set while a share is being generated
	Round, Rounds uint32        // of the protocol; both 0 while pre-params are being made
	Elapsed       time.Duration // since the call began, over all its attempts
	SessionID     string        // of the service's session, for support; empty before there is one
	Sequence      uint32
	QueuePosition uint32 // how many runs are ahead, while queued
	Attempt       uint32
}

// ProgressFunc is told each step. It is called in the operation's own goroutine, never
// concurrently, and holds the operation up until it returns. nil is allowed.
type ProgressFunc func(Progress)

// statuses has no word for STATUS_DONE: that word is the SDK's.
var statuses = map[mpcdv1.Status]string{
	mpcdv1.Status_STATUS_QUEUED:           StatusQueued,
	mpcdv1.Status_STATUS_READING_SHARE:    StatusReading,
	mpcdv1.Status_STATUS_DECRYPTING_SHARE: StatusDecrypting,
	mpcdv1.Status_STATUS_PARSING_SHARE:    StatusParsing,
	mpcdv1.Status_STATUS_GENERATING_SHARE: StatusGenerating,
	mpcdv1.Status_STATUS_ENCRYPTING_SHARE: StatusEncrypting,
	mpcdv1.Status_STATUS_STORING_SHARE:    StatusStoring,
}

// Percentages of the whole at which the SDK's own steps begin.
const (
	percentDecrypting = 2
	percentRun        = 5 // where the service's part of a provision run begins
	percentEncrypting = 90
	percentStoring    = 95
)

// reporter merges the service's steps with the SDK's.
type reporter struct {
	report   ProgressFunc
	start    time.Time
	from, to uint32 // the service's part of the whole, in percent
	last     Progress
}

func newReporter(report ProgressFunc, operation string) *reporter {
	r := &reporter{report: report, start: time.Now(), to: percentStoring, last: Progress{Operation: operation}}
	switch operation {
	case OperationBackup:
		r.to = percentEncrypting
	case OperationProvision:
		r.from = percentRun
	}
	return r
}

// step reports a step of the SDK's own.
func (r *reporter) step(status string, percent uint32) {
	r.send(Progress{Status: status, Done: status == StatusDone, Percent: percent,
		SessionID: r.last.SessionID, Sequence: r.last.Sequence, Attempt: r.last.Attempt})
}

// service reports a step of the service's, never as done: the app still has to store the
// share. Held back are what statuses has no word for, and a backup's storing, which comes
// before the SDK encrypts.
func (r *reporter) service(p *mpcdv1.Progress) {
	status := statuses[p.GetStatus()]
	if status == "" || status == StatusStoring && r.last.Operation == OperationBackup {
		return
	}
	r.send(Progress{
		Status: status, Percent: r.from + min(p.GetPercent(), 100)*(r.to-r.from)/100,
		Curve: string(curveOf(p.GetCurve())), Round: p.GetRound(), Rounds: p.GetRounds(),
		SessionID: p.GetSessionId(), Sequence: p.GetSequence(), QueuePosition: p.GetQueuePosition(), Attempt: p.GetAttempt(),
	})
}

// making reports that this device has no pre-params and makes them, which the service knows
// nothing of.
func (r *reporter) making() {
	r.send(Progress{Status: StatusGenerating, Percent: r.last.Percent, Curve: string(CurveSecp256k1),
		SessionID: r.last.SessionID, Sequence: r.last.Sequence, Attempt: r.last.Attempt})
}

func (r *reporter) send(p Progress) {
	p.Operation = r.last.Operation
	p.Percent = max(p.Percent, r.last.Percent)
	p.Elapsed = time.Since(r.start)
	r.last = p
	if r.report != nil {
		r.report(p)
	}
}
