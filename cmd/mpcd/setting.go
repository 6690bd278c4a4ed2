package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// setting declares one configuration value of a command, which is set by a flag, an MPCD_* environment variable or a
// key of the YAML file. A command's settings are a table, from which the parser, the help, the checks and the tests of
// docs/CONFIGURATION.md and deploy/mpcd.yaml are derived.
type setting[T string | []string | bool | int | time.Duration | slog.Level] struct {
	name  string
	to    *T     // set by read
	def   T      // the default; shown in the help, unless it is the zero value
	least T      // the minimum of a number or a duration
	value string // the placeholder in the help; by default N or TIME
	help  string

	text string // the value from the parser, or the default
	err  error  // the error in text; not returned to the parser, which would stop at the first
}

type (
	text     = setting[string]
	texts    = setting[[]string] // may be given more than once
	toggle   = setting[bool]
	number   = setting[int]
	duration = setting[time.Duration]
	level    = setting[slog.Level]
)

// settings are the settings of one command.
type settings []one

// one is a setting of any type.
type one interface {
	flag() *kong.Flag
	read() error
	malformed(name string) bool
}

// addTo adds the settings' flags to a command.
func (all settings) addTo(command *kong.Node) {
	for _, s := range all {
		command.Flags = append(command.Flags, s.flag())
	}
}

// read parses and stores every value, and adds a fault for each that is invalid.
func (all settings) read(f *faults) {
	for _, s := range all {
		f.join(s.read())
	}
}

// malformed reports whether the value of the setting with that name is invalid.
func (all settings) malformed(name string) bool {
	return slices.ContainsFunc(all, func(s one) bool { return s.malformed(name) })
}

func (s *setting[T]) flag() *kong.Flag {
	tag := &kong.Tag{Envs: []string{envPrefix + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))}, Sep: ','}
	value := &kong.Value{Name: s.name, Help: s.help, Tag: tag, Target: reflect.ValueOf(&s.text).Elem()}
	flag := &kong.Flag{Value: value, Envs: tag.Envs, PlaceHolder: s.value}
	value.Flag = flag
	switch def := any(s.def).(type) {
	case string:
		value.Default = def
	case []string:
		value.Target = reflect.ValueOf(s.to).Elem()
	case bool:
		value.Default, value.Mapper = strconv.FormatBool(def), toggled{}
	case int:
		value.Default, flag.PlaceHolder = strconv.Itoa(def), cmp.Or(s.value, "N")
	case time.Duration:
		value.Default, flag.PlaceHolder = zeroUnits.ReplaceAllString(def.String(), "$1"), cmp.Or(s.value, "TIME")
	case slog.Level:
		value.Default = strings.ToLower(def.String())
	}
	value.HasDefault = value.Default != ""
	if value.Mapper == nil {
		value.Mapper = kong.NewRegistry().RegisterDefaults().ForValue(value.Target)
	}
	if value.HasDefault && value.Default != "0" && !value.IsBool() {
		value.Help = fmt.Sprintf("%s (default: %s).", strings.TrimSuffix(s.help, "."), value.Default)
	}
	return flag
}

// zeroUnits matches the zero units that end a formatted duration: 720h0m0s is written as 720h.
var zeroUnits = regexp.MustCompile(`([hm])(0m)?0s$`)

// toggled is a kong mapper for a flag that needs no value.
type toggled struct{}

// IsBool implements kong.BoolMapper.
func (toggled) IsBool() bool { return true }

// Decode implements kong.Mapper.
func (toggled) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	target.SetString("true")
	if ctx.Scan.Peek().Type == kong.FlagValueToken {
		target.SetString(ctx.Scan.Pop().String())
	}
	return nil
}

func (s *setting[T]) read() error {
	if s.err = s.parse(); s.err != nil {
		return fmt.Errorf("--%s: %w", s.name, s.err)
	}
	return nil
}

func (s *setting[T]) parse() (err error) {
	switch to := any(s.to).(type) {
	case *string:
		*to = s.text
	case *bool:
		*to = slices.Contains([]string{"true", "1", "yes"}, strings.ToLower(s.text))
		if !*to && !slices.Contains([]string{"false", "0", "no"}, strings.ToLower(s.text)) {
			return fmt.Errorf("%q is not true or false", s.text)
		}
	case *int:
		if *to, err = strconv.Atoi(s.text); err != nil {
			return fmt.Errorf("%q is not a number", s.text)
		}
		if least, ok := any(s.least).(int); ok && *to < least {
			return fmt.Errorf("%d is less than %d", *to, least)
		}
	case *time.Duration:
		if *to, err = time.ParseDuration(s.text); err != nil {
			return fmt.Errorf("%q is not a duration, as in 30s or 10m", s.text)
		}
		if least, ok := any(s.least).(time.Duration); ok && *to < least {
			return fmt.Errorf("%v is too short", *to)
		}
	case *slog.Level:
		if err = to.UnmarshalText([]byte(s.text)); err != nil {
			return fmt.Errorf("%q is not debug, info, warn or error", s.text)
		}
	}
	return nil
}

func (s *setting[T]) malformed(name string) bool { return s.name == name && s.err != nil }
