package client

import (
	"time"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// The values of Progress.Status.
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

// The values of Progress.Operation.
const (
	OperationCreate    = "create"
	OperationBackup    = "backup"
	OperationProvision = "provision"
)

// Progress is one step of an operation: the SDK's own steps and the service's, in one sequence. A status may occur more
// than once. A failure is returned as the operation's error, never as a Progress.
type Progress struct {
	Status        string
	Done          bool   // true only in the last Progress of a successful operation
	Percent       uint32 // 0 to 100 of the whole operation; never falls
	Operation     string
	Curve         string        // set while a share is being generated
	Round, Rounds uint32        // of the protocol; both 0 while pre-params are being made
	Elapsed       time.Duration // since the call began, including earlier attempts
	SessionID     string        // of the service's session, for support requests; empty until there is one
	Sequence      uint32
	QueuePosition uint32 // how many runs are ahead, while queued
	Attempt       uint32
}

// ProgressFunc is called with each step. It is called from the operation's goroutine, never concurrently, and blocks
// the operation until it returns. It may be nil.
type ProgressFunc func(Progress)

// statuses has no entry for STATUS_DONE: the operation is done only after the SDK's own steps.
var statuses = map[mpcdv1.Status]string{
	mpcdv1.Status_STATUS_QUEUED:           StatusQueued,
	mpcdv1.Status_STATUS_READING_SHARE:    StatusReading,
	mpcdv1.Status_STATUS_DECRYPTING_SHARE: StatusDecrypting,
	mpcdv1.Status_STATUS_PARSING_SHARE:    StatusParsing,
	mpcdv1.Status_STATUS_GENERATING_SHARE: StatusGenerating,
	mpcdv1.Status_STATUS_ENCRYPTING_SHARE: StatusEncrypting,
	mpcdv1.Status_STATUS_STORING_SHARE:    StatusStoring,
}

// Percentages of the operation at which steps begin.
const (
	percentDecrypting = 2
	percentRun        = 5 // the service's run, in a provision
	percentEncrypting = 90
	percentStoring    = 95
)

// reporter merges the service's steps with the SDK's.
type reporter struct {
	report   ProgressFunc
	start    time.Time
	from, to uint32 // the percentages at which the service's run begins and ends
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

// step reports one of the SDK's own steps.
func (r *reporter) step(status string, percent uint32) {
	r.send(Progress{Status: status, Done: status == StatusDone, Percent: percent,
		SessionID: r.last.SessionID, Sequence: r.last.Sequence, Attempt: r.last.Attempt})
}

// service reports a step of the service, never as done: the app still has to store the share. It skips statuses that
// the SDK does not know, and a backup's storing in the service, since the SDK's encrypting comes after it.
func (r *reporter) service(p *mpcdv1.Progress) {
	status := statuses[p.GetStatus()]
	if status == "" || status == StatusStoring && r.last.Operation == OperationBackup {
		return
	}
	r.send(Progress{
		Status: status, Percent: r.from + min(p.GetPercent(), 100)*(r.to-r.from)/100,
		Curve: string(curveOf(p.GetCurve())), Round: p.GetRound(), Rounds: p.GetRounds(),
		SessionID: p.GetSessionId(), Sequence: p.GetSequence(),
		QueuePosition: p.GetQueuePosition(), Attempt: p.GetAttempt(),
	})
}

// generatingPreParams reports that this device generates pre-params, which the service cannot see.
func (r *reporter) generatingPreParams() {
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
