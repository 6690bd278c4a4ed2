package names_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/internal/names"
)

// phones are names found on real phones.
var phones = map[string]string{
	"ASCII":                     "Ada's tablet",
	"typographic apostrophe":    "Ada\u2019s iPhone",
	"no-break space":            "iPhone\u00a0de\u00a0Zoé",
	"narrow no-break space":     "Téléphone\u202f!",
	"ideographic space":         "太郎\u3000の電話",
	"joined emoji":              "\U0001F469\u200d\U0001F4BB phone",
	"family with skin tones":    "\U0001F469\U0001F3FD\u200d\U0001F91D\u200d\U0001F468\U0001F3FF",
	"flag of Scotland":          "\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F",
	"keycap, variation":         "1\ufe0f\u20e3",
	"ZWNJ":                      "گوشی\u200cهای من",
	"left-to-right mark":        "Ada \u200e(2)",
	"right-to-left mark":        "הטלפון\u200f של עדה",
	"Arabic letter mark":        "هاتف\u061c 2",
	"isolated name":             "\u2068Ada\u2069\u2019s iPhone",
	"isolates in isolates":      "\u2067a\u2066b\u2069\u2069 \u2068c\u2069",
	"zero-width space":          "a\u200bb",
	"soft hyphen":               "Haupt\u00adtelefon",
	"word joiner":               "a\u2060b",
	"private use":               "Ada's \uf8ff",
	"not assigned yet":          "\U0001FAFF\U0001FB00 \U0001FC00",
	"replacement character":     "\ufffd",
	"combining":                 "e\u0301",
	"beyond the BMP":            "𝒜𝒹𝒶",
	"spaces":                    "  ",
	"empty":                     "",
	"slash, quotes, angle, dot": `../"<b>'&`,
}

func TestNamesOfPhones(t *testing.T) {
	t.Parallel()
	for what, name := range phones {
		require.NoError(t, names.Check(name, names.MaxDisplayName), what)
	}
}

func TestRefusedNames(t *testing.T) {
	t.Parallel()
	for what, name := range map[string]string{
		"line end": "a\nb", "carriage return": "a\r", "tab": "a\tb", "NUL": "a\x00", "escape": "\x1b[2J", "DEL": "a\x7f",
		"C1: next line": "a\u0085", "C1: control sequence": "a\u009b2J",
		"line separator": "a\u2028b", "paragraph separator": "a\u2029",
		"noncharacter": "\ufffe", "noncharacter at the end": "\U0010ffff", "noncharacter between": "\ufdd0",
		"a byte that is not UTF-8": "\xff", "an encoded surrogate": "\xed\xa0\x80", "cut in a character": "\xe2\x80", "overlong": "\xc0\x80",
	} {
		require.ErrorIs(t, names.Check(name, names.MaxOwner), names.ErrText, what)
	}
	for what, name := range map[string]string{
		"an isolate left open": "\u2066\u2067a\u2069", "one end too many": "\u2068a\u2069\u2069", "an end before its beginning": "\u2069a\u2068",
	} {
		require.ErrorIs(t, names.Check(name, names.MaxOwner), names.ErrText, what)
	}
	for _, r := range "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" {
		require.ErrorIs(t, names.Check("a"+string(r)+"b", names.MaxOwner), names.ErrText, "%U", r)
	}
}

// The length is counted in characters, not bytes.
func TestLengthOfNames(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"a", "é", "電", "\U0001F4F1"} {
		require.NoError(t, names.Check(strings.Repeat(c, 128), 128), c)
		require.EqualError(t, names.Check(strings.Repeat(c, 129), 128), "must have at most 128 characters", c)
	}
	require.Error(t, names.Check(strings.Repeat("\xff", 1<<20), 128))
}

// Line removes what would disturb the rest of the line and keeps everything else.
func TestLine(t *testing.T) {
	t.Parallel()
	for what, name := range phones {
		got := names.Line(name)
		require.NoError(t, names.Check(got, 128), what)
		require.Equal(t, strings.NewReplacer("\u200e", "", "\u200f", "", "\u061c", "", "\u2066", "", "\u2067", "", "\u2068", "", "\u2069", "").Replace(name), got, what)
	}
	require.Equal(t, "a[2Jbc", names.Line("a\x1b[2J\nb\u202e\u2068c\xff\u2028\u200f"))
}
