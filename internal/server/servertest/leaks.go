package servertest

import "github.com/mpcd/mpcd/internal/leaks"

// Leaks says how a text shows a secret of a client share, if it does.
func Leaks(text, share []byte) (how []string) { return leaks.Find(text, share) }
