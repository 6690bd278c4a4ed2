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

// All SDKs normalize passwords by the same rule, so that a backup made on one platform opens on another
// (docs/BACKUP-FILES.md; testdata/passwords.json has vectors): a password must be valid UTF-8 without NUL, each space
// of Unicode's category Zs becomes U+0020, and the result is normalized to NFC. PRECIS's OpaqueString (RFC 8265) is
// nearly the same, but its Go implementation rejects common emoji and accepts invalid UTF-8.

// maxMarks is the longest permitted run of combining marks, in NFD. Unicode's stream-safe text format (UAX #15, section
// 13) allows 30; in longer runs Go inserts U+034F, and other platforms do not.
const maxMarks = 30

// SetPassword sets the password for making and opening PASSWORD backups. Each Unicode space becomes U+0020, and the
// rest is normalized to NFC, as in every SDK; the unnormalized bytes are tried too, for backups made before this rule.
// It fails with ErrPassword for invalid UTF-8, a NUL or more than 30 combining marks in a row, and with ErrNoPassword
// for an empty password. The app must enforce the strength of passwords.
func (c *Client) SetPassword(password string) error {
	return c.setPassword([]byte(password))
}

// SetPasswordFile is SetPassword for the content of a file. The password is the first line, without its line ending (LF
// or CRLF). The file is in UTF-8, or in UTF-16 with a byte order mark; a byte order mark is not part of the password.
// SetPasswordFile keeps no reference to content.
func (c *Client) SetPasswordFile(content []byte) error {
	text, err := decodeText(content)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer clear(text)
	// Before the rule, the raw bytes of the first line were the password.
	return c.setPassword(firstLine(text), firstLine(content))
}

// setPassword sets a password, and other forms of it that older backups may be encrypted with. It copies its arguments.
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

// normalizePassword returns a normalized copy.
func normalizePassword(password []byte) (secret.Bytes, error) {
	switch {
	case len(password) == 0:
		return secret.Bytes{}, ErrNoPassword
	case !utf8.Valid(password):
		return secret.Bytes{}, fmt.Errorf("%w: it is not valid UTF-8; pass it as UTF-8 text", ErrPassword)
	case bytes.IndexByte(password, 0) >= 0:
		return secret.Bytes{}, fmt.Errorf("%w: it has a NUL character, "+
			"as UTF-16 without a byte order mark does; pass it as UTF-8 text", ErrPassword)
	}
	spaced := make([]byte, 0, len(password))
	defer func() { clear(spaced[:cap(spaced)]) }()
	for rest := password; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if unicode.Is(unicode.Zs, r) {
			r = ' ' // never longer in UTF-8, so spaced does not grow
		}
		spaced = utf8.AppendRune(spaced, r)
		rest = rest[size:]
	}
	if marksInARow(spaced) > maxMarks {
		return secret.Bytes{}, fmt.Errorf("%w: it has more than %d combining marks in a row", ErrPassword, maxMarks)
	}
	return secret.New(norm.NFC.Append(make([]byte, 0, maxNormalized*len(spaced)), spaced...)), nil
}

// maxNormalized is the factor by which UTF-8 text may grow in NFC or NFD (UAX #15, section 4), not counting U+034F in
// NFD. Slices have this capacity, so that none is reallocated and leaves a copy of the password behind.
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

// firstLine returns the text before the first line ending.
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

// decodeText decodes a file by its byte order mark, and returns UTF-8 without the mark. A file without one is returned
// unchanged. The result is a copy.
func decodeText(b []byte) ([]byte, error) {
	high := 0 // index of a unit's high byte
	switch {
	case bytes.HasPrefix(b, littleEndian):
		high = 1
	case !bytes.HasPrefix(b, bigEndian):
		return slices.Clone(bytes.TrimPrefix(b, []byte(utf8BOM))), nil
	}
	b = b[2:]
	units := make([]uint16, len(b)/2)
	defer clear(units)
	for i := range units {
		units[i] = uint16(b[2*i+high])<<8 | uint16(b[2*i+1-high])
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
