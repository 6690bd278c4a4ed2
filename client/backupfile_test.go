package client_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"html"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/stretchr/testify/require"

	"github.com/mpcd/mpcd/client"
)

// asUTF16 encodes a text as some editors and shells do.
func asUTF16(order binary.AppendByteOrder, text string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

// asUTF32 encodes a text in UTF-32.
func asUTF32(order binary.AppendByteOrder, text string) string {
	var b []byte
	for _, r := range text {
		b = order.AppendUint32(b, uint32(r))
	}
	return string(b)
}

// asJSON encodes v as JSON.
func asJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// eachLine prefixes each line of text with before.
func eachLine(text, before string) string {
	return before + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+before) + "\n"
}

// repairable returns forms of a backup that must open like the backup itself.
func repairable(t testing.TB, good string) map[string]string {
	t.Helper()
	crlf := strings.ReplaceAll(good, "\n", "\r\n")
	return map[string]string{
		"as it was made":            good,
		"binary":                    string(unarmored(t, good)),
		"binary, with a BOM":        "\ufeff" + string(unarmored(t, good)),
		"binary, a line end more":   string(unarmored(t, good)) + "\n",
		"binary, a CRLF more":       string(unarmored(t, good)) + "\r\n",
		"binary, in whitespace":     " \t\r\n\ufeff\n" + string(unarmored(t, good)) + "\r\n \t\v\f" + strings.Repeat("\n", 1000),
		"a BOM":                     "\ufeff" + good,
		"a BOM behind a line end":   "\n\ufeff" + good,
		"a BOM and CRLF":            "\ufeff" + crlf,
		"CRLF":                      crlf,
		"CR":                        strings.ReplaceAll(good, "\n", "\r"),
		"CRLF, doubled":             strings.ReplaceAll(good, "\n", "\r\r\n"),
		"blank lines":               strings.ReplaceAll(good, "\n", "\n\n"),
		"no line end at its end":    strings.TrimSpace(good),
		"whitespace around it":      " \t\r\n\n" + good + "\n \t\u00a0",
		"much whitespace around it": strings.Repeat("\n", 5000) + good + strings.Repeat(" ", 5000),
		"indented":                  eachLine(good, "    "),
		"indented with tabs":        eachLine(good, "\t"),
		"spaces at line ends":       strings.ReplaceAll(good, "\n", "  \n"),
		"a mail around it":          "Hello,\nhere is my backup:\n\n" + good + "\n-- \nAda <ada@example.org> 100% \\o/\n",
		"Markdown around it":        "```\n" + good + "```\n",
		"text on the same lines":    "backup: " + strings.TrimSpace(good) + " (end)",
	}
}

func TestRepairableBackups(t *testing.T) {
	f, conn := newFake(t)
	keys := cloud{}
	c := newClient(t, f, conn, client.WithCloudKey(client.MethodICloud, keys))
	share, backup := backedUp(t, c)
	for method, good := range map[client.BackupMethod]string{client.MethodPassword: backup.CipherText, client.MethodICloud: ""} {
		if good == "" {
			made, err := c.BackupWallet(t.Context(), share, method, nil)
			require.NoError(t, err)
			good = made.CipherText
			require.NoError(t, c.ConfirmBackup(t.Context(), made, string(unarmored(t, good))), "stored as a binary file")
		}
		want, err := c.DecryptBackup(t.Context(), good, method)
		require.NoError(t, err)
		for name, text := range repairable(t, good) {
			got, err := c.DecryptBackup(t.Context(), text, method)
			require.NoError(t, err, "%s: %s", method, name)
			require.Equal(t, want.ShareSetID(), got.ShareSetID(), name)
		}
	}
}

// A binary file may end in bytes that look like whitespace. They are removed only if the file does not open with them.
func TestBinaryBackupThatEndsInWhitespace(t *testing.T) {
	f, conn := newFake(t)
	keys := cloud{}
	c := newClient(t, f, conn, client.WithCloudKey(client.MethodICloud, keys))
	share, _ := backedUp(t, c)
	found := 0
	for range 4000 { // one in 43 does
		made, err := c.BackupWallet(t.Context(), share, client.MethodICloud, nil)
		require.NoError(t, err)
		file := string(unarmored(t, made.CipherText))
		if !strings.ContainsAny(file[len(file)-1:], " \t\r\n\v\f") {
			continue
		}
		for _, behind := range []string{"", "\n", "\r\n", "  \n"} {
			got, err := c.DecryptBackup(t.Context(), file+behind, client.MethodICloud)
			require.NoError(t, err)
			require.Equal(t, made.ShareSetID, got.ShareSetID())
		}
		if found++; found == 3 {
			return
		}
	}
	t.Fatal("no file ended in whitespace")
}

