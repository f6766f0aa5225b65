package main

import (
	"encoding/binary"
	"sync"

	"github.com/yggdrasil-network/yggdrasil-go/src/address"
)

const (
	ipv6HeaderBytes = 40
	tcpFlagsOffset  = ipv6HeaderBytes + 13
	tcpFlagSyn      = 0x02
	tcpFlagRst      = 0x04
	tcpFlagAck      = 0x10
	protocolTCP     = 6
)

// AckTap counts how many bytes of each of our outgoing connections the other side has acknowledged. The TCP stack
// does not tell; but every packet passes through here, and a connection that breaks must know what to send again.
type AckTap struct {
	mu    sync.RWMutex
	taps  map[tapKey]*ackCount
	wires uint16 // the overlay's TCP port, the remote port of all our connections
}

type tapKey struct {
	remote    address.Address
	localPort uint16
}

type ackCount struct {
	mu      sync.Mutex
	started bool
	last    uint32 // highest acknowledgement number seen
	bytes   uint64 // acknowledged since the connection was opened
}

// NewAckTap watches connections to that overlay TCP port.
func NewAckTap(tcpPort int) *AckTap {
	return &AckTap{taps: map[tapKey]*ackCount{}, wires: uint16(tcpPort)}
}

// Watch begins to count for a connection that is about to be opened.
func (t *AckTap) Watch(remote address.Address, localPort uint16) *ackCount {
	count := &ackCount{}
	t.mu.Lock()
	t.taps[tapKey{remote, localPort}] = count
	t.mu.Unlock()
	return count
}

// Forget ends the counting.
func (t *AckTap) Forget(remote address.Address, localPort uint16) {
	t.mu.Lock()
	delete(t.taps, tapKey{remote, localPort})
	t.mu.Unlock()
}

// Inbound looks at one IPv6 packet from remote.
func (t *AckTap) Inbound(remote address.Address, packet []byte) {
	if len(packet) < ipv6HeaderBytes+20 || packet[6] != protocolTCP {
		return
	}
	segment := packet[ipv6HeaderBytes:]
	flags := packet[tcpFlagsOffset]
	if binary.BigEndian.Uint16(segment) != t.wires || flags&tcpFlagAck == 0 || flags&tcpFlagRst != 0 {
		return
	}
	t.mu.RLock()
	count := t.taps[tapKey{remote, binary.BigEndian.Uint16(segment[2:])}]
	t.mu.RUnlock()
	if count != nil {
		count.see(binary.BigEndian.Uint32(segment[8:]), flags&tcpFlagSyn != 0)
	}
}

func (c *ackCount) see(ack uint32, syn bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started {
		if syn { // the SYN-ACK acknowledges our SYN and no byte yet
			c.started, c.last = true, ack
		}
		return
	}
	if ahead := ack - c.last; ahead < 1<<31 {
		c.last = ack
		c.bytes += uint64(ahead)
	}
}

// Bytes is how much of what was written has been acknowledged.
func (c *ackCount) Bytes() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
