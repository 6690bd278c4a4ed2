package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// jsonBodies is the gateway's JSON. It decodes a body field by field, by the message's descriptor, so that it finds
// every fault at once, names each field as the caller spelled it, and decodes base64 by one rule. Its errors quote no
// values: they may be most of a share.
type jsonBodies struct{ *runtime.JSONPb }

func newJSONBodies() jsonBodies {
	// Zeros are shown ("percent": 0); absent messages are not.
	return jsonBodies{&runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true}}}
}

// StreamContentType implements runtime.StreamContentType: each line is a JSON document.
func (jsonBodies) StreamContentType(any) string { return "application/x-ndjson" }

// NewDecoder implements runtime.Marshaler. The whole body is one message: trailing data is an error.
func (jsonBodies) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, isBody := r.(*httpBody)
		m, isMessage := v.(proto.Message)
		if !isBody || !isMessage {
			return fmt.Errorf("a %T in a %T is not the body of a call", v, r)
		}
		return body.call.readBody(body, m.ProtoReflect())
	})
}

// httpBody is the body of an HTTP call, through which the decoder finds the call.
type httpBody struct {
	io.ReadCloser
	call *httpCall
}

// readBody decodes the body into m. An error refuses the call immediately. Faults in fields are collected in
// c.faults, for the service to answer together with those it finds itself.
func (c *httpCall) readBody(r io.Reader, m protoreflect.Message) error {
	body, err := io.ReadAll(r)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return c.tooLarge(tooLarge.Limit)
	case err != nil:
		return c.refuse(http.StatusBadRequest, "the body is incomplete")
	}
	if body = bytes.TrimSpace(body); len(body) == 0 {
		return io.EOF // an empty request
	}
	isObject := body[0] == '{' && utf8.Valid(body) && json.Valid(body)
	switch {
	case c.kind == otherBody, c.kind == vagueBody && !isObject:
		const want = "the body must be JSON in UTF-8, sent with Content-Type: application/json"
		return c.refuse(http.StatusUnsupportedMediaType, want)
	case !isObject:
		c.fault(place{}, "the body is not JSON, or not one JSON object")
	default:
		c.readObject(m, body, place{})
	}
	return nil
}

// bodyKind classifies a call's Content-Type.
type bodyKind int

const (
	jsonBody  bodyKind = iota
	vagueBody          // the default that curl --data and fetch() send for a string: accepted as JSON
	otherBody
)

func kindOf(contentType string) bodyKind {
	if contentType == "" {
		return jsonBody
	}
	kind, params, err := mime.ParseMediaType(contentType)
	charset := params["charset"]
	switch {
	case err != nil, charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "utf8"):
		return otherBody
	case kind == "application/json", strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"):
		return jsonBody
	case kind == "text/plain", kind == "application/x-www-form-urlencoded":
		return vagueBody
	}
	return otherBody
}

// maxElements is more than any list in a request may have.
const maxElements = 1000

// fieldOf returns a message's field by either of its names, or nil.
func fieldOf(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := d.Fields().ByJSONName(name); fd != nil {
		return fd
	}
	return d.Fields().ByTextName(name)
}

// readObject decodes object, which is valid JSON, into m.
func (c *httpCall) readObject(m protoreflect.Message, object json.RawMessage, at place) {
	given := map[protoreflect.Name]bool{}
	chosen := map[protoreflect.Name]string{} // by oneof: the field that was given, as it was spelled
	for name, value := range members(object) {
		fd := fieldOf(m.Descriptor(), name)
		if fd == nil {
			c.unknown(at, name, "is an unknown field of this call")
			continue
		}
		here := at.field(string(fd.Name()), name)
		c.sent[here.path] = here.sent
		if given[fd.Name()] {
			c.fault(here, "is given more than once")
			continue
		}
		given[fd.Name()] = true
		if string(value) == "null" {
			continue // as if it were omitted
		}
		if one := fd.ContainingOneof(); one != nil {
			if other, ok := chosen[one.Name()]; ok {
				c.fault(here, "cannot be given together with %s", other)
				continue
			}
			chosen[one.Name()] = name
		}
		c.readField(m, fd, value, here)
	}
}

func (c *httpCall) readField(
	m protoreflect.Message, fd protoreflect.FieldDescriptor, value json.RawMessage, here place,
) {
	if !fd.IsList() {
		m.Set(fd, c.value(m, fd, value, here))
		if id, bound := c.path[here.path]; bound && !strings.EqualFold(m.Get(fd).String(), id) {
			c.fault(here, "must be left out, or be as it is in the path")
		}
		return
	}
	if value[0] != '[' {
		c.fault(here, "must be a JSON array")
		return
	}
	list := m.Mutable(fd).List()
	for element := range elements(value) {
		if list.Len() == maxElements {
			c.fault(here, "must have at most %d elements", maxElements)
			return
		}
		list.Append(c.value(m, fd, element, here.index(list.Len())))
	}
}

