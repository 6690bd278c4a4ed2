package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// maxFrame bounds a frame in bytes. The longest is a tss-lib message with DLN proofs.
const maxFrame = 512 << 10

var errFrame = errors.New("a frame that is too long")

// write writes m, prefixed by its length (4 bytes, big-endian), in one call, and clears its buffer, which may contain
// a share.
func write(w io.Writer, m proto.Message) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 4+proto.Size(m)), m)
	defer clear(b)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(b)-4 > maxFrame {
		return errFrame
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // G115: at most maxFrame
	_, err = w.Write(b)
	return err
}

// read reads what write wrote into m. It returns io.EOF between two frames.
func read(r io.Reader, m proto.Message) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return errFrame
	}
	b := make([]byte, n)
	defer clear(b)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("a frame that was cut: %w", err)
	}
	return proto.Unmarshal(b, m)
}
