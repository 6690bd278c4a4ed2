package client

import (
	"bytes"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/mpcd/mpcd/internal/secret"
)

// Every SDK takes a password by one rule, so that what was typed on one platform opens on
// another (docs/BACKUP-FILES.md; testdata/passwords.json has vectors): it is valid UTF-8
// without NUL, each space of Unicode's category Zs becomes U+0020, and the result is
// normalized to NFC. PRECIS's OpaqueString (RFC 8265) is nearly the same and was not used:
// its Go implementation refuses common emoji and lets invalid UTF-8 through.

// maxMarks is the longest run of combining marks, in NFD. Unicode's stream-safe text format
// (UAX #15, section 13) has 30; beyond it Go inserts U+034F, and other platforms do not.
const maxMarks = 30

// SetPassword sets the password of PASSWORD backups, for making and for opening them. Each
// Unicode space becomes U+0020, and the rest is normalized to NFC, as every SDK does it; a
// backup that was made before this rule opens with the bytes as they were given. It fails
// with ErrPassword for invalid UTF-8, a NUL and more than 30 combining marks in a row, and
// with ErrNoPassword for an empty one. How good a password must be is the app's to say.
func (c *Client) SetPassword(password string) error {
	return c.setPassword([]byte(password))
}

// SetPasswordFile is SetPassword for the content of a file, of which the first line is the
// password, without its line end (LF or CRLF). The file is in UTF-8, or in UTF-16 with a byte
// order mark; a byte order mark is no part of the password. It keeps no reference to content.
func (c *Client) SetPasswordFile(content []byte) error {
	text, err := decodeText(content)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer clear(text)
	// Before the rule, the bytes of the first line were the password, whatever they were.
	return c.setPassword(firstLine(text), firstLine(content))
}

// setPassword takes a password and what else older backups may have been made with. It
// leaves both as they are.
func (c *Client) setPassword(password []byte, older ...[]byte) error {
	normalized, err := normalizePassword(password)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	forms := []secret.Bytes{normalized}
	for _, form := range append([][]byte{password}, older...) {
		if !slices.ContainsFunc(forms, func(have secret.Bytes) bool { return bytes.Equal(have.Reveal(), form) }) {
			forms = append(forms, secret.New(slices.Clone(form)))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	wipeAll(c.password)
	c.password = forms
	return nil
}

// normalizePassword applies the rule. It takes a copy.
func normalizePassword(password []byte) (secret.Bytes, error) {
	switch {
	case len(password) == 0:
		return secret.Bytes{}, ErrNoPassword
	case !utf8.Valid(password):
		return secret.Bytes{}, fmt.Errorf("%w: it is not valid UTF-8; give it as UTF-8 text", ErrPassword)
	case bytes.IndexByte(password, 0) >= 0:
		return secret.Bytes{}, fmt.Errorf("%w: it has a NUL character, "+
			"as UTF-16 without a byte order mark does; give it as UTF-8 text", ErrPassword)
	}
	spaced := make([]byte, 0, len(password))
	defer func() { clear(spaced[:cap(spaced)]) }()
	for rest := password; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if unicode.Is(unicode.Zs, r) {
			r = ' ' // no longer than any other
		}
		spaced = utf8.AppendRune(spaced, r)
		rest = rest[size:]
	}
	if marksInARow(spaced) > maxMarks {
		return secret.Bytes{}, fmt.Errorf("%w: it has more than %d combining marks in a row", ErrPassword, maxMarks)
	}
	return secret.New(norm.NFC.Append(make([]byte, 0, maxNormalized*len(spaced)), spaced...)), nil
}

// maxNormalized is by how much a text may grow in NFC or NFD, in UTF-8 (UAX #15, section
// 4), so that no copy is left behind by a slice that grew; U+034F comes on top in NFD.
const maxNormalized = 4

// marksInARow returns the length of the longest run of marks in NFD.
func marksInARow(text []byte) (most int) {
	decomposed := norm.NFD.Append(make([]byte, 0, maxNormalized*len(text)), text...)
	defer clear(decomposed)
	run := 0
	for rest := decomposed; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		rest = rest[size:]
		if run++; !unicode.Is(unicode.M, r) {
			run = 0
		}
		most = max(most, run)
	}
	return most
}

func wipeAll(secrets []secret.Bytes) {
	for _, s := range secrets {
		s.Wipe()
	}
}

// firstLine returns what is before the first line end.
func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

const utf8BOM = "\ufeff"

// Byte order marks of UTF-16.
var (
	littleEndian = []byte{0xff, 0xfe}
	bigEndian    = []byte{0xfe, 0xff}
)

// decodeText returns the UTF-8 of a file that says by its byte order mark how it is encoded,
// without the mark; a file without one is returned as it is. The result is a copy.
func decodeText(b []byte) ([]byte, error) {
	at := 0 // of a unit's high byte
	switch {
	case bytes.HasPrefix(b, littleEndian):
		at = 1
	case !bytes.HasPrefix(b, bigEndian):
		return slices.Clone(bytes.TrimPrefix(b, []byte(utf8BOM))), nil
	}
	b = b[2:]
	units := make([]uint16, len(b)/2)
	defer clear(units)
	for i := range units {
		units[i] = uint16(b[2*i+at])<<8 | uint16(b[2*i+1-at])
	}
	runes := utf16.Decode(units)
	defer clear(runes)
	again := utf16.Encode(runes)
	defer clear(again)
	if len(b)%2 != 0 || !slices.Equal(again, units) {
		return nil, fmt.Errorf("%w: its file begins with the byte order mark of UTF-16 "+
			"and is not valid UTF-16; save it as UTF-8", ErrPassword)
	}
	out := make([]byte, 0, len(runes)*utf8.UTFMax)
	for _, r := range runes {
		out = utf8.AppendRune(out, r)
	}
	return out, nil
}
