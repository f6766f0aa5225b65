package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	yggconfig "github.com/yggdrasil-network/yggdrasil-go/src/config"
	"github.com/yggdrasil-network/yggdrasil-go/src/core"
	"github.com/yggdrasil-network/yggdrasil-go/src/ipv6rwc"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// stockPeer is a mesh peer that shares no code with this node: Yggdrasil's own IPv6 layer (which finds keys by
// address, and has an MTU of 1280) under a TCP stack, with raw connections on top.
type stockPeer struct {
	core   *core.Core
	stack  *stack.Stack
	uri    string
	accept *gonet.TCPListener
}

func testKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("axl_node wire transcript: " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newStockPeer(t *testing.T, key ed25519.PrivateKey, port uint16) *stockPeer {
	t.Helper()
	settings := &yggconfig.NodeConfig{PrivateKey: yggconfig.KeyBytes(key)}
	check(t, settings.GenerateSelfSignedCertificate())
	ygg, err := core.New(settings.Certificate, nil)
	check(t, err)
	t.Cleanup(ygg.Stop)
	where, err := url.Parse("tls://127.0.0.1:0")
	check(t, err)
	listener, err := ygg.Listen(where, "")
	check(t, err)
	packets := ipv6rwc.NewReadWriteCloser(ygg)
	wire := channel.New(1024, 1280, "")
	stop, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		for pkt := wire.ReadContext(stop); pkt != nil; pkt = wire.ReadContext(stop) {
			view := pkt.ToView()
			_, _ = packets.Write(view.AsSlice())
			pkt.DecRef()
		}
	}()
	go func() {
		packet := make([]byte, 65535)
		for {
			n, err := packets.Read(packet)
			if err != nil {
				return
			}
			if n > 1280 {
				t.Errorf("a packet of %d bytes came to a peer whose MTU is 1280", n)
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet[:n])})
			wire.InjectInbound(header.IPv6ProtocolNumber, pkt)
			pkt.DecRef()
		}
	}()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := s.CreateNIC(1, wire); err != nil {
		t.Fatal(err)
	}
	own := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(ygg.Address()), PrefixLen: 64}
	if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv6.ProtocolNumber, AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv6EmptySubnet, NIC: 1}})
	accept, err := gonet.ListenTCP(s, tcpip.FullAddress{Port: port}, ipv6.ProtocolNumber)
	check(t, err)
	return &stockPeer{core: ygg, stack: s, uri: "tls://" + listener.Addr().String(), accept: accept}
}

// writeOnce opens a connection to an address, writes bytes and closes it, as a stock node does for every message.
func (p *stockPeer) writeOnce(t *testing.T, to net.IP, port uint16, raw []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := gonet.DialContextTCP(ctx, p.stack, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(to), Port: port}, ipv6.ProtocolNumber)
	check(t, err)
	_, err = conn.Write(raw)
	check(t, err)
	check(t, conn.Close())
}

// readExactly reads n bytes of a connection that was accepted.
func readExactly(t *testing.T, conn net.Conn, n int) []byte {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	got := make([]byte, n)
	_, err := io.ReadFull(conn, got)
	check(t, err)
	return got
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