// For each form that cannot be repaired safely, the error says what was found and does not quote the input.
func TestBackupErrorsSayWhatWasFound(t *testing.T) {
	f, conn := newFake(t)
	c := newClient(t, f, conn, client.WithCloudKey(client.MethodICloud, cloud{}))
	share, backup := backedUp(t, c)
	good := backup.CipherText
	file := unarmored(t, good)
	lines := strings.Split(strings.TrimSpace(good), "\n")
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	oneLine := func(between string) string {
		return lines[0] + between + strings.Join(lines[1:len(lines)-1], between) + between + lines[len(lines)-1]
	}
	for name, x := range map[string]struct{ text, says string }{
		"UTF-16, little-endian":         {"\xff\xfe" + asUTF16(binary.LittleEndian, good), "it is in UTF-16"},
		"UTF-16, big-endian":            {"\xfe\xff" + asUTF16(binary.BigEndian, good), "it is in UTF-16"},
		"UTF-16, little-endian, no BOM": {asUTF16(binary.LittleEndian, good), "it is in UTF-16"},
		"UTF-16, big-endian, no BOM":    {asUTF16(binary.BigEndian, good), "it is in UTF-16"},
		"a JSON string":                 {asJSON(t, good), "parse the JSON"},
		"a JSON answer":                 {asJSON(t, map[string]string{"cipherText": good}), "parse the JSON"},
		"a JSON list":                   {asJSON(t, []string{good}), "parse the JSON"},
		"JSON in JSON":                  {asJSON(t, asJSON(t, good)), "parse the JSON"},
		"a JSON answer without one":     {`{"cipherText": null}`, "parse the JSON"},
		"JSON's escapes without quotes": {strings.ReplaceAll(good, "\n", `\n`), "parse the JSON"},
		"JSON's escapes, CRLF":          {strings.ReplaceAll(good, "\n", `\r\n`), "parse the JSON"},
		"quotes":                        {`"` + good + `"`, "parse the JSON"},
		"PHP's escapes":                 {strings.Replace(good, lines[1], lines[1][:9]+`\/`+lines[1][10:], 1), "parse the JSON"},
		"line ends lost":                {oneLine(""), "line endings are lost"},
		"line ends are spaces":          {oneLine(" "), "line endings are lost"},
		"line ends lost within": {
			oneLine("\n")[:len(lines[0])+65] + strings.Join(lines[2:], "\n"), "line endings were moved",
		},
		"lines of 76": {
			lines[0] + "\n" + lines[1] + lines[2][:12] + "\n" + lines[2][12:] + "\n" + strings.Join(lines[3:], "\n"),
			"line endings were moved",
		},
		"a line is missing a part":         {strings.Replace(good, lines[2], lines[2][:40], 1), "line 2 of its armor has 40 characters"},
		"spaces for plus signs":            {strings.Replace(good, lines[2], lines[2][:40]+" "+lines[2][41:], 1), "spaces within its lines"},
		"a character of another alphabet":  {strings.Replace(good, lines[2], lines[2][:40]+"é"+lines[2][41:], 1), "line 2 of its armor has a character"},
		"quoted in a mail":                 {eachLine(good, "> "), "quoted as in a mail"},
		"quoted twice in a mail":           {eachLine(good, ">> "), "quoted as in a mail"},
		"quoted in a mail, text above":     {"Ada wrote:\n" + eachLine(good, ">"), "quoted as in a mail"},
		"HTML line breaks":                 {strings.ReplaceAll(good, "\n", "<br>\n"), "it has HTML in it"},
		"HTML character references":        {strings.Replace(good, lines[1], lines[1][:9]+"&#43;"+lines[1][10:], 1), "it has HTML in it"},
		"an HTML page":                     {"<!DOCTYPE html><title>" + html.EscapeString("notes") + "</title>", "an HTML or XML page"},
		"in a URL's path":                  {url.PathEscape(good), "encoded as in a URL"},
		"in a URL's query":                 {url.QueryEscape(good), "encoded as in a URL"},
		"line ends as in a URL":            {strings.ReplaceAll(good, "\n", "%0A"), "encoded as in a URL"},
		"no END line":                      {strings.Join(lines[:len(lines)-1], "\n"), "END AGE ENCRYPTED FILE-----\" is missing"},
		"a part of the END line":           {good[:len(good)-10], "END AGE ENCRYPTED FILE-----\" is missing"},
		"no BEGIN line":                    {strings.Join(lines[1:], "\n"), "BEGIN AGE ENCRYPTED FILE-----\" is missing"},
		"the BEGIN line alone":             {lines[0] + "\n", "is missing"},
		"dashes that an editor made":       {strings.Replace(good, "-----BEGIN", "\u2014\u2014-BEGIN", 1), "first line is changed"},
		"its line before the last is lost": {strings.Join(append(lines[:len(lines)-2:len(lines)-2], lines[len(lines)-1]), "\n"), "cut short or changed"},
		"the last lines are lost":          {strings.Join(append(lines[:2:2], lines[len(lines)-1]), "\n"), "cut short in its header"},
		"two":                              {good + good, "two backups"},
		"two, binary":                      {string(file) + string(file), "two age files"},
		"in armor twice":                   {armored(t, []byte(good)), "armor twice"},
		"base64 of its armor":              {base64.StdEncoding.EncodeToString([]byte(good)), "a backup in base64"},
		"base64 of it, for URLs":           {base64.RawURLEncoding.EncodeToString([]byte(good)), "a backup in base64"},
		"base64 without BEGIN and END":     {strings.Join(lines[1:len(lines)-1], "\n"), "base64 without its lines"},
		"binary, read as text":             {strings.ToValidUTF8(string(file), "\ufffd"), "cut short or changed"},
		"binary, line ends converted":      {strings.ReplaceAll(string(file), "\n", "\r\n"), "copy it as a binary file"},
		"binary, cut in its header":        {string(file[:60]), "cut short in its header"},
		"binary, cut behind its header":    {string(file[:len(header(t, good))+10]), "cut short after its header"},
		"binary, cut at its end":           {string(file[:len(file)-1]), "cut short or changed"},
		"binary, with a NUL more":          {string(file) + "\x00", "cut short or changed"},
		"binary, cut, whitespace behind":   {string(file[:len(file)-1]) + "\n\n", "cut short or changed"},
		"quoted-printable":                 {strings.Replace(good, lines[2], lines[2][:40]+"=\n"+lines[2][40:], 1), "quoted-printable"},
		"quoted-printable, CRLF":           {strings.Replace(good, lines[2], lines[2][:40]+"=\r\n"+lines[2][40:], 1), "quoted-printable"},
		"quoted-printable, its =":          {strings.Replace(good, "\n-----END", "=3D\n-----END", 1), "quoted-printable"},
		"UTF-32, little-endian":            {asUTF32(binary.LittleEndian, "\ufeff"+good), "it is in UTF-32"},
		"UTF-32, big-endian":               {asUTF32(binary.BigEndian, "\ufeff"+good), "it is in UTF-32"},
		"UTF-32, no BOM":                   {asUTF32(binary.LittleEndian, good), "it is in UTF-32"},
		"UTF-32, big-endian, no BOM":       {asUTF32(binary.BigEndian, good), "it is in UTF-32"},
		"a signing share":                  {string(share.Bytes()), "a share that is not encrypted"},
		"a share in base64":                {base64.StdEncoding.EncodeToString(share.Bytes()), "a share in base64"},
		"an age key":                       {"# created\n" + key.String() + "\n", "it is an age key"},
		"for an age key":                   {encryptedTo(t, []byte("x"), key.Recipient()), "an age key (X25519)"},
		"a PGP message":                    {"-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n", "PEM, PGP"},
		"scrypt without arguments":         {rewritten(t, good, "-> scrypt\n"), "not a backup"},
		"scrypt with a factor too long":    {rewritten(t, good, "-> scrypt AAAAAAAAAAAAAAAAAAAAAA 99999999999999999999999\n"), "more work than 2^20"},
		"scrypt with a word for a factor":  {rewritten(t, good, "-> scrypt AAAAAAAAAAAAAAAAAAAAAA notes\n"), "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.DecryptBackup(t.Context(), x.text, client.MethodPassword)
			require.ErrorIs(t, err, client.ErrNotABackup)
			require.Nil(t, got)
			require.ErrorContains(t, err, x.says)
			require.Less(t, len(err.Error()), 250, err)
			for _, secret := range []string{"notes", key.String(), lines[1], lines[2][:20]} {
				require.NotContains(t, err.Error(), secret)
			}
		})
	}
	_, err = c.DecryptBackup(t.Context(), good, client.MethodICloud)
	require.ErrorContains(t, err, "it is encrypted with a password; pass method PASSWORD")
}

