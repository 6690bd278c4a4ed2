// Package names has the one rule for names chosen by people and identity providers: a device's display name, a
// wallet's owner, a caller. The SDK, the service and its authentication share it, so that all of them accept the same
// names.
//
// The rule rejects only what could forge a log line or reorder the text around a name. It accepts what names on real
// phones contain: no-break spaces, emoji joined by U+200D, U+200C between Persian letters, direction marks, isolates
// around a person's name, private-use logos, and emoji newer than this program's Unicode tables. Names are kept and
// compared byte for byte and never normalized: two spellings are two names.
package names

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The maximum lengths in characters, which are Unicode code points of up to four bytes in UTF-8.
const (
	MaxDisplayName = 128
	MaxOwner       = 256 // a caller's name too, since any caller may own wallets
)

// ErrText is returned for a name of permitted length with characters that the rule rejects.
var ErrText = errors.New("must be printable text: valid UTF-8 without control characters, " +
	"line or paragraph separators, bidi embeddings and overrides, and isolates that are not closed")

// Check returns an error if name is longer than most (in characters) or breaks the rule on text (ErrText). The error
// reads on from a field's name ("must have at most 128 characters") and does not quote the name. An empty name
// passes.
func Check(name string, most int) error {
	switch {
	case len(name) > most*utf8.UTFMax || utf8.RuneCountInString(name) > most:
		return fmt.Errorf("must have at most %d characters", most)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, refused) || !closed(name):
		return ErrText
	}
	return nil
}

// refused reports characters that no name may contain: controls (Cc, which includes line ends, tab and DEL), line and
// paragraph separators, noncharacters, and the embeddings and overrides of the bidirectional algorithm (UAX #9,
// section 2), which can make one name read as another.
func refused(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Noncharacter_Code_Point) ||
		unicode.Is(unicode.Bidi_Control, r) && !mark(r) && !isolate(r)
}

// The bidirectional algorithm's isolates: three that open one, and the one that closes the innermost.
const (
	firstIsolate = '\u2066'
	lastIsolate  = '\u2068'
	endOfIsolate = '\u2069'
)

func isolate(r rune) bool { return firstIsolate <= r && r <= endOfIsolate }

// closed reports whether every isolate in a name is closed within it. Phones put isolates around a person's name in a
// device's name; an unclosed or unopened one would affect the text around the name.
func closed(name string) bool {
	open := 0
	for _, r := range name {
		switch {
		case firstIsolate <= r && r <= lastIsolate:
			open++
		case r == endOfIsolate:
			if open--; open < 0 {
				return false
			}
		}
	}
	return open == 0
}

// mark reports the implicit direction marks, which act like a letter of zero width.
func mark(r rune) bool { return r == '\u200e' || r == '\u200f' || r == '\u061c' }

// Line returns untrusted text in a form fit for one line of a terminal or a message: without the characters Check
// refuses, and without direction marks and isolates, which would move the spaces and digits next to them.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if refused(r) || mark(r) || isolate(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
