// Command openapi is a plugin of buf and protoc that writes the OpenAPI 3.1 document of the HTTP API,
// mpcd.openapi.json.
//
// It wraps protoc-gen-openapiv3 of grpc-gateway, which takes HTTP rules only from google.api.http options in the proto
// files, and describes a stream as one JSON document. This plugin adds the rules of a google.api.Service file to the
// request, and corrects the response: streams are application/x-ndjson, every operation has the overlay's error
// responses, and request bodies have names. The overlay is a partial OpenAPI document in YAML, with what proto files
// cannot express.
//
// Options: rules=FILE and overlay=FILE.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	b, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	req := &pluginpb.CodeGeneratorRequest{}
	if err := proto.Unmarshal(b, req); err != nil {
		return err
	}
	options := map[string]string{}
	for o := range strings.SplitSeq(req.GetParameter(), ",") {
		name, value, _ := strings.Cut(o, "=")
		options[name] = value
	}
	if err := addRules(req, options["rules"]); err != nil {
		return err
	}
	req.Parameter = nil
	resp, err := generate(req)
	if err != nil {
		return err
	}
	if resp.File, err = mend(resp.GetFile(), options["overlay"], streams(req)); err != nil {
		return err
	}
	if b, err = proto.Marshal(resp); err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}

// addRules adds the file's HTTP rule to each method, as a google.api.http option.
func addRules(req *pluginpb.CodeGeneratorRequest, path string) error {
	var file struct {
		HTTP struct{ Rules []map[string]any }
	}
	if err := readYAML(path, &file); err != nil {
		return err
	}
	rules := map[string]*annotations.HttpRule{}
	for _, r := range file.HTTP.Rules {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		rule := &annotations.HttpRule{}
		if err := protojson.Unmarshal(b, rule); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		rules[rule.GetSelector()] = rule
	}
	for name, m := range methods(req) {
		rule, ok := rules[name]
		if !ok {
			return fmt.Errorf("%s: no rule for %s", path, name)
		}
		if m.Options == nil {
			m.Options = &descriptorpb.MethodOptions{}
		}
		proto.SetExtension(m.Options, annotations.E_Http, rule)
	}
	return nil
}

// methods returns the methods of all files by their full names.
func methods(req *pluginpb.CodeGeneratorRequest) map[string]*descriptorpb.MethodDescriptorProto {
	all := map[string]*descriptorpb.MethodDescriptorProto{}
	for _, f := range req.GetProtoFile() {
		for _, s := range f.GetService() {
			for _, m := range s.GetMethod() {
				all[f.GetPackage()+"."+s.GetName()+"."+m.GetName()] = m
			}
		}
	}
	return all
}

// streams returns whether each method has a stream of responses, by name.
func streams(req *pluginpb.CodeGeneratorRequest) map[string]bool {
	all := map[string]bool{}
	for _, m := range methods(req) {
		all[m.GetName()] = m.GetServerStreaming()
	}
	return all
}

// generate runs the protoc-gen-openapiv3 that tools/go.mod requires.
func generate(req *pluginpb.CodeGeneratorRequest) (*pluginpb.CodeGeneratorResponse, error) {
	b, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "tool", "protoc-gen-openapiv3")
	cmd.Stdin = bytes.NewReader(b)
	cmd.Stderr = os.Stderr
	if b, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("protoc-gen-openapiv3: %w", err)
	}
	resp := &pluginpb.CodeGeneratorResponse{}
	if err := proto.Unmarshal(b, resp); err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, errors.New(resp.GetError())
	}
	return resp, nil
}

func readYAML(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
