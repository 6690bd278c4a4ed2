package client

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// A backup may have passed through APIs, mail and editors before it is opened. Damage that is safe to undo, since age
// authenticates the content, is undone here: a byte order mark, other line endings, blank lines, whitespace around
// lines and text around the armor are removed. Everything else is an error that says what was found and what to do.
// docs/BACKUP-FILES.md has the table.

const (
	ageIntro  = "age-encryption.org/v1\n"
	anyIntro  = "age-encryption.org/"
	anyArmor  = "-----BEGIN "
	armorName = "BEGIN AGE ENCRYPTED FILE"
	lineChars = 64

	asciiSpace = " \t\r\n\v\f"
)

// quotedPrintable matches an armor's body in quoted-printable encoding: = and two hex digits, or a line that ends with
// = and is continued. Base64 has = only at its end.
var quotedPrintable = regexp.MustCompile(`=[0-9A-Fa-f]{2}|=\r?\n[A-Za-z0-9+/]`)

// ageFile returns the binary age file in a text, or a backupError.
func ageFile(text string) ([]byte, error) {
	if len(text) > maxCipherText {
		return nil, notABackup(fmt.Sprintf("it has more than %d bytes; a backup is below 8 KiB", maxCipherText), nil)
	}
	text = strings.TrimPrefix(text, utf8BOM)
	// decryptTrimmed removes trailing whitespace from a binary file: here it cannot be told from the ciphertext.
	if file := strings.TrimLeft(text, asciiSpace+utf8BOM); strings.HasPrefix(file, ageIntro) {
		return binary([]byte(file), "it")
	}
	before, rest, found := strings.Cut(text, armor.Header)
	if !found {
		return nil, notABackup(describe(text), nil)
	}
	if strings.Contains(rest, armor.Header) {
		return nil, notABackup("there are two backups in it; pass one", nil)
	}
	body, _, ended := strings.Cut(rest, armor.Footer)
	if !ended {
		return nil, notABackup(
			`it is cut short: the line "-----END AGE ENCRYPTED FILE-----" is missing; pass all of it`, nil)
	}
	lines, problem := armorLines(before, body)
	if problem != "" {
		return nil, notABackup(problem, nil)
	}
	whole := armor.Header + "\n" + strings.Join(lines, "\n") + "\n" + armor.Footer + "\n"
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(whole)))
	if err != nil {
		return nil, notABackup(
			"its armor is damaged: the text between its BEGIN and END lines is not base64; "+readAgain, err)
	}
	return binary(file, "the content of its armor")
}

