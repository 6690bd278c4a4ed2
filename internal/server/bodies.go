package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/mpcd/mpcd/gen/mpcd/v1"
	"github.com/mpcd/mpcd/internal/session"
)

// jsonBodies is the gateway's JSON. What it says about a body that it cannot read quotes
// no value of it: protojson would show the whole of a share with one wrong character.
type jsonBodies struct{ *runtime.JSONPb }

// NewDecoder implements runtime.Marshaler. The whole body is one message: what comes
// after it is an error too.
func (j jsonBodies) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, err := io.ReadAll(r) // the handler in front bounds it
		if err == nil && len(bytes.TrimSpace(body)) == 0 {
			return io.EOF // an empty request
		}
		if m, ok := v.(proto.Message); ok && err == nil {
			err = j.UnmarshalOptions.Unmarshal(body, m)
		} else if err == nil {
			err = fmt.Errorf("a %T is not a message", v)
		}
		return bodyError(err)
	})
}

// faultyField finds the field's name in protojson's words.
var faultyField = regexp.MustCompile(`(unknown field|invalid value for \w+ field) "?(\w{1,64})\b`)

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return fmt.Errorf("the body has more than %d bytes", tooLarge.Limit)
	}
	m := faultyField.FindStringSubmatch(err.Error())
	switch {
	case m == nil:
		return errors.New("the body is not JSON of the form that this call wants")
	case m[1] == "unknown field":
		return fmt.Errorf("the body has an unknown field %s", m[2])
	}
	return fmt.Errorf("the body has a value of the wrong form in its field %s", m[2])
}

// gatewayError answers a call that did not come to a stream or a response. What the
// gateway itself refused gets the form of the service's own errors.
func gatewayError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	st := status.Convert(err)
	if st.Code() == codes.InvalidArgument && reason(st) == "" {
		refused := status.Newf(codes.InvalidArgument, "The request is not valid: %s.", st.Message())
		info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: session.ErrInvalidArgument.Reason}
		if st, err = refused.WithDetails(info); err != nil {
			st = refused // details that cannot be encoded
		}
	}
	retryAfter(w.Header(), st)
	if !streams(ctx) {
		runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, st.Err())
		return
	}
	body := map[string]proto.Message{"error": st.Proto()}
	buf, err := m.Marshal(body)
	if err != nil {
		runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, st.Err())
		return
	}
	w.Header().Set("Content-Type", m.ContentType(body))
	w.WriteHeader(runtime.HTTPStatusFromCode(st.Code()))
	_, _ = w.Write(append(buf, '\n')) // a caller that went away needs no answer
}

// streams reports whether a call's answer is a stream, whose errors are wrapped.
func streams(ctx context.Context) bool {
	method, _ := runtime.RPCMethod(ctx)
	name := method[strings.LastIndex(method, "/")+1:]
	return slices.ContainsFunc(pb.WalletService_ServiceDesc.Streams, func(d grpc.StreamDesc) bool { return d.StreamName == name })
}
