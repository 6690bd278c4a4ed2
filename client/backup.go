package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/mpcd/mpcd/internal/secret"
	"github.com/mpcd/mpcd/internal/tss"
)

// A backup is an age file (age-encryption.org/v1) in ASCII armor whose plaintext is the encoded share, so any
// implementation of age can open it. A PASSWORD backup has one scrypt recipient. A backup of a cloud method has one
// X25519 recipient, and a stanza, which age ignores, with the name under which the key is stored:
//
//	-> mpcd-share-set <share set id>

const (
	minWorkFactor     = 15
	defaultWorkFactor = 18 // age's own: some 256 MiB and a second
	// A file chooses the work that each password guess costs, so it must be bounded: 1 GiB, and four times the default.
	maxWorkFactor = 20
	// The longest real backup is below 8 KiB.
	maxCipherText = 64 << 10
	setStanza     = "mpcd-share-set"
)

// Backup is a new backup. It cannot be used until ConfirmBackup has succeeded. It contains no plaintext secret.
type Backup struct {
	CipherText string // the age file to store; encrypted, but it should not be public
	Method     BackupMethod
	WalletID   string
	ShareSetID string // of the new BACKUP set

	hash   [sha256.Size]byte // of the share
	report *reporter
}

// lock encrypts and opens the backups of one method.
type lock interface {
	// recipient returns what a backup is encrypted to. If it generates a key, it stores the key first.
	recipient(ctx context.Context, shareSetID string) (age.Recipient, error)
	// identities fetches the keys that may open a file with this header.
	identities(ctx context.Context, h header) ([]age.Identity, error)
	// mismatch returns the error for a file of this method that no identity opens.
	mismatch() error
	// wipe erases the lock's secrets. The lock cannot be used afterwards.
	wipe()
}

// lockFor returns the lock of a method. It fails if the app has not configured what the method needs, so that a run
// whose result could not be encrypted is not started.
func (c *Client) lockFor(method BackupMethod) (lock, error) {
	if err := method.check(); err != nil {
		return nil, err
	}
	if method != MethodPassword {
		storage, ok := c.clouds[method]
		if !ok {
			return nil, fmt.Errorf("client: %w: %s", ErrNoKeyStorage, method)
		}
		return cloudLock{storage}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.password) == 0 {
		return nil, fmt.Errorf("client: %w", ErrNoPassword)
	}
	l := passwordLock{workFactor: c.workFactor}
	for _, form := range c.password {
		l.forms = append(l.forms, secret.New(slices.Clone(form.Reveal())))
	}
	return l, nil
}

type passwordLock struct {
	forms      []secret.Bytes // the first encrypts
	workFactor int
}

func (l passwordLock) recipient(context.Context, string) (age.Recipient, error) {
	// age wants a string, which cannot be wiped.
	r, err := age.NewScryptRecipient(string(l.forms[0].Reveal()))
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(l.workFactor)
	return r, nil
}

func (l passwordLock) identities(_ context.Context, h header) (all []age.Identity, err error) {
	if err := h.checkPassword(); err != nil {
		return nil, err
	}
	for _, form := range l.forms {
		id, err := age.NewScryptIdentity(string(form.Reveal()))
		if err != nil {
			return nil, err
		}
		id.SetMaxWorkFactor(maxWorkFactor)
		all = append(all, id)
	}
	return all, nil
}

func (l passwordLock) mismatch() error { return ErrWrongPassword }

func (l passwordLock) wipe() { wipeAll(l.forms) }

type cloudLock struct{ storage KeyStorage }