// armorLines returns the lines of an armor's body without what mail and editors add to them, or a description of the
// damage. before is the text before the armor.
func armorLines(before, body string) (lines []string, problem string) {
	before = strings.TrimSpace(before)
	switch {
	case strings.HasSuffix(before, `"`), strings.Contains(body, `\`):
		return nil, jsonText
	case strings.ContainsAny(body, "<&"):
		return nil, "it has HTML in it; take the text, without tags and with its character references decoded"
	case strings.Contains(body, "%"):
		return nil, urlText
	case quotedPrintable.MatchString(body):
		return nil, `it is encoded as in a mail (quoted-printable, with "=3D" or "=" at line endings); decode it first`
	}
	body = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(body)
	content := strings.TrimSpace(body)
	if !strings.Contains(body, "\n") || !strings.Contains(content, "\n") && len(content) > lineChars {
		return nil, "its line endings are lost; pass it with its original line endings (lines of 64 characters)"
	}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, ">") || strings.HasPrefix(line, "|") {
			return nil, `its lines are quoted as in a mail; remove the ">" or "|" before each line`
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	for i, line := range lines {
		switch at := strings.IndexFunc(line, notBase64); {
		case at >= 0 && strings.ContainsRune(" \t", rune(line[at])):
			return nil, "it has spaces within its lines, in place of line endings or plus signs; pass it as it was made"
		case at >= 0:
			return nil, fmt.Sprintf("line %d of its armor has a character that is not base64; %s", i+1, readAgain)
		case len(line) > lineChars, len(line) < lineChars && i < len(lines)-1:
			return nil, fmt.Sprintf("line %d of its armor has %d characters instead of 64: "+
				"line endings were moved, or it was cut; pass it as it was made", i+1, len(line))
		}
	}
	if len(lines) == 0 {
		return nil, "there is nothing between its BEGIN and END lines; " + readAgain
	}
	return lines, ""
}

const (
	jsonText = `it is JSON, or has JSON's quotes and escapes (such as \n) in it; ` +
		`parse the JSON and pass the string, such as the value of "cipherText"`
	urlText     = "it is encoded as in a URL; decode it first"
	otherMethod = "pass the method it was made with"
	readAgain   = "read it again from where it was stored"
)

func notBase64(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '+', r == '/', r == '=':
		return false
	}
	return true
}

// binary checks that a file begins as an age file and has one header. Errors call the file name.
func binary(file []byte, name string) ([]byte, error) {
	switch {
	case bytes.HasPrefix(file, []byte(armor.Header)):
		return nil, notABackup("it is in ASCII armor twice; decode the outer one first", nil)
	case !bytes.HasPrefix(file, []byte(ageIntro)):
		return nil, notABackup(name+" is not an age file; "+describe(string(file)), nil)
	case bytes.Count(file, []byte(ageIntro)) > 1:
		return nil, notABackup("there are two age files in it; pass one", nil)
	}
	return file, nil
}

// describe says what a text is that contains no age armor and does not begin as an age file. It quotes none of it.
func describe(text string) string {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return "it is empty; " + readAgain
	case isUTF32(text):
		return "it is in UTF-32; save it as UTF-8, or decode it first"
	case isUTF16(text):
		return "it is in UTF-16; save it as UTF-8, or decode it first"
	case strings.HasPrefix(text, anyIntro):
		return "it is an age file of another version, or a binary one whose line endings were converted; " +
			"copy it as a binary file"
	case isShare(text):
		return "it is a share that is not encrypted; pass the encrypted backup, or use the share itself"
	case strings.Contains(text, "AGE-SECRET-KEY-"):
		return "it is an age key; pass the backup that the key opens, and keep the key apart from it"
	case strings.HasPrefix(trimmed, "{"), strings.HasPrefix(trimmed, "["), strings.HasPrefix(trimmed, `"`):
		return jsonText
	case strings.Contains(text, "BEGIN%20AGE"), strings.Contains(text, "BEGIN+AGE"):
		return urlText
	case strings.HasPrefix(trimmed, "<"):
		return "it is an HTML or XML page; check the server that should have returned the backup"
	case strings.Contains(text, armorName):
		return `its first line is changed: it must be "-----BEGIN AGE ENCRYPTED FILE-----", ` +
			`with five plain hyphens at each end`
	case strings.Contains(text, armor.Footer):
		return `it is cut short: the line "-----BEGIN AGE ENCRYPTED FILE-----" is missing; pass all of it`
	case strings.Contains(text, anyArmor):
		return "it is armored as something other than age (PEM, PGP); pass the file that BackupWallet returned"
	}
	return describeBase64(trimmed)
}

// isUTF32 recognises UTF-32 by its byte order mark, or by the three NULs between the hyphens of an armor's first line.
func isUTF32(text string) bool {
	return strings.HasPrefix(text, "\xff\xfe\x00\x00") || strings.HasPrefix(text, "\x00\x00\xfe\xff") ||
		strings.Contains(text, "-\x00\x00\x00-")
}

// isUTF16 recognises UTF-16 by its byte order mark, or by the NUL next to each character of an armor.
func isUTF16(text string) bool {
	if strings.HasPrefix(text, string(littleEndian)) || strings.HasPrefix(text, string(bigEndian)) {
		return true
	}
	flat := strings.ReplaceAll(text, "\x00", "")
	return len(flat) < len(text) && strings.Contains(flat, armorName)
}

func isShare(text string) bool {
	s, err := ParseShare([]byte(text))
	if err != nil {
		return false
	}
	s.Wipe()
	return true
}

