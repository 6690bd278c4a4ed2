package custody

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// errNotThere is an answer that has no share of the set.
var errNotThere = errors.New("the custodian's answer has no share of the set")

// pick returns the server's share of a set from a custodian's answer. Of several it is the
// first: its caller compares it with the set's record. Where there is none, the error says
// why, as far as it can be told.
func pick(answer []byte, id tss.SetID) (secret.Bytes, error) {
	var all fetchAnswer
	if json.Unmarshal(answer, &all) != nil {
		return notThere(false, `it is not JSON of the form {"backupShares": ["..."]}`)
	}
	defer func() {
		for _, text := range all.Shares {
			clear(text)
		}
	}()
	for _, text := range all.Shares {
		var b []byte // base64 in JSON
		if json.Unmarshal(text, &b) == nil && isShareOf(b, id) {
			return secret.New(b), nil
		}
		clear(b)
	}
	for _, text := range all.Shares {
		if cause := likely(text, id); cause != "" {
			return notThere(true, cause)
		}
	}
	if len(all.Shares) == 0 {
		return notThere(false, "it is empty")
	}
	return notThere(false, "what is in it are other sets' shares, or none at all")
}

func notThere(permanent bool, cause string) (secret.Bytes, error) {
	return secret.Bytes{}, &session.WebhookError{Permanent: permanent, Err: fmt.Errorf("%w: %s", errNotThere, cause)}
}

func isShareOf(b []byte, id tss.SetID) bool {
	share, err := tss.ParseShare(b)
	share.Wipe()
	return err == nil && share.SetID == id && share.Party == tss.Server
}

// likely says what may have happened to a share on its way, or nothing.
func likely(text json.RawMessage, id tss.SetID) string {
	var s string
	if json.Unmarshal(text, &s) != nil {
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			return "a share in it is a JSON object, and not a text in base64"
		}
		return ""
	}
	once := decode(s)
	twice := decode(string(once))
	defer clear(once)
	defer clear(twice)
	switch {
	case isAge([]byte(s)), isAge(once), isAge(twice):
		return "a share in it is still encrypted (age): " +
			"the custodian decrypts with the identity of --custodian-recipient before it answers"
	case isShareOf(once, id):
		return "the share in it is base64, but not that of RFC 4648, section 4: with + and /, padded, without spaces"
	case isShareOf(twice, id):
		return "the share in it is encoded in base64 twice"
	case isShareOf([]byte(s), id):
		return "the share in it is not encoded in base64"
	}
	return ""
}

func isAge(b []byte) bool {
	return bytes.HasPrefix(b, []byte("age-encryption.org/")) || bytes.HasPrefix(b, []byte("-----BEGIN AGE ENCRYPTED FILE-----"))
}

// decode reads base64 of any alphabet, padded or not, with spaces or without; nil where it
// is none.
func decode(s string) []byte {
	plain := make([]byte, 0, len(s))
	for i := range len(s) {
		switch c := s[i]; c {
		case ' ', '\t', '\r', '\n', '=':
		case '-':
			plain = append(plain, '+')
		case '_':
			plain = append(plain, '/')
		default:
			plain = append(plain, c)
		}
	}
	defer clear(plain)
	b := make([]byte, base64.RawStdEncoding.DecodedLen(len(plain)))
	n, err := base64.RawStdEncoding.Decode(b, plain)
	if err != nil {
		clear(b)
		return nil
	}
	return b[:n]
}