func (l cloudLock) recipient(ctx context.Context, shareSetID string) (age.Recipient, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	if err := l.storage.PutKey(ctx, shareSetID, key.String()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	return namedRecipient{key.Recipient(), setStanza, shareSetID}, nil
}

// namedRecipient adds a stanza with the name of what is encrypted. It cannot be removed: age authenticates the header.
type namedRecipient struct {
	*age.X25519Recipient
	stanza, id string
}

// Wrap implements age.Recipient.
func (r namedRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, err := r.X25519Recipient.Wrap(fileKey)
	return append(stanzas, &age.Stanza{Type: r.stanza, Args: []string{r.id}}), err
}

func (l cloudLock) identities(ctx context.Context, h header) ([]age.Identity, error) {
	if err := h.checkKey(); err != nil {
		return nil, err
	}
	id, ok := nameOf(h.text, setStanza)
	if !ok {
		return nil, notABackup("the name of its key is not the id of a share set; "+readAgain, nil)
	}
	text, err := l.storage.GetKey(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: share set %s: %w", ErrNoKey, id, err)
	}
	key, err := age.ParseX25519Identity(strings.TrimSpace(text))
	if err != nil {
		// age's error may quote the key.
		return nil, fmt.Errorf("%w: share set %s: the stored value is not a key", ErrNoKey, id)
	}
	return []age.Identity{key}, nil
}

func (l cloudLock) mismatch() error { return ErrWrongKey }

func (l cloudLock) wipe() {}

// seal encrypts a share.
func seal(ctx context.Context, l lock, share *Share) (string, error) {
	to, err := l.recipient(ctx, share.shareSetID)
	if err != nil {
		return "", fmt.Errorf("client: %w", err)
	}
	var text strings.Builder
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to)
	if err == nil {
		_, err = w.Write(share.encoded.Reveal())
	}
	if err == nil {
		err = errors.Join(w.Close(), armored.Close())
	}
	if err != nil {
		return "", fmt.Errorf("client: encrypt the backup: %w", err)
	}
	return text.String(), nil
}

// DecryptBackup opens a backup and returns its share, of purpose BACKUP. ProvisionWallet calls it itself. cipherText is
// an age file, binary or in ASCII armor; a byte order mark, other line endings, surrounding whitespace and text around
// the armor are accepted. It fails with ErrNotABackup, ErrWrongPassword, ErrWrongKey, ErrNoKey, ErrNoPassword or
// ErrNoKeyStorage.
func (c *Client) DecryptBackup(ctx context.Context, cipherText string, method BackupMethod) (*Share, error) {
	return c.open(ctx, cipherText, method, newReporter(nil, OperationProvision))
}

func (c *Client) open(ctx context.Context, cipherText string, method BackupMethod, r *reporter) (*Share, error) {
	l, err := c.lockFor(method)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	defer l.wipe()
	r.step(StatusReading, 0)
	file, err := ageFile(cipherText)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	h, err := parseHeader(file)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	identities, err := l.identities(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	r.step(StatusDecrypting, percentDecrypting)
	share, err := unlock(l, h, file, identities)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return share, nil
}

func unlock(l lock, h header, file []byte, identities []age.Identity) (*Share, error) {
	plain, err := decryptTrimmed(h, file, identities)
	defer clear(plain)
	switch {
	case errors.As(err, new(*age.NoIdentityMatchError)):
		return nil, l.mismatch()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, notABackup("it is cut short after its header; pass all of it", err)
	case errors.Is(err, errTooLong):
		return nil, notABackup("its content is larger than any share; pass a backup that BackupWallet made", err)
	case err != nil:
		return nil, notABackup("it was cut short or changed after it was made; "+readAgain, err)
	}
	share, err := ParseShare(plain)
	if err != nil {
		return nil, notABackup("its content is not a share; pass a backup that BackupWallet made", err)
	}
	if share.purpose != PurposeBackup {
		share.Wipe()
		return nil, notABackup(fmt.Sprintf("its content is a %s share, not a BACKUP share; "+
			"pass a backup that BackupWallet made", share.purpose), nil)
	}
	return share, nil
}

// maxTrailingSpace is how many bytes of whitespace after a binary file are removed, one at a time.
const maxTrailingSpace = 1024

// decryptTrimmed is decrypt for a file that may have trailing whitespace. The ciphertext itself may end in bytes that
// look like whitespace, so the file is tried unchanged first. This is safe because age authenticates the content. The
// expensive key derivation is done once.
func decryptTrimmed(h header, file []byte, identities []age.Identity) ([]byte, error) {
	key, err := age.DecryptHeader(h.text, identities...)
	defer clear(key)
	if err != nil {
		return nil, err
	}
	plain, first := decrypt(file, age.NewInjectedFileKeyIdentity(key))
	if first == nil || errors.Is(first, errTooLong) {
		return plain, first
	}
	clear(plain)
	for range maxTrailingSpace {
		n := len(file) - 1
		if n < len(h.text) || !strings.ContainsRune(asciiSpace, rune(file[n])) {
			break
		}
		file = file[:n]
		if plain, err = decrypt(file, age.NewInjectedFileKeyIdentity(key)); err == nil {
			return plain, nil
		}
		clear(plain)
	}
	return nil, first
}

// decrypt opens a binary age file that contains a share. The caller clears the result, even if there is an error.
func decrypt(file []byte, identities ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(file), identities...)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, tss.MaxShareBytes+1))
	if err == nil && len(plain) > tss.MaxShareBytes {
		err = errTooLong
	}
	return plain, err
}
