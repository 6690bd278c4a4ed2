package client_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"

	"github.com/mpcd/mpcd/client"
)

var write = flag.Bool("write", false, "regenerate the vectors")

// passwordFile has the vectors for SDKs in other languages; docs/BACKUP-FILES.md describes it.
const passwordFile = "testdata/passwords.json"

type passwordVectors struct {
	Comment string
	Vectors []passwordVector
}

// passwordVector is a password or password file, and its normalized form.
type passwordVector struct {
	Name       string
	Password   string `json:",omitempty"` // in hex
	File       string `json:",omitempty"` // in hex
	Normalized string `json:",omitempty"` // in hex; empty: the password is rejected
	CipherText string `json:",omitempty"` // a backup that the normalized password opens
	Older      string `json:",omitempty"` // a backup that the unnormalized password opens
}

var passwords = map[string]string{
	"ASCII":                                 "correct horse battery staple",
	"spaces at both ends stay":              "  two  ",
	"upper and lower case stay":             "PassWord",
	"a tab stays":                           "a\tb",
	"a line end stays":                      "a\nb",
	"an accent, composed":                   "caf\u00e9",
	"an accent, decomposed":                 "cafe\u0301",
	"two accents in either order":           "a\u0301\u0323",
	"no-break space":                        "correct\u00a0horse",
	"every Unicode space":                   "a \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000b",
	"a space with an accent":                "a\u00a0\u0301",
	"zero-width space is no space":          "a\u200bb",
	"a BOM within is no space":              "a\ufeffb",
	"Hangul, decomposed":                    "\u1112\u1161\u11ab\u1100\u1173\u11af",
	"the Angstrom and Ohm signs":            "\u212b\u2126",
	"excluded from composition":             "\u0958\ufb1d",
	"Hebrew points in another order":        "\u05e9\u05c1\u05bc",
	"compatibility characters stay":         "\ufb01\uff21\u2460\u00b2",
	"emoji":                                 "\U0001F600\u2764\ufe0f",
	"joined emoji":                          "\U0001F469\U0001F3FD\u200d\U0001F4BB",
	"ZWNJ and direction marks stay":         "\u06af\u0648\u0634\u06cc\u200c\u0647\u0627\u200f\u200e",
	"private use":                           "\uf8ff\U000F0000",
	"beyond the BMP, composed":              "\U0001D15E\U00011099\U000110BA",
	"30 marks in a row":                     "e" + strings.Repeat("\u0301", 30),
	"29 marks after a letter that has one":  "\u00e9" + strings.Repeat("\u0301", 29),
	"DEL and C1 stay":                       "a\x7f\u0085b",
	"the replacement character stays":       "\ufffd",
	"one character":                         "x",
	"one no-break space":                    "\u00a0",
	"long":                                  strings.Repeat("\u00e9\u00a0", 300),
	"no password":                           "",
	"NUL":                                   "a\x00b",
	"NUL at its end":                        "a\x00",
	"invalid UTF-8":                         "caf\xe9",
	"a surrogate in UTF-8":                  "\xed\xa0\x80",
	"cut within a character":                "\xe2\x82",
	"31 marks in a row":                     "e" + strings.Repeat("\u0301", 31),
	"30 marks after a letter that has one":  "\u00e9" + strings.Repeat("\u0301", 30),
	"16 marks that are two marks each":      "e" + strings.Repeat("\u0344", 16),
	"31 marks behind a combining half mark": "e" + strings.Repeat("\ufe20", 31),
}

func passwordFiles() map[string]string {
	const typed = "cafe\u0301\u00a0\U0001F600"
	return map[string]string{
		"file: UTF-8":                              "correct horse",
		"file: LF":                                 "correct horse\n",
		"file: CRLF":                               "correct horse\r\n",
		"file: the first line":                     "correct horse\nanother line\n",
		"file: one line end is taken off":          "correct horse\r\r\n\n",
		"file: CR alone is no line end":            "a\rb",
		"file: spaces stay":                        " correct horse \n",
		"file: UTF-8 with BOM":                     "\ufeff" + typed + "\r\n",
		"file: UTF-8 without BOM, decomposed":      typed + "\n",
		"file: one BOM is taken off":               "\ufeff\ufeffx\n",
		"file: UTF-16, little-endian":              "\xff\xfe" + asUTF16(binary.LittleEndian, typed+"\r\n"),
		"file: UTF-16, big-endian":                 "\xfe\xff" + asUTF16(binary.BigEndian, typed+"\n"),
		"file: UTF-16, no line end":                "\xff\xfe" + asUTF16(binary.LittleEndian, "x"),
		"file: UTF-16, a second line":              "\xfe\xff" + asUTF16(binary.BigEndian, "first\nsecond"),
		"file: empty":                              "",
		"file: an empty first line":                "\r\nsecond\n",
		"file: a BOM alone":                        "\ufeff",
		"file: a UTF-16 BOM alone":                 "\xff\xfe",
		"file: UTF-16 without BOM":                 asUTF16(binary.LittleEndian, "x\n"),
		"file: UTF-16 with NUL":                    "\xff\xfe" + asUTF16(binary.LittleEndian, "a\x00b"),
		"file: UTF-16 with an odd number of bytes": "\xff\xfex",
		"file: UTF-16 with a lone surrogate":       "\xfe\xff\xd8\x00\x00x",
		"file: UTF-32":                             "\xff\xfe\x00\x00x\x00\x00\x00",
		"file: Latin-1":                            "caf\xe9\n",
	}
}

