// Command mpcd makes a new set of MPC signing shares for another device from an encrypted backup. It has the service, a
// command-line client, and a demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/mpcd/mpcd/internal/names"
)

// cli is the command line: one field for each command.
type cli struct {
	Demo      demoCmd      `cmd:"" help:"Create, back up, provision and sign, all in one process."`
	Serve     serveCmd     `cmd:"" help:"Run the service."`
	Wallet    walletCmd    `cmd:"" help:"Use a running service: create, back up, provision, sign."`
	Keyset    keysetCmd    `cmd:"" help:"Make and rotate the keyset that encrypts what a service stores."`
	Preparams preparamsCmd `cmd:"" help:"Fill the pool of pre-params, show or drop it."`
	Custodian custodianCmd `cmd:"" help:"Run a reference custodian, which stores the server shares of backups."`
	Audit     auditCmd     `cmd:"" help:"Show and verify the audit log."`
	Loadtest  loadtestCmd  `cmd:"" help:"Make data for load tests."`
	Worker    workerCmd    `cmd:"" hidden:"" help:"Serve one device-held run; the service starts these."`
	Version   versionCmd   `cmd:"" help:"Print version, commit and Go version."`
}

// Exit codes.
const (
	exitFailed = 1 // the command failed
	exitUsage  = 2 // the command line or configuration is wrong
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if err := noCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "mpcd:", err)
		return exitFailed
	}
	// The first signal shuts the command down; after it the default is restored, so that a second one kills the process.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	if err := dropEmpty(); err != nil {
		fmt.Fprintln(os.Stderr, "mpcd:", err)
		return exitFailed
	}
	if i := slices.IndexFunc(args, func(arg string) bool { return !utf8.ValidString(arg) }); i >= 0 {
		// kong would replace such bytes with U+FFFD, and the argument would name something else.
		fmt.Fprintf(os.Stderr, "mpcd: argument %d is not valid UTF-8: "+
			"pass it in UTF-8, as a terminal with a UTF-8 locale does\n", i+1)
		return exitUsage
	}
	exit := -1
	var c cli
	found := &faults{}
	parser := newParser(&c,
		kong.Name("mpcd"),
		kong.Description("A new set of MPC signing shares on another device, from an encrypted backup."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Exit(func(code int) { exit = code }), // --help ends with 0
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(found),
	)
	k, err := parser.Parse(args)
	if exit >= 0 {
		return exit
	}
	selected := selectedBy(k, err)
	checkEnvironment(parser.Model, selected, found)
	switch {
	case err != nil:
		*found = append(*found, err)
		err = usageError{*found}
	case len(*found) > 0 && k.Selected().Target.Addr().Interface() != any(&c.Serve): // serve reports them with its own
		err = usageError{*found}
	default:
		err = k.Run()
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "mpcd: "+printable(sdkTexts.Replace(err.Error())))
	if errors.As(err, new(usageError)) {
		help := "mpcd COMMAND"
		if selected != nil {
			help = selected.FullPath()
		}
		fmt.Fprintf(os.Stderr, "See \"mpcd --help\" and \"%s --help\".\n", help)
		return exitUsage
	}
	return exitFailed
}

// newParser returns a parser of c. The flags of serve are declared by its settings, not by fields.
func newParser(c *cli, options ...kong.Option) *kong.Kong {
	return kong.Must(c, append(options, kong.PostBuild(c.Serve.addFlags))...)
}

// printable escapes an error's text for a terminal: it may contain text from a service.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = names.Line(line)
	}
	return strings.Join(lines, "\n")
}

// selectedBy returns the command that a command line selects, even if the command line is wrong, or nil.
func selectedBy(k *kong.Context, err error) *kong.Node {
	if p := new(kong.ParseError); errors.As(err, &p) {
		k = p.Context
	}
	if k == nil {
		return nil
	}
	return k.Selected()
}

var errInterrupted = errors.New("interrupted")

// usageError has all faults of a command line or configuration.
type usageError struct{ error }

// Unwrap returns the faults.
func (e usageError) Unwrap() error { return e.error }