// describeBase64 is describe for a text that may be base64.
func describeBase64(text string) string {
	const other = "it is not an age file, neither a binary one nor one in ASCII armor; " +
		"pass the file that BackupWallet returned"
	text = strings.NewReplacer("-", "+", "_", "/", "=", "").Replace(strings.Join(strings.Fields(text), ""))
	b, err := base64.RawStdEncoding.DecodeString(text)
	defer clear(b)
	switch {
	case err != nil:
		return other
	case bytes.HasPrefix(b, []byte(anyIntro)):
		return `it is a backup in base64 without its lines "-----BEGIN AGE ENCRYPTED FILE-----" and END; ` +
			`add them, or decode the base64`
	case bytes.Contains(b, []byte(armor.Header)):
		return "it is a backup in base64; decode the base64 first"
	case isShare(string(b)):
		return "it is a share in base64 that is not encrypted; pass the encrypted backup"
	}
	return other
}

// header is the header of an age file, with its recipient stanzas.
type header struct {
	text  []byte
	types []string
	args  map[string][]string // by type; of the last stanza of that type
}

func parseHeader(file []byte) (header, error) {
	h := header{args: map[string][]string{}}
	text, err := age.ExtractHeader(bytes.NewReader(file))
	switch {
	case err != nil && !bytes.Contains(file, []byte("\n--- ")):
		return h, notABackup("it is cut short in its header; pass all of it", err)
	case err != nil:
		return h, notABackup("its header is damaged; "+readAgain, err)
	}
	h.text = text
	for line := range strings.Lines(string(text)) {
		if stanza, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "-> "); ok {
			words := strings.Split(stanza, " ")
			h.types = append(h.types, words[0])
			h.args[words[0]] = words[1:]
		}
	}
	return h, nil
}

func (h header) has(stanza string) bool { return slices.Contains(h.types, stanza) }

// checkPassword rejects a file that no password opens, or that would take too much work.
func (h header) checkPassword() error {
	switch {
	case h.has(setStanza):
		return notABackup(
			"it is not encrypted with a password: its key is in the user's cloud storage; "+otherMethod, nil)
	case !h.has("scrypt"):
		return notABackup("it is not encrypted with a password, but for "+h.recipients()+"; "+otherMethod, nil)
	}
	// The arguments are a salt and the work factor; age rejects anything else.
	if args := h.args["scrypt"]; len(args) == 2 {
		if logN, err := strconv.Atoi(args[1]); logN > maxWorkFactor {
			return notABackup(fmt.Sprintf("it asks for more work than 2^%d, which no backup of this SDK does; %s",
				maxWorkFactor, readAgain), err)
		}
	}
	return nil
}

// checkKey rejects a file whose key is not in the user's cloud storage.
func (h header) checkKey() error {
	switch {
	case h.has("scrypt"):
		return notABackup("it is encrypted with a password; pass method PASSWORD", nil)
	case !h.has(setStanza):
		return notABackup("it does not name its key: it is encrypted for "+h.recipients()+
			", and was not made by BackupWallet", nil)
	}
	return nil
}

// recipients names the kind of recipient. It names only age's own kinds: others would quote the file.
func (h header) recipients() string {
	switch {
	case h.has("X25519"):
		return "an age key (X25519)"
	case h.has("ssh-ed25519"), h.has("ssh-rsa"):
		return "an SSH key"
	}
	return "a recipient of another kind"
}

// nameOf finds the id in a stanza of an age header. The header is untrusted, so only a UUID is passed on to the app's
// storage.
func nameOf(header []byte, stanza string) (string, bool) {
	for line := range strings.Lines(string(header)) {
		id, ok := strings.CutPrefix(line, "-> "+stanza+" ")
		if !ok {
			continue
		}
		if id, err := ParseID(strings.TrimSuffix(id, "\n")); err == nil {
			return id, true
		}
	}
	return "", false
}

// backupError is an ErrNotABackup that says what was found and what to do. Its text is bounded and leaves out the
// cause, which may quote the input.
type backupError struct {
	what  string
	cause error
}

func notABackup(what string, cause error) error { return &backupError{what, cause} }

// Error implements error.
func (e *backupError) Error() string { return "not a backup: " + e.what }

// Unwrap returns ErrNotABackup and the cause, if there is one.
func (e *backupError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrNotABackup}
	}
	return []error{ErrNotABackup, e.cause}
}

var errTooLong = errors.New("longer than any share")
