package client

// SetWorkFactor makes password backups cheap, so that tests do not spend a second on each.
func (c *Client) SetWorkFactor(logN int) { c.workFactor = logN }

// The bounds on ciphertexts, for tests to cross.
const (
	DefaultWorkFactor = defaultWorkFactor
	MaxWorkFactor     = maxWorkFactor
	MaxCipherText     = maxCipherText
)
