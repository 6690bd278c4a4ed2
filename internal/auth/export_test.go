package auth

import "time"

// Timing sets how old a verifier's keys may be.
func (t *Tokens) Timing(refresh, retry, keep, timeout time.Duration) {
	t.keys.timing = timing{refresh: refresh, retry: retry, keep: keep, timeout: timeout}
}

// LookAlways makes every handshake check the files for changes.
func (c *Certificates) LookAlways() { c.interval = 0 }

// MaxToken is the maximum length of a token in bytes.
const MaxToken = maxToken

// UsableKeys returns how many keys of a JWK Set are usable, or an error if it is not a JWK Set.
func UsableKeys(set []byte) (int, error) {
	found, err := parseKeys(set)
	if err != nil {
		return 0, err
	}
	return len(found.kids), nil
}
