package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/mpcd/mpcd/client"
)

// A second device, from the backup that the customer's API keeps.
func Example() {
	ctx := context.Background()
	conn, err := grpc.NewClient("mpcd.example.com:443", grpc.WithTransportCredentials(credentials.NewTLS(nil)))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	c, err := client.New(conn,
		client.WithDisplayName("Ada's tablet"),
		client.WithStore(func(_ context.Context, share *client.Share) error {
			return os.WriteFile("device.share", share.Bytes(), 0o600) // better: the platform's key store
		}))
	if err != nil {
		log.Fatal(err)
	}
	if err := c.SetPassword("what the user typed"); err != nil {
		log.Fatal(err)
	}
	cipherText := "what GET /users/{id}/encrypted-user-backup-shares?backupMethod=PASSWORD answered"
	share, err := c.ProvisionWallet(ctx, cipherText, client.MethodPassword, func(p client.Progress) {
		fmt.Printf("%3d%% %s\n", p.Percent, p.Status)
	})
	if err != nil {
		log.Fatal(err) // says what to do
	}
	signature, err := c.Sign(ctx, share, client.CurveEd25519, []byte("message"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%x\n", signature.Bytes)
}

// A backup counts when it was stored and read back.
func ExampleClient_BackupWallet() {
	backUp := func(ctx context.Context, c *client.Client, share *client.Share) error {
		backup, err := c.BackupWallet(ctx, share, client.MethodPassword, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile("backup.age", []byte(backup.CipherText), 0o600); err != nil {
			return err
		}
		stored, err := os.ReadFile("backup.age")
		if err != nil {
			return err
		}
		return c.ConfirmBackup(ctx, backup, string(stored))
	}
	_ = backUp
}
