package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// frameHeaderBytes is the length prefix of the wire: u32, big-endian, counting the bytes that follow.
const frameHeaderBytes = 4

var errOversize = errors.New("message above max_message_size")

// newFrame allocates a frame for a message of n bytes and returns it whole and its body's part.
func newFrame(n int) (frame, body []byte) {
	frame = make([]byte, frameHeaderBytes+n)
	binary.BigEndian.PutUint32(frame, uint32(n))
	return frame, frame[frameHeaderBytes:]
}

// readFrameLength reads a length prefix; a length above limit is the sender's error and ends the connection.
func readFrameLength(r io.Reader, limit int) (int, error) {
	var header [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, err
	}
	length := binary.BigEndian.Uint32(header[:])
	if uint64(length) > uint64(limit) {
		return 0, fmt.Errorf("%w: %d > %d bytes", errOversize, length, limit)
	}
	return int(length), nil
}
