// Package leaks tells whether some bytes, such as a file or a log, show the secrets of a
// client share. The tests ask it about everything that a service writes, and the demo about
// its service's database.
//
// It finds a secret as it is and in the spellings that encoders and careless logging give
// it; it does not find what is encrypted or compressed. It keeps nothing, and what it
// answers quotes nothing of a secret.
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

// Find says how a text shows a secret of a client share, if it does: as it is, or in one
// of the forms that encoders and careless logging give it.
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

// secrets returns the numbers in a share that nobody else may know. What else it says, such
// as the wallet's id, stands in many places. Bytes that are no share are one secret.
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

// spellings are the ways in which a secret may get into a text. A part of it counts: a
// secret that is cut, or stands in something longer, is found by its middle.
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
	// Base64 looks different at each offset in a group of three bytes.
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