// The vectors specify the normalization for SDKs in other languages. With -write they are regenerated, to add cases.
func TestPasswordVectors(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	if *write {
		writeVectors(t, c)
	}
	b, err := os.ReadFile(passwordFile)
	require.NoError(t, err)
	var all passwordVectors
	require.NoError(t, json.Unmarshal(b, &all))
	seen := map[string]bool{}
	for _, v := range all.Vectors {
		seen[v.Name] = true
		set := func() error { return c.SetPassword(string(unhex(t, v.Password))) }
		if v.File != "" || strings.HasPrefix(v.Name, "file: ") {
			set = func() error { return c.SetPasswordFile(unhex(t, v.File)) }
		}
		if v.Normalized == "" {
			err := set()
			require.Error(t, err, v.Name)
			require.True(t, errors.Is(err, client.ErrPassword) || errors.Is(err, client.ErrNoPassword), "%s: %v", v.Name, err)
			require.Less(t, len(err.Error()), 200, err)
			continue
		}
		require.NoError(t, set(), v.Name)
		for _, text := range []string{v.CipherText, v.Older} {
			if text != "" {
				_, err = c.DecryptBackup(t.Context(), text, client.MethodPassword)
				require.NoError(t, err, v.Name)
			}
		}
		require.NoError(t, c.SetPassword(string(unhex(t, v.Normalized))), "normalizing again changes nothing")
		_, err = c.DecryptBackup(t.Context(), v.CipherText, client.MethodPassword)
		require.NoError(t, err, v.Name)
		if v.Older != "" {
			_, err = c.DecryptBackup(t.Context(), v.Older, client.MethodPassword)
			require.ErrorIs(t, err, client.ErrWrongPassword, "%s: encrypted with the unnormalized bytes", v.Name)
		}
	}
	for name := range passwords {
		require.True(t, seen[name], "run with -write: %s", name)
	}
	for name := range passwordFiles() {
		require.True(t, seen[name], "run with -write: %s", name)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func writeVectors(t *testing.T, c *client.Client) {
	t.Helper()
	_, backup := backedUp(t, c)
	share, err := c.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
	require.NoError(t, err)
	out := passwordVectors{Comment: "Public test data: passwords and password files, in hex, and the bytes that encrypt; without Normalized they are " +
		"refused. CipherText opens with Normalized; Older is from before the rule, and opens with the first line's bytes as they were given. " +
		"See docs/BACKUP-FILES.md. Made by: go test ./client -run TestPasswordVectors -write"}
	vector := func(v passwordVector, given, text []byte) {
		normalized, err := client.NormalizePassword(text)
		if err == nil {
			v.Normalized, v.CipherText = hex.EncodeToString(normalized), encryptedWith(t, share.Bytes(), normalized)
			if !bytes.Equal(normalized, given) {
				v.Older = encryptedWith(t, share.Bytes(), given)
			}
		}
		out.Vectors = append(out.Vectors, v)
	}
	for _, name := range slices.Sorted(maps.Keys(passwords)) {
		p := []byte(passwords[name])
		vector(passwordVector{Name: name, Password: hex.EncodeToString(p)}, p, p)
	}
	files := passwordFiles()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b := []byte(files[name])
		text, err := client.DecodeText(b)
		if err != nil {
			text = nil
		}
		vector(passwordVector{Name: name, File: hex.EncodeToString(b)}, lineOf(b), lineOf(text))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(out))
	require.NoError(t, os.MkdirAll("testdata", 0o750))
	require.NoError(t, os.WriteFile(passwordFile, b.Bytes(), 0o644))
}

// lineOf returns the first line of a password file, as `mpcd wallet` read it before normalization.
func lineOf(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

// encryptedWith returns a backup encrypted with the raw bytes of a password.
func encryptedWith(t testing.TB, plain, password []byte) string {
	t.Helper()
	r, err := age.NewScryptRecipient(string(password))
	require.NoError(t, err)
	r.SetWorkFactor(10)
	return encryptedTo(t, plain, r)
}

// Different encodings of the same password, typed or in a file, open the same backup.
func TestOnePasswordInManySpellings(t *testing.T) {
	f, conn := newFake(t)
	maker, opener := newClient(t, f, conn), newClient(t, f, conn)
	spellings := []string{"caf\u00e9 \U0001F600", "cafe\u0301 \U0001F600", "caf\u00e9\u00a0\U0001F600", "cafe\u0301\u3000\U0001F600"}
	for _, made := range spellings {
		require.NoError(t, maker.SetPassword(made))
		_, backup := backedUp(t, maker)
		for _, typed := range spellings {
			require.NoError(t, opener.SetPassword(typed))
			_, err := opener.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
			require.NoError(t, err, "%+q, %+q", made, typed)
			for _, file := range []string{typed + "\n", "\ufeff" + typed, "\xff\xfe" + asUTF16(binary.LittleEndian, typed+"\r\n"), "\xfe\xff" + asUTF16(binary.BigEndian, typed)} {
				require.NoError(t, opener.SetPasswordFile([]byte(file)))
				_, err := opener.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
				require.NoError(t, err, "%+q, %+q", made, file)
			}
		}
	}
}

// A rejected password does not replace the one before, and is not quoted in an error.
func TestRefusedPasswords(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn)
	_, backup := backedUp(t, c)
	for _, p := range []string{"hunter2\x00", "hunter2\xff", "hunter2" + strings.Repeat("\u0301", 31)} {
		for _, err := range []error{c.SetPassword(p), c.SetPasswordFile([]byte(p))} {
			require.ErrorIs(t, err, client.ErrPassword)
			require.NotContains(t, err.Error(), "hunter2")
		}
	}
	require.ErrorIs(t, c.SetPassword(""), client.ErrNoPassword)
	require.ErrorIs(t, c.SetPasswordFile([]byte("\ufeff\n")), client.ErrNoPassword)
	_, err := c.DecryptBackup(t.Context(), backup.CipherText, client.MethodPassword)
	require.NoError(t, err)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		require.NotContains(t, fmt.Sprintf(verb, c), "correct")
	}
}

