package main

import (
	"time"

	iwt "github.com/Arceliar/ironwood/types"
	"github.com/yggdrasil-network/yggdrasil-go/src/address"
	"github.com/yggdrasil-network/yggdrasil-go/src/core"
)

const (
	halfOpenLook    = time.Second // Yggdrasil searches a path at most once per second
	halfOpenAge     = 500 * time.Millisecond
	halfOpenNudges  = 8
	halfOpenPerLook = 64
	ipv6NoNextHead  = 59
)

// halfOpen finds the sessions whose peer has asked for one and never heard the answer, and says something into them.
//
// Yggdrasil answers a peer's request for a session once. When it has no path to the peer just then (the mesh is young,
// and the peer's branch of the tree not yet announced here), it searches once and the answer is lost with the search;
// the peer repeats the same request, which is taken for an old one, and the two cannot speak for a minute. Anything
// sent in the session makes Yggdrasil search again, and the peer, which has no such session, begins a new one.
type halfOpen struct {
	core   *core.Core
	self   address.Address
	nudged map[PeerID]int
}

// watch looks for such sessions until the overlay is closed.
func (h *halfOpen) watch(closed <-chan struct{}) {
	ticks := time.NewTicker(halfOpenLook)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
			h.look()
		case <-closed:
			return
		}
	}
}

func (h *halfOpen) look() {
	left := halfOpenPerLook // a flood of strangers' requests must not become a flood of answers
	still := map[PeerID]int{}
	for _, session := range h.core.GetSessions() {
		if session.RXBytes > 0 || session.Uptime < halfOpenAge || len(session.Key) != len(PeerID{}) {
			continue
		}
		peer := PeerID(session.Key)
		still[peer] = h.nudged[peer]
		if still[peer] < halfOpenNudges && left > 0 {
			still[peer]++
			left--
			_, _ = h.core.WriteTo(emptyPacket(h.self, addressOf(peer)), iwt.Addr(peer[:]))
		}
	}
	h.nudged = still
}

// emptyPacket is an IPv6 packet without contents, which every receiver drops.
func emptyPacket(from, to address.Address) []byte {
	packet := make([]byte, ipv6HeaderBytes)
	packet[0] = 6 << 4
	packet[6] = ipv6NoNextHead
	packet[7] = 1 // hop limit
	copy(packet[8:24], from[:])
	copy(packet[24:40], to[:])
	return packet
}
