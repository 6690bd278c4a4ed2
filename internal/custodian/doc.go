// Package custodian is a reference implementation of an external custodian, which keeps the server shares of BACKUP
// sets: it receives mpcd's webhooks, and has the API from which a user's app gets its encrypted backups. It is meant
// for evaluation and for tests; customers build this into a service of their own.
//
// It rejects messages that are unsigned, old or repeated. What it stores is as sensitive as any share, and it
// encrypts nothing itself: its disk must be encrypted. It never sees a key that decrypts a user's backup. It imports
// nothing of mpcd's but package secret.
package custodian