// A normalized password is valid, in NFC, and has no other spaces; normalizing it again changes nothing, and Go has not
// inserted U+034F.
func FuzzPassword(f *testing.F) {
	for _, p := range passwords {
		f.Add([]byte(p))
	}
	for _, p := range passwordFiles() {
		f.Add([]byte(p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if text, err := client.DecodeText(b); err == nil && bytes.HasPrefix(b, []byte("\xff\xfe")) {
			require.True(t, utf8.Valid(text))
		}
		got, err := client.NormalizePassword(b)
		if err != nil {
			require.Empty(t, got)
			return
		}
		require.True(t, utf8.Valid(got))
		require.True(t, norm.NFC.IsNormal(got))
		for _, r := range string(got) {
			require.False(t, r != ' ' && unicode.Is(unicode.Zs, r))
		}
		again, err := client.NormalizePassword(got)
		require.NoError(t, err)
		require.Equal(t, got, again)
		const joiner = "\u034f" // Go inserts it into long runs of marks
		require.Equal(t, strings.Count(string(b), joiner), strings.Count(string(got), joiner))
	})
}

// The app chooses the work factor of new backups, within the range that every SDK opens.
func TestWorkFactor(t *testing.T) {
	f, conn := newFake(t)
	for _, logN := range []int{-1, 0, 1, 14, 21, 30} {
		_, err := client.New(conn, client.WithWorkFactor(logN))
		require.ErrorContains(t, err, "use 15 to 20")
	}
	c := newClient(t, f, conn)
	c.SetWorkFactor(client.DefaultWorkFactor)
	require.NoError(t, client.WithWorkFactor(15)(c))
	share, err := c.CreateWallet(t.Context(), nil)
	require.NoError(t, err)
	backup, err := c.BackupWallet(t.Context(), share, client.MethodPassword, nil)
	require.NoError(t, err)
	require.Contains(t, header(t, backup.CipherText), " 15\n")
	require.NoError(t, newClient(t, f, conn).ConfirmBackup(t.Context(), backup, backup.CipherText))
}
