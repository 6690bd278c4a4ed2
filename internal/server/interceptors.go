package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// Authenticator identifies the caller from a call's context. Its error is returned to the caller unchanged.
type Authenticator func(ctx context.Context) (session.Caller, error)

type callerKey struct{}

// caller returns the caller that the authenticate interceptor put into the context.
func caller(ctx context.Context) session.Caller {
	c, ok := ctx.Value(callerKey{}).(session.Caller)
	if !ok {
		return session.Caller{} // owns nothing, and has no scope
	}
	return c
}

// requestIDHeader identifies a call in the logs of both sides. The service generates one if the caller sends none,
// and returns it in either case.
const requestIDHeader = "x-request-id"

// gate authenticates and limits calls before their handlers.
type gate struct {
	auth       Authenticator
	limits     *limiter
	from       func(context.Context) string // where a call comes from
	runTimeout time.Duration
}

// interceptors returns the chain for unary calls and streams. From the outside in: request id, public errors, log,
// recovery, deadline, caller, limits.
func interceptors(log *slog.Logger, g gate) []grpc.ServerOption {
	logger := logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
		log.Log(ctx, slog.Level(level), msg, fields...) //nolint:sloglint // the middleware's own text
	})
	opts := []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall), // never payloads
		logging.WithCodes(func(err error) codes.Code { return toStatus(err).Code() }),
		logging.WithErrorFields(func(err error) logging.Fields {
			return logging.Fields{"reason", reason(toStatus(err))}
		}),
		logging.WithFieldsFromContext(func(ctx context.Context) logging.Fields {
			return logging.Fields{"request_id", requestID(ctx), "from", g.from(ctx)}
		}),
		logging.WithDisableLoggingFields(logging.SystemTag[0], logging.ComponentFieldKey, logging.ServiceFieldKey),
	}
	onPanic := recovery.WithRecoveryHandlerContext(func(ctx context.Context, v any) error {
		// The value may contain a secret; its type and the stack are enough.
		log.ErrorContext(ctx, "a handler panicked", "type", fmt.Sprintf("%T", v), "stack", string(debug.Stack()), "request_id", requestID(ctx))
		return fmt.Errorf("%w: a handler panicked", session.ErrInternal)
	})
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(unary(withRequestID), unaryErrors, logging.UnaryServerInterceptor(logger, opts...), recovery.UnaryServerInterceptor(onPanic), g.deadline, unary(g.caller)),
		grpc.ChainStreamInterceptor(stream(withRequestID), streamErrors, logging.StreamServerInterceptor(logger, opts...), recovery.StreamServerInterceptor(onPanic), stream(g.caller)),
	}
}

// enrich adds something to the context of a call, or rejects the call.
type enrich func(ctx context.Context, method string) (context.Context, error)

func unary(f enrich) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, err := f(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func stream(f enrich) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, err := f(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return next(srv, &middleware.WrappedServerStream{ServerStream: ss, WrappedContext: ctx})
	}
}

type requestIDKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// goodRequestID returns the caller's id if it is valid, or else a new one.
func goodRequestID(sent string) string {
	if sent == "" || len(sent) > 64 || strings.ContainsFunc(sent, notPrintableASCII) {
		return uuid.NewString()
	}
	return sent
}

func withRequestID(ctx context.Context, _ string) (context.Context, error) {
	id := ""
	if got := metadata.ValueFromIncomingContext(ctx, requestIDHeader); len(got) > 0 {
		id = got[0]
	}
	id = goodRequestID(id)
	// It fails only after headers were sent, which is not the case yet.
	_ = grpc.SetHeader(ctx, metadata.Pairs(requestIDHeader, id))
	return context.WithValue(ctx, requestIDKey{}, id), nil
}

// caller authenticates every call except health and reflection, which must be open to probes and tools and reveal
// nothing about wallets. Then it counts the call. A rejected call counts against its address, and too many of them
// are told to wait; valid callers at the same address, as behind one proxy, are unaffected.
func (g *gate) caller(ctx context.Context, method string) (context.Context, error) {
	if strings.HasPrefix(method, "/grpc.health.") || strings.HasPrefix(method, "/grpc.reflection.") {
		return ctx, nil
	}
	c, err := g.auth(ctx)
	if err != nil {
		if limited := g.limits.take(refusedCalls, g.from(ctx)); limited != nil {
			return nil, fmt.Errorf("%w (%w)", limited, err)
		}
		return nil, err
	}
	if err := g.limits.take(method, c.Name); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// deadline bounds a unary call. One that waits for a run gets the run's time.
func (g *gate) deadline(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	d := unaryTimeout
	if info.FullMethod == pb.WalletService_Sign_FullMethodName {
		d = g.runTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return next(ctx, req)
}

func unaryErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, toStatus(err).Err()
	}
	return resp, nil
}

func streamErrors(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := next(srv, ss); err != nil {
		return toStatus(err).Err()
	}
	return nil
}
