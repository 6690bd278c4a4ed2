package custody

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/tss"
)

// errNotThere is returned for a response without a share of the set.
var errNotThere = errors.New("the custodian's answer has no share of the set")

// errNotFound is a 404 on reading back, which may be temporary.
var errNotFound = &session.WebhookError{Err: errors.New("the custodian answers 404: " +
	"it does not have the share (yet), or the URL is not the one below which it takes messages")}

// pick returns the server share of a set from a custodian's response. Of several it returns the first; its caller
// compares it with the set's record. If there is none, the error gives the likely reason.
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
	perhaps := ""
	for _, text := range all.Shares {
		cause, its := likely(text, id)
		if its {
			return notThere(true, cause)
		}
		perhaps = cmp.Or(perhaps, cause)
	}
	if perhaps != "" { // it may belong to another set, with this one's not visible yet
		return notThere(false, perhaps)
	}
	if len(all.Shares) == 0 {
		return notThere(false, "it is empty")
	}
	return notThere(false, "it contains only shares of other sets, or entries that are not shares")
}

func notThere(permanent bool, cause string) (secret.Bytes, error) {
	return secret.Bytes{}, &session.WebhookError{Permanent: permanent, Err: fmt.Errorf("%w: %s", errNotThere, cause)}
}

func isShareOf(b []byte, id tss.SetID) bool {
	share, err := tss.ParseShare(b)
	share.Wipe()
	return err == nil && share.SetID == id && share.Party == tss.Server
}

// likely returns what may be wrong with an entry, or "". its reports whether it is certainly this set's share: an
// encrypted entry or an object may belong to any set.
func likely(text json.RawMessage, id tss.SetID) (cause string, its bool) {
	var s string
	if json.Unmarshal(text, &s) != nil {
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			return "a share in it is a JSON object, and not a text in base64", false
		}
		return "", false
	}
	once := decode(s)
	twice := decode(string(once))
	defer clear(once)
	defer clear(twice)
	switch {
	case isAge([]byte(s)), isAge(once), isAge(twice):
		return "a share in it is still encrypted (age): " +
			"the custodian decrypts with the identity of --custodian-recipient before it answers", false
	case isShareOf(once, id):
		return "the share in it is base64, but not that of RFC 4648, section 4: with + and /, padded, without spaces", true
	case isShareOf(twice, id):
		return "the share in it is encoded in base64 twice", true
	case isShareOf([]byte(s), id):
		return "the share in it is not encoded in base64", true
	}
	return "", false
}

func isAge(b []byte) bool {
	return bytes.HasPrefix(b, []byte("age-encryption.org/")) || bytes.HasPrefix(b, []byte("-----BEGIN AGE ENCRYPTED FILE-----"))
}

// decode decodes base64 of any alphabet, with or without padding and spaces. It returns nil on failure.
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
