package server

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/mpcd/mpcd/internal/session"
)

// hash accepts a SHA-256, or nothing: package session decides whether it may be missing.
func (p *parser) hash(field string, b []byte) []byte {
	if n := len(b); n != 0 && n != 32 {
		p.fault(field, "must be the 32-byte SHA-256 of the plaintext client share%s", textOfHash(b))
	}
	return b
}

// textOfHash describes, as the end of a sentence, bytes that are a hash in text form. In JSON, where bytes are
// base64, a hash sent in hex decodes to 48 bytes.
func textOfHash(b []byte) string {
	text := strings.TrimSpace(string(b))
	switch {
	case isHexHash(text):
		return "; these are its digits in hex: decode them"
	case isHexHash(base64.StdEncoding.EncodeToString(b)):
		return "; these are its digits in hex, read as base64: in JSON, send it as base64"
	case isBase64Hash(text):
		return "; this is its base64 text: decode it, or, in JSON, encode it once"
	}
	return fmt.Sprintf("; these are %d bytes", len(b))
}

func isHexHash(text string) bool {
	b, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(text), "0x"))
	return err == nil && len(b) == 32
}

func isBase64Hash(text string) bool {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	b, err := base64.RawStdEncoding.DecodeString(text)
	return err == nil && len(b) == 32
}

// hashSentence tells the caller what its hash is of, if that is not the share; "" for other errors.
func hashSentence(err error) string {
	const send = " Send the SHA-256 of the plaintext client share's own bytes"
	switch {
	case errors.Is(err, session.ErrHashOfSealed):
		return "The hash is that of the sealed share, the age file." + send +
			": decrypt the age file first, so that confirming shows that it can be decrypted."
	case errors.Is(err, session.ErrHashOfText):
		return "The hash is that of the share's base64 text." + send +
			": decode the base64, then decrypt it if it was sealed to you."
	case errors.Is(err, session.ErrHashMismatch):
		return "The hash is not that of the set's client share." + send + ", and name the set that it came with: " +
			"decrypt the age file first where it was sealed to you, and hash neither that file nor base64 or hex text, with line breaks or without."
	}
	return ""
}