// rewritten replaces the first line of a backup's stanza.
func rewritten(t testing.TB, good, stanza string) string {
	t.Helper()
	head, rest, ok := strings.Cut(string(unarmored(t, good)), "-> ")
	require.True(t, ok)
	_, rest, ok = strings.Cut(rest, "\n")
	require.True(t, ok)
	return armored(t, []byte(head+stanza+rest))
}

// Decoding arbitrary input returns one age file, or an error of bounded length that is an ErrNotABackup.
func FuzzBackupFile(f *testing.F) {
	fake, conn := newFake(f)
	c := newClient(f, fake, conn)
	c.SetWorkFactor(1)
	_, backup := backedUp(f, c)
	for _, text := range repairable(f, backup.CipherText) {
		f.Add(text)
	}
	for _, text := range []string{"", "\xff\xfe", `"` + armor.Header + `\n`, "> " + armor.Header, armor.Header + armor.Footer, rewritten(f, backup.CipherText, "-> scrypt\n")} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := client.AgeFile(text)
		if err != nil {
			require.ErrorIs(t, err, client.ErrNotABackup)
			require.Less(t, len(err.Error()), 250)
			return
		}
		require.True(t, strings.HasPrefix(string(file), "age-encryption.org/v1\n"))
		again, err := client.AgeFile(string(file))
		require.NoError(t, err)
		require.Equal(t, file, again, "%d bytes", len(text))
	})
}
