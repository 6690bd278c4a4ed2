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

	"github.com/mpcd/mpcd/internal/tss"
)

// A backup is an age file (age-encryption.org/v1) in ASCII armor, and its plaintext the
// encoded share, so that any implementation of age opens it. A PASSWORD backup has one
// scrypt recipient. One of a cloud method has one X25519 recipient and beside it a stanza
// that says under which name the key was kept, and that age ignores:
//
//	-> mpcd-share-set <share set id>

const (
	defaultWorkFactor = 18 // age's own: some 256 MiB and a second
	// A file says how much work it takes to try a password, so there must be an end to it:
	// 1 GiB and four times the work of our own.
	maxWorkFactor = 20
	// The longest real backup is below 8 KiB.
	maxCipherText = 64 << 10
	setStanza     = "mpcd-share-set"
)

// Backup is a new backup, which does not count before ConfirmBackup. It holds no secret in
// the clear.
type Backup struct {
	CipherText string // the age file to store; not a secret, but not for everybody either
	Method     BackupMethod
	WalletID   string
	ShareSetID string // of the new BACKUP set

	hash   [sha256.Size]byte // of the share
	report *reporter
}

// lock encrypts and opens the backups of one method.
type lock interface {
	// recipient makes whatever key the backup needs, and keeps it.
	recipient(ctx context.Context, shareSetID string) (age.Recipient, error)
	// identity fetches the key that opens a binary age file.
	identity(ctx context.Context, file []byte) (age.Identity, error)
	// noMatch says what it means that the identity opens none of the file's stanzas.
	noMatch(types []string) error
}

// lockFor fails when the app has not given what the method needs, so that no run is started
// for nothing.
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
	if c.password.Len() == 0 {
		return nil, fmt.Errorf("client: %w", ErrNoPassword)
	}
	// age wants a string, which cannot be wiped.
	return passwordLock{password: string(c.password.Reveal()), workFactor: c.workFactor}, nil
}

type passwordLock struct {
	password   string
	workFactor int
}

func (l passwordLock) recipient(context.Context, string) (age.Recipient, error) {
	r, err := age.NewScryptRecipient(l.password)
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(l.workFactor)
	return r, nil
}

func (l passwordLock) identity(context.Context, []byte) (age.Identity, error) {
	id, err := age.NewScryptIdentity(l.password)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(maxWorkFactor)
	return id, nil
}

func (l passwordLock) noMatch(types []string) error {
	if !slices.Contains(types, "scrypt") {
		return notABackup("it is not encrypted with a password; was it made with another method?", nil)
	}
	return ErrWrongPassword
}

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

// namedRecipient adds a stanza with the name of what is encrypted, which nobody can take
// off: age authenticates the header.
type namedRecipient struct {
	*age.X25519Recipient
	stanza, id string
}

// Wrap implements age.Recipient.
func (r namedRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, err := r.X25519Recipient.Wrap(fileKey)
	return append(stanzas, &age.Stanza{Type: r.stanza, Args: []string{r.id}}), err
}

func (l cloudLock) identity(ctx context.Context, file []byte) (age.Identity, error) {
	header, err := age.ExtractHeader(bytes.NewReader(file))
	if err != nil {
		return nil, notABackup("it is not an age file", err)
	}
	id, ok := nameOf(header, setStanza)
	if !ok {
		return nil, notABackup("it does not name its key; was it made with another method?", nil)
	}
	text, err := l.storage.GetKey(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: share set %s: %w", ErrNoKey, id, err)
	}
	key, err := age.ParseX25519Identity(strings.TrimSpace(text))
	if err != nil {
		// age's error may quote the key.
		return nil, fmt.Errorf("%w: share set %s: what is there is not a key", ErrNoKey, id)
	}
	return key, nil
}

func (l cloudLock) noMatch([]string) error { return ErrWrongKey }

// nameOf finds the id in an age header's stanza. It comes from outside: only a UUID is
// handed to the app's storage.
func nameOf(header []byte, stanza string) (string, bool) {
	for line := range strings.Lines(string(header)) {
		id, ok := strings.CutPrefix(line, "-> "+stanza+" ")
		if !ok {
			continue
		}
		if id, err := ParseID(strings.TrimSuffix(id, "\n")); err == nil {
			return id, true
		}
	}
	return "", false
}

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

// DecryptBackup opens a backup and returns its share, of purpose BACKUP. ProvisionWallet
// does this by itself. It fails with ErrNotABackup, ErrWrongPassword, ErrWrongKey, ErrNoKey
// and what the lack of a password or a key storage is.
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
	r.step(StatusReading, 0)
	if len(cipherText) > maxCipherText {
		return nil, fmt.Errorf("client: %w", notABackup(fmt.Sprintf("it has more than %d bytes", maxCipherText), nil))
	}
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(strings.TrimSpace(cipherText))))
	if err != nil {
		return nil, fmt.Errorf("client: %w", notABackup("it is not a whole age file in ASCII armor", err))
	}
	identity, err := l.identity(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	r.step(StatusDecrypting, percentDecrypting)
	share, err := unlock(l, file, identity)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return share, nil
}

func unlock(l lock, file []byte, identity age.Identity) (*Share, error) {
	plain, err := decrypt(file, identity)
	defer clear(plain)
	var other *age.NoIdentityMatchError
	switch {
	case errors.As(err, &other):
		return nil, l.noMatch(other.StanzaTypes)
	case err != nil:
		return nil, notABackup("it cannot be decrypted: cut short, changed, or asking for too much work", err)
	}
	share, err := ParseShare(plain)
	if err != nil {
		return nil, notABackup("what it holds is not a share", err)
	}
	if share.purpose != PurposeBackup {
		share.Wipe()
		return nil, notABackup(fmt.Sprintf("what it holds is a %s share", share.purpose), nil)
	}
	return share, nil
}

var errTooLong = errors.New("longer than any share")

// decrypt opens a binary age file that holds a share. The caller clears what it returns,
// with an error too.
func decrypt(file []byte, identity age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(file), identity)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, tss.MaxShareBytes+1))
	if err == nil && len(plain) > tss.MaxShareBytes {
		err = errTooLong
	}
	return plain, err
}

// backupError is an ErrNotABackup whose text has a fixed length: its cause may quote what
// somebody took for a backup.
type backupError struct {
	what  string
	cause error
}

func notABackup(what string, cause error) error { return &backupError{what, cause} }

// Error implements error.
func (e *backupError) Error() string { return ErrNotABackup.Error() + ": " + e.what }

// Unwrap returns ErrNotABackup and the cause, if there is one.
func (e *backupError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrNotABackup}
	}
	return []error{ErrNotABackup, e.cause}
}
