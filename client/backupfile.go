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

// What an app hands over as a backup has been through APIs, mails and editors. Here it
// becomes a binary age file again where that is safe, since age authenticates what it opens:
// a byte order mark, other line ends, blank lines, whitespace around lines and text around
// the armor go. Anything else is an error that says what was found and what to do.
// docs/BACKUP-FILES.md has the table.

const (
	ageIntro  = "age-encryption.org/v1\n"
	anyIntro  = "age-encryption.org/"
	anyArmor  = "-----BEGIN "
	armorName = "BEGIN AGE ENCRYPTED FILE"
	lineChars = 64

	asciiSpace = " \t\r\n\v\f"
)

// quotedPrintable is what its encoding makes of an armor's body: = and two digits, or a line
// that ends with = and goes on. Base64 has = at its end alone.
var quotedPrintable = regexp.MustCompile(`=[0-9A-Fa-f]{2}|=\r?\n[A-Za-z0-9+/]`)

// ageFile returns the binary age file in a text, or a backupError.
func ageFile(text string) ([]byte, error) {
	if len(text) > maxCipherText {
		return nil, notABackup(fmt.Sprintf("it has more than %d bytes; a backup is below 8 KiB", maxCipherText), nil)
	}
	text = strings.TrimPrefix(text, utf8BOM)
	// What is behind a binary file is decryptTrimmed's: it cannot be told from the file here.
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
		return nil, notABackup(`it is cut short: the line "-----END AGE ENCRYPTED FILE-----" is missing; pass all of it`, nil)
	}
	lines, what := armorLines(before, body)
	if what != "" {
		return nil, notABackup(what, nil)
	}
	whole := armor.Header + "\n" + strings.Join(lines, "\n") + "\n" + armor.Footer + "\n"
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(whole)))
	if err != nil {
		return nil, notABackup("its armor is damaged: what is between its BEGIN and END lines is not base64; "+readAgain, err)
	}
	return binary(file, "what is in its armor")
}

// armorLines returns the lines of an armor's body without what mail and editors add to
// them, or says what has become of them.
func armorLines(before, body string) (lines []string, what string) {
	before = strings.TrimSpace(before)
	switch {
	case strings.HasSuffix(before, `"`), strings.Contains(body, `\`):
		return nil, jsonWords
	case strings.ContainsAny(body, "<&"):
		return nil, "it has HTML in it; take the text, without tags and with its character references decoded"
	case strings.Contains(body, "%"):
		return nil, urlWords
	case quotedPrintable.MatchString(body):
		return nil, `it is encoded as in a mail (quoted-printable, with "=3D" or "=" at line ends); decode it first`
	}
	body = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(body)
	content := strings.TrimSpace(body)
	if !strings.Contains(body, "\n") || !strings.Contains(content, "\n") && len(content) > lineChars {
		return nil, "its line ends are lost; pass it with the line ends that it was made with (lines of 64 characters)"
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
			return nil, "it has spaces within its lines, in place of line ends or plus signs; pass it as it was made"
		case at >= 0:
			return nil, fmt.Sprintf("line %d of its armor has a character that base64 has not; %s", i+1, readAgain)
		case len(line) > lineChars, len(line) < lineChars && i < len(lines)-1:
			return nil, fmt.Sprintf("line %d of its armor has %d characters in place of 64: "+
				"line ends were moved, or it was cut; pass it as it was made", i+1, len(line))
		}
	}
	if len(lines) == 0 {
		return nil, "there is nothing between its BEGIN and END lines; " + readAgain
	}
	return lines, ""
}

const (
	jsonWords = `it is JSON, or has JSON's quotes and escapes (such as \n) in it; ` +
		`parse the JSON and pass the string, such as the value of "cipherText"`
	urlWords    = "it is encoded as in a URL; decode it first"
	otherMethod = "pass the method that it was made with"
	readAgain   = "read it again from where it was stored"
)

func notBase64(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '+', r == '/', r == '=':
		return false
	}
	return true
}

// binary checks that a file begins as an age file and has one header. name is what it is
// called in an error.
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

// describe says what a text is that has no armor of age in it and does not begin as an age
// file. It quotes nothing of it.
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
		return "it is an age file of another version, or a binary one whose line ends were converted; " +
			"copy it as a binary file"
	case isShare(text):
		return "it is a share that is not encrypted; pass the encrypted backup, or use the share itself"
	case strings.Contains(text, "AGE-SECRET-KEY-"):
		return "it is an age key; pass the backup that the key opens, and keep the key apart from it"
	case strings.HasPrefix(trimmed, "{"), strings.HasPrefix(trimmed, "["), strings.HasPrefix(trimmed, `"`):
		return jsonWords
	case strings.Contains(text, "BEGIN%20AGE"), strings.Contains(text, "BEGIN+AGE"):
		return urlWords
	case strings.HasPrefix(trimmed, "<"):
		return "it is an HTML or XML page; check what answered in place of the backup"
	case strings.Contains(text, armorName):
		return `its first line is changed: it must be "-----BEGIN AGE ENCRYPTED FILE-----", ` +
			`with five plain hyphens at each end`
	case strings.Contains(text, armor.Footer):
		return `it is cut short: the line "-----BEGIN AGE ENCRYPTED FILE-----" is missing; pass all of it`
	case strings.Contains(text, anyArmor):
		return "it is armored as something else than age (PEM, PGP); pass the file that BackupWallet returned"
	}
	return base64Words(trimmed)
}

