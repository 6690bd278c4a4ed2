// Package names has the one rule for names that people and identity providers give: a
// device's display name, a wallet's owner, a caller. The SDK, the service and its
// authentication all ask it, so that what one accepts the others do too.
//
// The rule leaves out what could forge a line of a log or reorder the text around a name,
// and no more: phones' own names have no-break spaces, emoji joined by U+200D, U+200C
// between Persian letters, direction marks, isolates around somebody's name, private-use
// logos, and emoji that are newer than the Unicode tables of this program. A name is kept and compared byte for byte, and never
// normalized: two spellings are two names.
package names

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest names, in characters, which are Unicode code points: in UTF-8 up to four
// bytes each.
const (
	MaxDisplayName = 128
	MaxOwner       = 256 // a caller's name too, since any caller may be an owner
)

// ErrText is a name that is long enough and not what the rule allows.
var ErrText = errors.New("must be printable text: valid UTF-8 without control characters, " +
	"line or paragraph separators, bidi embeddings and overrides, and isolates that are not closed")

// Check refuses a name of more than so many characters, and one that is not text. The error
// goes on after the field's name ("must have at most 128 characters"), and does not quote
// the name. An empty name passes.
func Check(name string, most int) error {
	switch {
	case len(name) > most*utf8.UTFMax || utf8.RuneCountInString(name) > most:
		return fmt.Errorf("must have at most %d characters", most)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, refused) || !closed(name):
		return ErrText
	}
	return nil
}

// refused tells which characters no name has: controls (Cc, with the line end, the tab and
// DEL), line and paragraph separators, noncharacters, and the embeddings and overrides of the
// bidirectional algorithm (UAX #9, section 2), which can make a name read as another one.
func refused(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Noncharacter_Code_Point) ||
		unicode.Is(unicode.Bidi_Control, r) && !mark(r) && !isolate(r)
}

// The bidirectional algorithm's isolates: three that begin one, and what ends the last that
// was begun.
const (
	firstIsolate = '\u2066'
	lastIsolate  = '\u2068'
	endOfIsolate = '\u2069'
)

func isolate(r rune) bool { return firstIsolate <= r && r <= endOfIsolate }

// closed reports whether every isolate of a name ends within it. Phones put isolates around
// the name of a person in the name of a device; one that is left open, or an end without a
// beginning, acts on the text around the name.
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

// mark tells the implicit direction marks, which act as one letter without width would.
func mark(r rune) bool { return r == '\u200e' || r == '\u200f' || r == '\u061c' }

// Line returns what can be shown of a text from outside in one line of a terminal or a
// message: without what Check refuses, and without direction marks and isolates, which would
// move the spaces and digits beside them.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if refused(r) || mark(r) || isolate(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
