// Package custodian is a reference for who keeps the server's halves of BACKUP sets
// himself: the receiver of mpcd's webhooks, and the API from which a user's app gets the
// ciphertext of its backup. It is for trying things out, and what the tests run against; a
// customer builds this into a service that is there already.
//
// It trusts no message that is not signed, or old, or came before. What it keeps is as
// secret as a share; it encrypts nothing by itself, so that its disk must be. It never sees
// a key of a backup's ciphertext. It imports nothing of mpcd's but secrets.
package custodian