// isUTF32 tells a text by its byte order mark, or by the three NULs beside each hyphen of an
// armor's first line.
func isUTF32(text string) bool {
	return strings.HasPrefix(text, "\xff\xfe\x00\x00") || strings.HasPrefix(text, "\x00\x00\xfe\xff") ||
		strings.Contains(text, "-\x00\x00\x00-")
}

// isUTF16 tells a text by its byte order mark, or by the NUL beside each character of an
// armor.
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

// base64Words says what is in a text that is base64.
func base64Words(text string) string {
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
		return "it is a share in base64, and not encrypted; pass the encrypted backup"
	}
	return other
}

// header is what an age file says about its recipients.
type header struct {
	text  []byte
	types []string
	args  map[string][]string // by type, of the last stanza of it
}

// parseHeader reads the header of a binary age file.
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

// checkPassword refuses a file that no password opens, or that would take too much work.
func (h header) checkPassword() error {
	switch {
	case h.has(setStanza):
		return notABackup("it is not encrypted with a password: its key is in the user's cloud storage; "+otherMethod, nil)
	case !h.has("scrypt"):
		return notABackup("it is not encrypted with a password, but for "+h.recipients()+"; "+otherMethod, nil)
	}
	// Its arguments are a salt and the work factor; age refuses anything else.
	if args := h.args["scrypt"]; len(args) == 2 {
		if logN, err := strconv.Atoi(args[1]); logN > maxWorkFactor {
			return notABackup(fmt.Sprintf("it asks for more work than 2^%d, which no backup of this SDK does; %s",
				maxWorkFactor, readAgain), err)
		}
	}
	return nil
}

// checkKey refuses a file whose key is not in a cloud storage.
func (h header) checkKey() error {
	switch {
	case h.has("scrypt"):
		return notABackup("it is encrypted with a password; pass method PASSWORD", nil)
	case !h.has(setStanza):
		return notABackup("it does not name its key: it is encrypted for "+h.recipients()+
			", and not made by BackupWallet", nil)
	}
	return nil
}

// recipients names the kinds that age has itself; other kinds are the file's own words.
func (h header) recipients() string {
	switch {
	case h.has("X25519"):
		return "an age key (X25519)"
	case h.has("ssh-ed25519"), h.has("ssh-rsa"):
		return "an SSH key"
	}
	return "a recipient of another kind"
}

// nameOf finds the id in an age header's stanza. It comes from outside: only a UUID is
// handed to the app's storage.
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

// backupError is an ErrNotABackup whose text has a fixed length and says what was found and
// what to do: its cause may quote what somebody took for a backup.
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
