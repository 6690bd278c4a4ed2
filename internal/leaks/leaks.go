// Package leaks searches bytes, such as a file or a log, for the secrets of a client share. Tests run it over
// everything the service writes, and the demo over its service's database.
//
// It finds a secret in plain form and in the encodings that encoders and careless logging produce. It does not find
// encrypted or compressed secrets. Its results do not quote the secret.
package leaks

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// Find lists the forms in which text contains a secret of the client share: raw, or one of the encodings that
// encoders and careless logging produce. It returns nil if there are none.
func Find(text, share []byte) (how []string) {
	for i, secret := range secrets(share) {
		for name, s := range spellings(secret) {
			if bytes.Contains(text, []byte(s)) {
				how = append(how, fmt.Sprintf("secret %d %s", i, name))
			}
		}
	}
	return how
}

// secrets returns the secret numbers in a share, but not its other fields, such as the wallet's id, which appear in
// many places. Bytes that do not parse as a share are one secret.
func secrets(share []byte) (all [][]byte) {
	var w struct {
		Keys []struct {
			Xi []byte `cbor:"3,keyasint"`
			P  []byte `cbor:"4,keyasint"`
			Q  []byte `cbor:"5,keyasint"`
		} `cbor:"7,keyasint"`
	}
	if err := cbor.Unmarshal(share, &w); err != nil || len(w.Keys) == 0 {
		return [][]byte{share}
	}
	for _, k := range w.Keys {
		for _, secret := range [][]byte{k.Xi, k.P, k.Q} {
			if len(secret) > 0 {
				all = append(all, secret)
			}
		}
	}
	return all
}

// spellings returns the encodings of a secret to search for. They cover only its middle, so that a truncated secret
// or one embedded in something longer is found too.
func spellings(secret []byte) map[string]string {
	part := secret[len(secret)-24 : len(secret)-4]
	reversed := slices.Clone(part)
	slices.Reverse(reversed)
	all := map[string]string{
		"raw": string(part), "hex": hex.EncodeToString(part), "HEX": strings.ToUpper(hex.EncodeToString(part)),
		"raw, little-endian": string(reversed), "hex, little-endian": hex.EncodeToString(reversed),
		"decimal":  new(big.Int).SetBytes(secret).String(),
		"as bytes": decimals(part, " "),
		"as JSON":  decimals(part, ","),
	}
	// Base64 output depends on the secret's offset within a group of three bytes.
	for offset, name := range []string{"base64", "base64+1", "base64+2"} {
		for encoding, e := range map[string]*base64.Encoding{"": base64.RawStdEncoding, " URL": base64.RawURLEncoding} {
			aligned := part[offset:]
			all[name+encoding] = e.EncodeToString(aligned[:len(aligned)/3*3])
		}
	}
	return all
}

func decimals(b []byte, between string) string {
	all := make([]string, len(b))
	for i, x := range b {
		all[i] = fmt.Sprint(x)
	}
	return strings.Join(all, between)
}
