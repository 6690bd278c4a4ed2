package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

type object = map[string]any

// document is an OpenAPI document, with its parts in a readable order. Their contents are sorted by name.
type document struct {
	OpenAPI    string            `json:"openapi"`
	Info       object            `json:"info"`
	Servers    []any             `json:"servers"`
	Security   []any             `json:"security"`
	Tags       []any             `json:"tags"`
	Paths      map[string]object `json:"paths"`
	Components object            `json:"components"`
}

// overlay is merged into the generated document: objects are merged, and all other values are replaced.
type overlay struct {
	Info       object
	Servers    []any
	Security   []any
	Components object
	// Responses are the error responses of every operation, by code.
	Responses object
}

// mend corrects the generated document. It panics if the document does not have the form that this version of
// protoc-gen-openapiv3 generates: when that changes, this program must change too.
func mend(files []*pluginpb.CodeGeneratorResponse_File, overlayPath string,
	streams map[string]bool) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	if len(files) != 1 {
		return nil, fmt.Errorf("want one generated document, have %d", len(files))
	}
	// Remove the package from the API's names. google.rpc.Status keeps its package.
	text := strings.ReplaceAll(files[0].GetContent(), `"#/components/schemas/mpcd.v1.`, `"#/components/schemas/`)
	doc := &document{}
	if err := json.Unmarshal([]byte(text), doc); err != nil {
		return nil, err
	}
	over := &overlay{}
	if err := readYAML(overlayPath, over); err != nil {
		return nil, err
	}
	schemas, ok := doc.Components["schemas"].(object)
	if !ok {
		return nil, errors.New("the generated document has no schemas")
	}
	for name, s := range maps.Clone(schemas) {
		delete(schemas, name)
		schemas[strings.TrimPrefix(name, "mpcd.v1.")] = s
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, op := range doc.Paths[path] {
			if err := mendOperation(op.(object), schemas, over.Responses, streams); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	mendSchemas(schemas)
	merge(doc.Info, over.Info)
	merge(doc.Components, over.Components)
	doc.Servers, doc.Security = over.Servers, over.Security

	b := &bytes.Buffer{}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	files[0].Name = proto.String("mpcd.openapi.json")
	files[0].Content = proto.String(b.String())
	return files, nil
}

// mendOperation names the operation's body after the RPC's request message, and corrects its responses. The operationId
// keeps the service's name: code generators name types <operationId>Request and <operationId>Response, which would
// otherwise collide with schemas.
func mendOperation(op, schemas, failures object, streams map[string]bool) error {
	_, rpc, _ := strings.Cut(op["operationId"].(string), "_")
	stream, known := streams[rpc]
	if !known {
		return fmt.Errorf("operation %v is of no RPC", op["operationId"])
	}
	body, hasBody := op["requestBody"].(object)
	if hasBody {
		media := body["content"].(object)["application/json"].(object)
		schema := media["schema"].(object)
		schema["description"] = "The body of " + rpc + ". What is in the path is not in it."
		schemas[rpc+"Request"] = schema
		media["schema"] = ref("schemas", rpc+"Request")
	}
	responses := op["responses"].(object)
	good := responses["200"].(object)
	good["headers"] = object{"X-Request-Id": ref("headers", "RequestId")}
	if stream {
		good["description"] = "A stream, one JSON object on each line: results, and where the run fails " +
			"after the first of them, an error as the last line. The schema is that of one line.\n\n" +
			good["description"].(string)
		good["content"] = object{"application/x-ndjson": object{"schema": ref("schemas", rpc+"Line")}}
		schemas[rpc+"Line"] = line(rpc)
	}
	delete(responses, "default")
	for code, r := range failures {
		if !hasBody && (code == "413" || code == "415") { // errors of the body
			continue
		}
		responses[code] = r
	}
	return nil
}

// line returns the schema of one line of a stream, as grpc-gateway writes it.
func line(rpc string) object {
	return object{
		"description": "One line of the stream that " + rpc + " answers.",
		"oneOf": []any{
			object{
				"type":       "object",
				"title":      rpc + "ResultLine",
				"required":   []any{"result"},
				"properties": object{"result": ref("schemas", rpc+"Response")},
			},
			ref("schemas", "ErrorLine"),
		},
	}
}

func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

// mendSchemas describes base64 fields and oneofs in a form that code generators understand.
func mendSchemas(schemas object) {
	for _, v := range schemas {
		s := v.(object)
		properties, _ := s["properties"].(object)
		for _, p := range properties {
			if p := p.(object); p["format"] == "byte" {
				p["contentEncoding"] = "base64"
			}
		}
		options, ok := s["oneOf"].([]any)
		if !ok || properties == nil {
			continue
		}
		// One option requires no field; each of the others requires one.
		var names []string
		for _, o := range options {
			for _, r := range list(o.(object)["required"]) {
				names = append(names, "`"+r.(string)+"`")
			}
		}
		delete(s, "oneOf")
		description, _ := s["description"].(string)
		s["description"] = strings.TrimSpace(description + "\n\nAt most one of " + strings.Join(names, ", ") + " is set.")
	}
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// merge merges over into base.
func merge(base, over object) {
	for k, v := range over {
		b, isObject := base[k].(object)
		if o, ok := v.(object); ok && isObject {
			merge(b, o)
			continue
		}
		base[k] = v
	}
}
