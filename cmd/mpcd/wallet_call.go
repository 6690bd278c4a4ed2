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

// callFlags are the flags of all wallet commands, even of those that do not call the service, so that a script may pass
// the same flags to all.
type callFlags struct {
	Addr string `help:"The service's gRPC address (default: ${default})." default:"127.0.0.1:9090" env:"MPCD_ADDR" placeholder:"ADDR"`
	JSON bool   `help:"Print one JSON object on standard output."`
	connectionFlags
}

// serviceFlags are the flags of all commands that call the service.
type serviceFlags struct {
	callFlags
	// DeviceHeld is ignored by commands that do not run a protocol.
	DeviceHeld bool `help:"Run the client's side here: its share is not sent. A wallet created with this refuses hosted operations." env:"MPCD_DEVICE_HELD"`
	// PreParams is used by commands that make a share, with DeviceHeld.
	PreParams preParamsFlags `embed:"" prefix:"preparams-"`
}

// id is a flag for the id of a wallet or share set, in canonical form.
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

// deviceHeld adds the options for --device-held.
func (f *serviceFlags) deviceHeld(opts []client.Option) ([]client.Option, error) {
	if !f.DeviceHeld {
		return opts, nil
	}
	opts = append(opts, client.WithDeviceHeldShares())
	if err := f.PreParams.check("preparams-"); err != nil || f.PreParams.Dir == "" {
		return opts, err
	}
	store, err := f.PreParams.option()
	return append(opts, store), err
}

// call connects, runs one operation, shows its progress, and prints its result as JSON or text.
func (f *serviceFlags) call(name string, run func(*client.Client, client.ProgressFunc) (result any, text string,
	err error), opts ...client.Option) (err error) {
	return f.callQuietly(func(c *client.Client) (any, string, error) {
		report, end := newView(os.Stderr, f.JSON).operation(name)
		result, text, err := run(c, report)
		end(err)
		return result, text, err
	}, opts...)
}

// callQuietly is call without progress, for short operations.
func (f *serviceFlags) callQuietly(
	run func(*client.Client) (any, string, error), opts ...client.Option,
) (err error) {
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

// explain adds what to do next if the service could not be reached or the command was interrupted.
func (f *serviceFlags) explain(err error) error {
	e := new(client.Error)
	switch {
	case errors.Is(err, errUnconfirmed), errors.Is(err, client.ErrNotRevoked):
		return err // it says what to do itself
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; an unconfirmed share set cannot be used, and the service erases it", errInterrupted)
	case errors.As(err, &e) && e.Code == codes.Unavailable && e.Reason == "":
		return fmt.Errorf("no mpcd service answers at %s. Start one with \"mpcd serve --dev\", or name another with "+
			"--addr; one with TLS needs --tls-ca\n(%w)", f.Addr, err)
	}
	return err
}

// noConnection is the connection of a command that makes no call.
type noConnection struct{ grpc.ClientConnInterface }
