package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/mpcd/mpcd/client"
)

// callFlags are those of every wallet command, also of those that call nobody: a script may
// pass the same to all.
type callFlags struct {
	Addr string `help:"The service's gRPC address (default: ${default})." default:"127.0.0.1:9090" env:"MPCD_ADDR" placeholder:"ADDR"`
	JSON bool   `help:"Print one JSON object on standard output."`
	connectionFlags
}

// serviceFlags are those of every command that calls the service.
type serviceFlags struct {
	callFlags
	// DeviceHeld is for the commands that run a protocol; the others have no use for it.
	DeviceHeld bool `help:"Run this device's side of the protocol here: its share is not sent. A wallet that is created so refuses everything else." env:"MPCD_DEVICE_HELD"`
	// Ahead is for those of them that make a share, with DeviceHeld.
	Ahead ahead `embed:"" prefix:"preparams-"`
}

// id is a flag that names a wallet or a share set, in the one form that ids have.
type id string

// UnmarshalText is called by kong.
func (i *id) UnmarshalText(text []byte) error {
	parsed, err := client.ParseID(string(text))
	*i = id(parsed)
	return err
}

// dial connects to the service.
func (f *serviceFlags) dial(opts ...client.Option) (*client.Client, func() error, error) {
	host, _, err := net.SplitHostPort(f.Addr)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--addr %q is not HOST:PORT", f.Addr)}
	}
	how, err := f.dialOptions(host)
	if err != nil {
		return nil, nil, usageError{err}
	}
	opts, err = f.deviceHeld(opts)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+f.Addr, how...)
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(conn, opts...)
	if err != nil {
		return nil, nil, errors.Join(usageError{err}, conn.Close())
	}
	return c, conn.Close, nil
}

// deviceHeld adds to the options what --device-held asks for.
func (f *serviceFlags) deviceHeld(opts []client.Option) ([]client.Option, error) {
	if !f.DeviceHeld {
		return opts, nil
	}
	opts = append(opts, client.WithDeviceHeldShares())
	if err := f.Ahead.check("preparams-"); err != nil || f.Ahead.Dir == "" {
		return opts, err
	}
	store, err := f.Ahead.option()
	return append(opts, store), err
}

// call connects, shows the progress of one operation and prints its result: as JSON, or
// as text.
func (f *serviceFlags) call(name string, run func(*client.Client, client.ProgressFunc) (result any, text string,
	err error), opts ...client.Option) (err error) {
	return f.quiet(func(c *client.Client) (any, string, error) {
		report, end := newView(os.Stderr, f.JSON).operation(name)
		result, text, err := run(c, report)
		end(err)
		return result, text, err
	}, opts...)
}

// quiet is call for what is over in a moment.
func (f *serviceFlags) quiet(run func(*client.Client) (any, string, error), opts ...client.Option) (err error) {
	c, closeConn, err := f.dial(opts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeConn()) }()
	result, text, err := run(c)
	if err != nil {
		return f.explain(err)
	}
	return f.print(result, text)
}

func (f *callFlags) print(result any, text string) error {
	if f.JSON {
		return json.NewEncoder(os.Stdout).Encode(result)
	}
	_, err := fmt.Print(text)
	return err
}

// explain says what to do next where the service could not be reached, or the command
// was interrupted.
func (f *serviceFlags) explain(err error) error {
	e := new(client.Error)
	switch {
	case errors.Is(err, errUncounted), errors.Is(err, client.ErrNotRevoked):
		return err // something was made: it says what to do itself
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; what was not confirmed is of no use, and the service erases it", errInterrupted)
	case errors.As(err, &e) && e.Code == codes.Unavailable && e.Reason == "":
		return fmt.Errorf("no mpcd service answers at %s. Start one with \"mpcd serve --dev\", or name another with "+
			"--addr; one with TLS needs --tls-ca\n(%w)", f.Addr, err)
	}
	return err
}

// nowhere is the connection of a command that makes no call.
type nowhere struct{ grpc.ClientConnInterface }
