// Command mutants looks for conditions that no test is behind: it puts one condition after the other out of action, in
// the files with the guards of the service and the SDK, and runs the quick unit tests of the package that reach it.
//
// A package's tests are built once, with a switch in each condition, so that a mutant costs no more than the tests that
// it takes to find it. Fuzz targets, tests of other packages and slow ones do not count: a guard's test stands next to it
// and takes seconds. A mutant that lives is a fault, unless docs/MUTANTS.md says why no test can find it.
//
// It is no part of the service, and runs from the directory tools: go run -C tools ./mutants [PACKAGE...].
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

// target is a package and those of its files that are looked at.
type target struct {
	dir   string
	files []string
	calls *regexp.Regexp // statements that are checks; nil: none is
	parts *regexp.Regexp // of "file.go function", where the guards are; nil: everywhere
}

var targets = []target{
	{dir: "internal/tss", files: []string{
		"curve.go", "encoding.go", "hello.go", "hosted.go", "ingress.go", "ingress_content.go", "ingress_moduli.go", "ingress_reader.go", "channel.go", "operation.go", "keygen.go",
		"link.go", "preparams.go", "proof.go", "record.go", "reshare.go", "result.go", "share.go", "side.go", "sign.go", "stop.go",
	}, calls: regexp.MustCompile(`^[rg]\.(bytes|bobWC|cancels|ciphertext|decommitment|dln|list|moduli|nonResidue|point|scalar|schnorr)\(`)},
	{dir: "internal/auth", files: []string{"auth.go", "certificate.go", "jwk.go", "jwks.go", "location.go", "tls.go", "token.go"}},
	{dir: "internal/webhook", files: []string{"failure.go", "webhook.go"}},
	// What the SDK holds an answer against.
	{dir: "client", files: []string{"device.go", "run.go", "share.go", "sign.go", "wallet.go"},
		parts: regexp.MustCompile(`device.go (want\.operation|attempt\.(deliver|finish|sideError))|run.go (run|attach|want\.check)|` +
			`share.go|sign.go|wallet.go`)},
	{dir: "internal/link", files: []string{"link.go"}},
	// What aborts are charged, in one transaction with the end of their session.
	{dir: "internal/store", files: []string{"budgets.go"}},
	// Authorisation, whether a set may be used, fingerprints, budgets, commit.
	{dir: "internal/session", files: []string{
		"budget.go", "caller.go", "create.go", "ending.go", "limits.go", "model.go", "newset.go", "place.go", "protocol.go",
		"request.go", "reshare.go", "sign.go", "source.go", "takeover.go", "unrecorded.go", "wallets.go", "work.go",
	}, parts: regexp.MustCompile(`budget.go|caller.go|create.go|ending.go|limits.go|place.go|request.go|reshare.go|sign.go|` +
		`source.go|takeover.go|unrecorded.go|runner\.(fresh|pass|preParams|compute|still|usable|commit|classify|confirm|revoke|unlock)$|` +
		`usable|has$|pickRevoked`)},
}

var (
	workers = flag.Int("workers", runtime.NumCPU(), "how many tests run at once")
	quick   = flag.Duration("quick", 8*time.Second, "how much processor time a test may take that counts")
	check   = flag.Bool("check", false, "try nothing: only look whether docs/MUTANTS.md is about code that is there")
	only    = flag.String("only", "", "a regular expression: try only mutants of such files and functions, as in 'side.go side.accept'")
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

// run reports whether no mutant lives that is not explained.
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
		fmt.Printf("docs/MUTANTS.md: there is no such condition: %s\n", line)
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
	var mu sync.Mutex // guards what follows, and keeps lines apart
	killed, reasons, lives := 0, 0, 0
	each(tried, func(m *mutant) {
		v := s.try(m)
		mu.Lock()
		defer mu.Unlock()
		reason := known.reason(m)
		said := "killed by " + v.killer
		switch {
		case v.killer != "":
			killed++
			if reason != "" {
				said += ", though docs/MUTANTS.md has a reason why not"
			}
		case reason != "":
			reasons++
			said = "lives: " + reason
		case v.hangs:
			lives++
			said = "SURVIVED: a test that does not end is no test"
		default:
			lives++
			said = fmt.Sprintf("SURVIVED %d tests", v.tests)
		}
		fmt.Printf("%s:%d: %s: `%s`, `%s` %s: %s\n", m.file, m.line, m.function, m.code, m.piece, m.what, said)
	})
	fmt.Printf("%s: %d mutants, %d killed, %d explained, %d SURVIVED; %v\n\n", t.dir, len(tried), killed, reasons, lives, time.Since(begin).Round(time.Second))
	return lives+stale == 0, nil
}
