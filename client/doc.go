// Package client is mpcd's Go SDK: one call for each operation, a progress callback,
// and the encryption of backups, which the service never sees.
//
//	c, err := client.New(conn, client.WithStore(saveOnThisDevice))
//	err = c.SetPassword(password)
//	share, err := c.ProvisionWallet(ctx, cipherText, client.MethodPassword,
//		func(p client.Progress) { show(p.Status, p.Percent, p.Done) })
//	signature, err := c.Sign(ctx, share, client.CurveEd25519, message)
//
// A new share set counts only when both shares are safe: the SDK hands the new share to
// the app's store first and confirms the set to the service after that. It asks for every
// share encrypted to a key that it makes for the one call, holds every answer against what
// it asked for, and verifies every signature. With WithDeviceHeldShares it runs the client's
// side itself, so that no share leaves the device. It trusts the app's storage and callbacks;
// it keeps nothing on disk, logs nothing and starts no goroutine that outlives a call.
package client
