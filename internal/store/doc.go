// Package store keeps wallets, share sets and sessions in SQL: for now SQLite, in one file. It implements
// session.Wallets and session.Sessions, whose comments are its contract; package storetest tests a store against
// them.
//
// The only secrets it sees are encrypted. Erasing means that the bytes are nowhere in the database or its log when
// the method returns. In SQLite that takes three things. secure_delete zeroes the content that a row gives up. The
// write-ahead log is truncated after every erasure. And rows with such bytes are appended and emptied in place, never
// deleted: a delete makes SQLite merge pages, and a cell that moves leaves a stale copy behind that secure_delete
// does not reach (measured: one trace in 2,000 erasures). A resealed value has the same length as the old one, so
// that SQLite overwrites the old bytes. Copies made elsewhere (backups, file system snapshots, the disk's spare
// blocks) are beyond its reach.
//
// It makes no policy decisions, never decrypts, and quotes no stored bytes in an error. It trusts the file system to
// keep what it has synced.
package store
