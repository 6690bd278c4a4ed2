// Package client is mpcd's Go SDK: one call for each operation, a progress callback, and the encryption of backups,
// which the service never sees in the clear.
//
//	c, err := client.New(conn, client.WithStore(saveOnThisDevice))
//	err = c.SetPassword(password)
//	share, err := c.ProvisionWallet(ctx, cipherText, client.MethodPassword,
//		func(p client.Progress) { show(p.Status, p.Percent, p.Done) })
//	signature, err := c.Sign(ctx, share, client.CurveEd25519, message)
//
// A new share set becomes usable only when both shares are stored: the SDK passes the new share to the app's store, and
// then confirms the set to the service. Every share is requested encrypted to a key made for that one call, every
// answer is checked against the request, and every signature is verified. With WithDeviceHeldShares the client's side
// runs in this process, so that no share leaves the device. The SDK trusts the app's storage and callbacks. It keeps
// nothing on disk, logs nothing and starts no goroutine that outlives a call.
package client
