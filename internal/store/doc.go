// Package store keeps wallets, share sets and sessions in SQL: SQLite for now, in one
// file. It implements session.Wallets and session.Sessions, whose comments are its
// contract; package storetest holds every store to them.
//
// Ciphertexts are the only secrets it sees, and erasing means that their bytes are
// nowhere in the database or its log when the method returns. In SQLite that takes
// three things. secure_delete zeroes what a row gives up. The write-ahead log is
// truncated after every erasure. And rows with such bytes are appended and emptied in
// place, never deleted: a delete makes SQLite merge pages, and a cell that moves leaves
// a stale copy of itself behind, which secure_delete does not reach (measured: one
// trace in 2,000 erasures). A value that is sealed anew has the old one's length, so
// that SQLite writes it over the old bytes. Copies that others made (backups, a file
// system's snapshots, the disk's own spare blocks) are beyond it.
//
// It never decides what may change, never decrypts, and quotes no stored bytes in an
// error. It trusts the file system to keep what fsync was told to keep.
package store
