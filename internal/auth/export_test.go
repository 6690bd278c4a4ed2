package auth

import "time"

// Timing sets how old a verifier's keys may get.
func (t *Tokens) Timing(refresh, retry, keep, timeout time.Duration) {
	t.keys.timing = timing{refresh: refresh, retry: retry, keep: keep, timeout: timeout}
}

// LookAlways makes every handshake look at the files.
func (c *Certificates) LookAlways() { c.interval = 0 }

// MaxToken is the length of the longest token.
const MaxToken = maxToken

// UsableKeys says how many keys of a JWK Set are usable, or that it is none.
func UsableKeys(set []byte) (int, error) {
	found, err := parseKeys(set)
	if err != nil {
		return 0, err
	}
	return len(found.kids), nil
}