// value decodes the value of m's field, or of one of its elements. For an invalid value it returns an empty one, so
// that list elements keep their index, and a oneof its choice.
func (c *httpCall) value(
	m protoreflect.Message, fd protoreflect.FieldDescriptor, value json.RawMessage, here place,
) protoreflect.Value {
	empty := m.NewField(fd)
	if fd.IsList() {
		empty = empty.List().NewElement()
	}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		if value[0] == '{' {
			c.readObject(empty.Message(), value, here)
			return empty
		}
	case protoreflect.BytesKind:
		b, fault := readBase64(value)
		if fault == "" {
			return protoreflect.ValueOfBytes(b)
		}
		c.fault(here, "%s", fault)
		return empty
	default:
		if v, err := readScalar(m, fd, value); err == nil {
			return v
		}
	}
	c.fault(here, "%s", wanted(fd))
	return empty
}

// readScalar leaves a value that is neither a message nor bytes to protojson.
func readScalar(
	m protoreflect.Message, fd protoreflect.FieldDescriptor, value json.RawMessage,
) (protoreflect.Value, error) {
	format := `{%q:%s}`
	if fd.IsList() {
		format = `{%q:[%s]}`
	}
	alone := m.New()
	if err := protojson.Unmarshal(fmt.Appendf(nil, format, fd.JSONName(), value), alone.Interface()); err != nil {
		return protoreflect.Value{}, err
	}
	if fd.IsList() {
		return alone.Get(fd).List().Get(0), nil
	}
	return alone.Get(fd), nil
}

// wanted describes the type that a field's value must have.
func wanted(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return "must be a JSON object"
	case protoreflect.StringKind:
		return "must be text"
	case protoreflect.BoolKind:
		return "must be true or false"
	case protoreflect.Uint32Kind:
		return "must be a whole number from 0 to 4294967295"
	case protoreflect.Int32Kind:
		return "must be a whole number of at most 32 bits"
	case protoreflect.EnumKind:
		var names []string
		for i := 1; i < fd.Enum().Values().Len(); i++ { // the first is UNSPECIFIED
			names = append(names, string(fd.Enum().Values().Get(i).Name()))
		}
		return "must be one of " + strings.Join(names, ", ")
	default:
		return "must be a value of type " + fd.Kind().String()
	}
}

// readBase64 decodes a bytes field, or returns the fault. White space is removed first, since many encoders break
// lines (MIME, PEM, Android's Base64.DEFAULT). Both alphabets of RFC 4648 are accepted, with or without padding:
// acceptance never depends on the value's length.
func readBase64(value json.RawMessage) (b []byte, fault string) {
	var text string
	if value[0] != '"' || json.Unmarshal(value, &text) != nil {
		return nil, "must be base64 in a JSON string"
	}
	text = strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n", r) {
			return -1
		}
		return r
	}, text)
	digits := strings.TrimRight(text, "=")
	padding := len(text) - len(digits)
	encoding, isURL := base64.RawStdEncoding, strings.ContainsAny(digits, "-_")
	if isURL {
		encoding = base64.RawURLEncoding
	}
	switch {
	case strings.ContainsFunc(digits, notBase64):
		return nil, "must be base64: it has a character that is not of base64"
	case isURL && strings.ContainsAny(digits, "+/"):
		return nil, "must be base64 of one alphabet: either + and /, or - and _"
	case padding > 0 && (padding > 2 || len(text)%4 != 0):
		return nil, "must be base64 with its padding whole (one or two =, up to a multiple of 4), or without any"
	case len(digits)%4 == 1:
		return nil, "must be whole base64: a character is missing, or one is too many"
	}
	b, err := encoding.DecodeString(digits)
	if err != nil { // unreachable: every fault was checked above
		return nil, "must be base64"
	}
	return b, ""
}

// notBase64 reports whether r is in neither alphabet of RFC 4648.
func notBase64(r rune) bool {
	return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_", r)
}

// members iterates over the names and values of a valid JSON object.
func members(object json.RawMessage) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		in := json.NewDecoder(bytes.NewReader(object))
		_, _ = in.Token() // the {
		for in.More() {
			name, _ := in.Token() // a string: the object is valid
			text, _ := name.(string)
			var value json.RawMessage
			if in.Decode(&value) != nil || !yield(text, value) {
				return
			}
		}
	}
}

// elements iterates over the elements of a valid JSON array.
func elements(array json.RawMessage) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		in := json.NewDecoder(bytes.NewReader(array))
		_, _ = in.Token() // the [
		for in.More() {
			var value json.RawMessage
			if in.Decode(&value) != nil || !yield(value) {
				return
			}
		}
	}
}
