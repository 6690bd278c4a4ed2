package proto_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	mpcdv1 "github.com/mpcd/mpcd/gen/mpcd/v1"
)

// TestProtoIsTheAPIAlone keeps the worker's messages, and all else that is no API, from those who compile proto/.
func TestProtoIsTheAPIAlone(t *testing.T) {
	require.NoError(t, fs.WalkDir(os.DirFS("."), ".", func(path string, e fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".proto" {
			require.Equal(t, "mpcd/v1", filepath.ToSlash(filepath.Dir(path)))
		}
		return err
	}))
	set := filepath.Join(t.TempDir(), "api.binpb")
	out, err := buf(t, "build", "proto", "--as-file-descriptor-set", "-o", set)
	require.NoError(t, err, out)
	b, err := os.ReadFile(set)
	require.NoError(t, err)
	files := &descriptorpb.FileDescriptorSet{}
	require.NoError(t, proto.Unmarshal(b, files))
	require.NotEmpty(t, files.GetFile())
	for _, f := range files.GetFile() {
		require.Contains(t, []string{"mpcd.v1", "google.protobuf"}, f.GetPackage(), f.GetName())
	}
}

type operation struct {
	OperationID string
	RequestBody json.RawMessage
	Responses   map[string]response
}

type response struct {
	Ref     string `json:"$ref"`
	Headers map[string]json.RawMessage
	Content map[string]struct {
		Schema struct {
			Ref string `json:"$ref"`
		}
	}
}

type document struct {
	OpenAPI    string
	Info       struct{ Title, Version, Description string }
	Servers    []struct{ URL string }
	Security   []map[string][]string
	Paths      map[string]map[string]operation
	Components struct {
		Schemas         map[string]json.RawMessage
		Responses       map[string]response
		SecuritySchemes map[string]struct{ Type, Scheme string }
	}
}

func openAPI(t *testing.T, name string) (d document, text string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "gen", "openapi", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &d))
	return d, string(b)
}

// TestOpenAPIDescribesEveryRPC holds the OpenAPI 3.1 document against the service: each RPC, whether it streams, and both shapes
// of errors.
func TestOpenAPIDescribesEveryRPC(t *testing.T) {
	doc, text := openAPI(t, "mpcd.openapi.json")
	require.Equal(t, "3.1.0", doc.OpenAPI)
	require.Equal(t, "mpcd", doc.Info.Title)
	require.NotEmpty(t, doc.Servers)
	require.Equal(t, []map[string][]string{{"bearer": {}}}, doc.Security)
	require.Equal(t, "bearer", doc.Components.SecuritySchemes["bearer"].Scheme)
	require.NotContains(t, strings.ToLower(text), "worker")

	all := map[string]operation{}
	for _, methods := range doc.Paths {
		for _, op := range methods {
			all[op.OperationID] = op
		}
	}
	rpcs := mpcdv1.File_mpcd_v1_wallet_service_proto.Services().Get(0).Methods()
	require.Len(t, all, rpcs.Len())
	for i := range rpcs.Len() {
		name := string(rpcs.Get(i).Name())
		op, ok := all["WalletService_"+name]
		require.True(t, ok, name)
		requireAnswers(t, doc, op, rpcs.Get(i))
	}
	require.JSONEq(t, `{"$ref": "#/components/schemas/google.rpc.Status"}`, property(t, doc, "ErrorLine", "error"))
}

// requireAnswers checks what an operation says of the RPC's answers.
func requireAnswers(t *testing.T, doc document, op operation, rpc protoreflect.MethodDescriptor) {
	t.Helper()
	name, kind, schema := string(rpc.Name()), "application/json", string(rpc.Output().Name())
	if rpc.IsStreamingServer() {
		kind, schema = "application/x-ndjson", name+"Line"
		require.JSONEq(t, `{"oneOf": [
			{"title": "`+name+`ResultLine", "type": "object", "required": ["result"],
			 "properties": {"result": {"$ref": "#/components/schemas/`+name+`Response"}}},
			{"$ref": "#/components/schemas/ErrorLine"}
		], "description": "One line of the stream that `+name+` answers."}`, string(doc.Components.Schemas[schema]))
	}
	require.Equal(t, []string{kind}, slices.Collect(maps.Keys(op.Responses["200"].Content)), name)
	require.Equal(t, "#/components/schemas/"+schema, op.Responses["200"].Content[kind].Schema.Ref)
	codes := map[string]string{
		"400": "X-Request-Id", "401": "WWW-Authenticate", "403": "X-Request-Id", "404": "X-Request-Id", "405": "Allow", "409": "Retry-After",
		"413": "X-Request-Id", "415": "X-Request-Id", "429": "Retry-After", "500": "X-Request-Id", "503": "Retry-After", "default": "Retry-After",
	}
	if op.RequestBody == nil {
		delete(codes, "413")
		delete(codes, "415")
	}
	require.Len(t, op.Responses, len(codes)+1, name)
	for code, header := range codes {
		r, ok := doc.Components.Responses[strings.TrimPrefix(op.Responses[code].Ref, "#/components/responses/")]
		require.True(t, ok, "%s, %s", name, code)
		require.Contains(t, r.Headers, header)
		require.Equal(t, "#/components/schemas/google.rpc.Status", r.Content["application/json"].Schema.Ref)
	}
}

func property(t *testing.T, doc document, schema, name string) string {
	t.Helper()
	var s struct{ Properties map[string]json.RawMessage }
	require.NoError(t, json.Unmarshal(doc.Components.Schemas[schema], &s))
	return string(s.Properties[name])
}

// The two files describe one API.
func TestSwaggerHasTheSameNames(t *testing.T) {
	three, _ := openAPI(t, "mpcd.openapi.json")
	two, text := openAPI(t, "mpcd.swagger.json")
	require.Equal(t, three.Info.Title, two.Info.Title)
	require.Equal(t, three.Info.Version, two.Info.Version)
	require.Len(t, two.Paths, len(three.Paths))
	require.NotContains(t, strings.ToLower(text), "worker")
	require.Equal(t, 4, strings.Count(text, `"application/x-ndjson"`), "the streams")
}
