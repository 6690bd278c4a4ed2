// Command mutants is a mutation tester: it finds conditions that no test covers. It disables one condition after the
// other, in the files with the checks of the service and the SDK, and runs the package's quick unit tests that reach
// it.
//
// A package's tests are built once, with a switch in each condition, so that a mutant costs no more than the tests that
// are run for it. Fuzz targets, tests of other packages and slow tests do not count: a check must have a quick test in
// its package. A mutant that survives is an error, unless docs/MUTANTS.md explains why no test can find it.
//
// It is not part of the service, and runs from the directory tools: go run -C tools ./mutants [PACKAGE...].
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"
)

// target is a package and the parts of it that are mutated.
type target struct {
	dir   string
	files []string
	calls *regexp.Regexp // matches statements that are checks; nil: none
	parts *regexp.Regexp // matches "file.go function" of the parts that are mutated; nil: all
}

var targets = []target{
	{dir: "internal/tss", files: []string{
		"curve.go", "encoding.go", "hello.go", "hosted.go", "ingress.go", "ingress_content.go", "ingress_moduli.go",
		"ingress_reader.go", "channel.go", "operation.go", "keygen.go", "link.go", "preparams.go", "proof.go",
		"record.go", "reshare.go", "result.go", "share.go", "side.go", "sign.go", "stop.go",
	}, calls: regexp.MustCompile(`^[rg]\.(bytes|bobWC|checkNewKeys|checkNonResidue|checkTheta|` +
		`ciphertext|decommitment|dln|list|point|scalar|schnorr)\(`)},
	{dir: "internal/auth", files: []string{
		"auth.go", "certificate.go", "jwk.go", "jwks.go", "location.go", "tls.go", "token.go",
	}},
	{dir: "internal/webhook", files: []string{"failure.go", "webhook.go"}},
	// The SDK's checks of answers.
	{dir: "client", files: []string{"device.go", "run.go", "share.go", "sign.go", "wallet.go"},
		parts: regexp.MustCompile(`device.go (want\.operation|attempt\.(deliver|finish|sideError))|` +
			`run.go (run|attach|want\.check)|share.go|sign.go|wallet.go`)},
	{dir: "internal/link", files: []string{"link.go"}},
	// The accounting of aborts.
	{dir: "internal/store", files: []string{"budgets.go"}},
	// Authorisation, whether a set can be used, fingerprints, budgets, commit.
	{dir: "internal/session", files: []string{
		"budget.go", "caller.go", "create.go", "ending.go", "limits.go", "model.go", "newset.go", "slot.go", "protocol.go",
		"request.go", "reshare.go", "sign.go", "source.go", "takeover.go", "unrecorded.go", "wallets.go", "work.go",
	}, parts: regexp.MustCompile(`budget.go|caller.go|create.go|ending.go|limits.go|slot.go|request.go|reshare.go|sign.go|` +
		`source.go|takeover.go|unrecorded.go|` +
		`runner\.(reserveDeviceModuli|beforeRelease|preParams|compute|reserveSet|usableSet|commit|classify|confirm|revoke|unlock)$|` +
		`checkUsable|pickRevoked`)},
}

var (
	workers = flag.Int("workers", runtime.NumCPU(), "how many tests run at once")
	quick   = flag.Duration("quick", 8*time.Second, "skip tests that take this much processor time")
	check   = flag.Bool("check", false, "run no tests: only check that docs/MUTANTS.md matches the code")
	only    = flag.String("only", "", "try only mutants whose 'file.go function' matches this regular expression")
)

func main() {
	flag.Parse()
	ok, err := run(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run reports whether all surviving mutants are explained.
func run(packages []string) (ok bool, err error) {
	root, err := filepath.Abs("..")
	if err != nil {
		return false, err
	}
	known, err := readExplained(filepath.Join(root, "docs", "MUTANTS.md"))
	if err != nil {
		return false, err
	}
	ok = true
	for _, t := range targets {
		if len(packages) > 0 && !slices.Contains(packages, t.dir) {
			continue
		}
		fine, err := runTarget(root, t, known)
		if err != nil {
			return false, err
		}
		ok = ok && fine
	}
	return ok, nil
}

func runTarget(root string, t target, known *explained) (ok bool, err error) {
	begin := time.Now()
	tmp, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // it is temporary
	s := &suite{target: t, root: root, tmp: tmp}
	overlay, err := s.mutate()
	if err != nil {
		return false, err
	}
	stale := 0
	for _, line := range known.stale(s.mutants, t.dir) {
		stale++
		fmt.Printf("docs/MUTANTS.md: no such condition: %s\n", line)
	}
	if *check {
		return stale == 0, nil
	}
	if err := s.build(overlay); err != nil {
		return false, err
	}
	if err := s.survey(*quick); err != nil {
		return false, err
	}
	some, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}
	var tried []*mutant
	for _, m := range s.mutants {
		if some.MatchString(m.file + " " + m.function) {
			tried = append(tried, m)
		}
	}
	var mu sync.Mutex // guards what follows, and the output
	killed, reasons, survived := 0, 0, 0
	each(tried, func(m *mutant) {
		v := s.try(m)
		mu.Lock()
		defer mu.Unlock()
		reason := known.reason(m)
		result := "killed by " + v.killer
		switch {
		case v.killer != "":
			killed++
			if reason != "" {
				result += ", but docs/MUTANTS.md explains it"
			}
		case reason != "":
			reasons++
			result = "lives: " + reason
		case v.hangs:
			survived++
			result = "SURVIVED: a test hangs, but none fails"
		default:
			survived++
			result = fmt.Sprintf("SURVIVED %d tests", v.tests)
		}
		fmt.Printf("%s:%d: %s: `%s`, `%s` %s: %s\n", m.file, m.line, m.function, m.code, m.piece, m.what, result)
	})
	fmt.Printf("%s: %d mutants, %d killed, %d explained, %d SURVIVED; %v\n\n",
		t.dir, len(tried), killed, reasons, survived, time.Since(begin).Round(time.Second))
	return survived+stale == 0, nil
}
