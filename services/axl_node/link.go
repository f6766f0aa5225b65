package main

import (
	"sync/atomic"

	iwt "github.com/Arceliar/ironwood/types"
	"github.com/yggdrasil-network/yggdrasil-go/src/address"
	"github.com/yggdrasil-network/yggdrasil-go/src/core"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// overlayLink is the TCP stack's network card: packets go straight from the stack into Yggdrasil and back, with no
// queue, no polling and no TUN device between them.
type overlayLink struct {
	core       *core.Core
	self       address.Address
	book       *AddressBook
	tap        *AckTap
	mtu        atomic.Uint32
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
	replies    chan []byte
	closed     chan struct{}
}

var _ stack.LinkEndpoint = (*overlayLink)(nil)

func newOverlayLink(c *core.Core, book *AddressBook, tap *AckTap, mtu uint32) *overlayLink {
	link := &overlayLink{
		core: c, book: book, tap: tap,
		replies: make(chan []byte, 256), closed: make(chan struct{}),
	}
	copy(link.self[:], c.Address())
	link.mtu.Store(mtu)
	return link
}

// run moves packets until the overlay is closed; it is the overlay's only reader.
func (l *overlayLink) run() {
	go l.writeReplies()
	packet := make([]byte, maxMTU)
	for {
		n, from, err := l.core.ReadFrom(packet)
		if err != nil {
			close(l.closed)
			return
		}
		if sender, ok := from.(iwt.Addr); ok && len(sender) == len(PeerID{}) {
			l.inbound(packet[:n], PeerID(sender))
		}
	}
}

func (l *overlayLink) inbound(packet []byte, sender PeerID) {
	if len(packet) < ipv6HeaderBytes || packet[0]>>4 != 6 {
		return
	}
	remote := addressOf(sender)
	if address.Address(packet[8:24]) != remote || address.Address(packet[24:40]) != l.self {
		return // not the sender's own address, or not for us
	}
	if !l.book.Learn(remote, sender) {
		return
	}
	l.tap.Inbound(remote, packet)
	dispatcher := l.dispatcher.Load()
	if dispatcher == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	(*dispatcher).DeliverNetworkPacket(header.IPv6ProtocolNumber, pkt)
	pkt.DecRef()
}

// WritePackets hands packets to Yggdrasil. Its write waits for an actor that may itself be waiting for our reader, so
// packets the stack produces on the reader's own goroutine (resets and ICMP answers) go by way of another one.
func (l *overlayLink) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	sent := 0
	for _, pkt := range list.AsSlice() {
		view := pkt.ToView()
		packet := view.AsSlice()
		if isReply(packet) {
			select {
			case l.replies <- append([]byte(nil), packet...):
			default: // a flood of refusals; the other side asks again
			}
		} else {
			l.write(packet)
		}
		view.Release()
		sent++
	}
	return sent, nil
}

func isReply(packet []byte) bool {
	if len(packet) <= tcpFlagsOffset {
		return true
	}
	return packet[6] != protocolTCP || packet[tcpFlagsOffset]&tcpFlagRst != 0
}

func (l *overlayLink) write(packet []byte) {
	if len(packet) < ipv6HeaderBytes {
		return
	}
	if id, known := l.book.Find(address.Address(packet[24:40])); known {
		_, _ = l.core.WriteTo(packet, iwt.Addr(id[:])) // a lost packet is TCP's to repeat
	}
}

func (l *overlayLink) writeReplies() {
	for {
		select {
		case packet := <-l.replies:
			l.write(packet)
		case <-l.closed:
			return
		}
	}
}

// Attach keeps the stack's entry point; nil detaches.
func (l *overlayLink) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&dispatcher)
}

// Capabilities: every inbound packet has passed an authenticated cipher, so its checksum needs no second look.
// Outbound ones still carry a checksum, for stock nodes verify it.
func (l *overlayLink) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

func (l *overlayLink) IsAttached() bool                        { return l.dispatcher.Load() != nil }
func (l *overlayLink) MTU() uint32                             { return l.mtu.Load() }
func (l *overlayLink) SetMTU(mtu uint32)                       { l.mtu.Store(mtu) }
func (l *overlayLink) MaxHeaderLength() uint16                 { return 0 }
func (l *overlayLink) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *overlayLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *overlayLink) Wait()                                   {}
func (l *overlayLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *overlayLink) AddHeader(*stack.PacketBuffer)           {}
func (l *overlayLink) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *overlayLink) Close()                                  {}
func (l *overlayLink) SetOnCloseAction(func())                 {}
