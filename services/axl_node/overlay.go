package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/yggdrasil-network/yggdrasil-go/src/address"
	yggconfig "github.com/yggdrasil-network/yggdrasil-go/src/config"
	"github.com/yggdrasil-network/yggdrasil-go/src/core"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nicID = tcpip.NICID(1)
	// A vanished peer is noticed after some twelve seconds of unanswered retransmissions; a slow reader, which still
	// answers window probes, never is.
	tcpMinRTO        = 20 * time.Millisecond
	tcpMaxRTO        = 2 * time.Second
	tcpMaxRetries    = 12
	tcpBufferBytes   = 1 << 20
	tcpBufferMax     = 4 << 20
	maxHandshakes    = 64
	dialFirst        = 300 * time.Millisecond
	keepaliveIdle    = 30 * time.Second
	keepaliveEvery   = 5 * time.Second
	keepaliveProbes  = 3
	peeringSchemesOK = "tcp, tls, quic, ws, wss, unix"
)

// Overlay is the encrypted mesh as this node sees it: Yggdrasil's core with a TCP stack on top. It opens and admits
// connections between peers named by their whole keys; it knows nothing of messages or HTTP.
type Overlay struct {
	core    *core.Core
	stack   *stack.Stack
	link    *overlayLink
	book    *AddressBook
	tap     *AckTap
	self    PeerID
	tcpPort int
	Listens []string // the addresses peers can reach us at, with real port numbers
}

// PeerConn is one overlay TCP connection and the peer at its other end.
type PeerConn struct {
	*gonet.TCPConn
	Peer  PeerID
	acked *ackCount // outgoing connections only
	done  func()
	once  sync.Once
}

// Acked is how many written bytes the other side's TCP has acknowledged.
func (c *PeerConn) Acked() uint64 { return c.acked.Bytes() }

// Close ends the connection and lets go of what was kept for it; a second call does nothing.
func (c *PeerConn) Close() (err error) {
	c.once.Do(func() {
		c.done()
		err = c.TCPConn.Close()
	})
	return err
}

// OpenOverlay starts the mesh: listens, dials the configured peers and brings the TCP stack up.
func OpenOverlay(cfg Config, key ed25519.PrivateKey, log *slog.Logger) (*Overlay, error) {
	settings := &yggconfig.NodeConfig{PrivateKey: yggconfig.KeyBytes(key)}
	if err := settings.GenerateSelfSignedCertificate(); err != nil {
		return nil, fmt.Errorf("overlay_certificate: %w", err)
	}
	options := []core.SetupOption{}
	for _, peer := range cfg.Peers {
		options = append(options, core.Peer{URI: peer})
	}
	for _, text := range cfg.AllowedPublicKeys {
		id, err := ParsePeerID(text)
		if err != nil {
			return nil, err
		}
		options = append(options, core.AllowedPublicKey(id[:]))
	}
	ygg, err := core.New(settings.Certificate, yggLog{log}, options...)
	if err != nil {
		return nil, fmt.Errorf("overlay_start: %w", err)
	}
	o := &Overlay{core: ygg, book: NewAddressBook(), tap: NewAckTap(cfg.TCPPort), tcpPort: cfg.TCPPort}
	copy(o.self[:], ygg.PublicKey())
	if err := o.listen(cfg.Listen); err != nil {
		ygg.Stop()
		return nil, err
	}
	if err := o.raiseStack(cfg); err != nil {
		ygg.Stop()
		return nil, err
	}
	return o, nil
}

func (o *Overlay) listen(uris []string) error {
	for _, uri := range uris {
		parsed, err := url.Parse(uri)
		if err != nil {
			return fmt.Errorf("listen_bad_uri: %w", err)
		}
		listener, err := o.core.Listen(parsed, "")
		if errors.Is(err, core.ErrLinkUnrecognisedSchema) {
			return fmt.Errorf("listen_bad_uri: %s: use one of %s", uri, peeringSchemesOK)
		}
		if err != nil {
			return fmt.Errorf("listen_failed: %s: %w", uri, err)
		}
		o.Listens = append(o.Listens, parsed.Scheme+"://"+listener.Addr().String())
	}
	return nil
}

func (o *Overlay) raiseStack(cfg Config) error {
	o.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
		HandleLocal:        true, // a message to ourselves stays in the stack
	})
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	maxRTO, maxRetries := tcpip.TCPMaxRTOOption(tcpMaxRTO), tcpip.TCPMaxRetriesOption(tcpMaxRetries)
	minRTO := tcpip.TCPMinRTOOption(tcpMinRTO)
	// The stack's loss probe (RACK-TLP) is re-armed by every write, also by one that the full window holds back: a
	// client that keeps sending to a vanished peer would put the timer off for ever, and the loss would never be seen.
	var noLossProbe tcpip.TCPRecovery
	for _, option := range []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &minRTO, &maxRTO, &maxRetries, &noLossProbe,
		&tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBufferBytes, Max: tcpBufferMax},
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpBufferBytes, Max: tcpBufferMax},
	} {
		if err := o.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("overlay_stack: %T: %s", option, err)
		}
	}
	mtu := min(uint64(cfg.MTU), o.core.MTU())
	if cfg.Stock {
		mtu = minMTU
	}
	o.link = newOverlayLink(o.core, o.book, o.tap, uint32(mtu))
	o.book.Learn(o.link.self, o.self)
	var card stack.LinkEndpoint = o.link
	if cfg.Stock {
		card = newSleepyLink(o.link)
	}
	if err := o.stack.CreateNIC(nicID, card); err != nil {
		return fmt.Errorf("overlay_stack: %s", err)
	}
	own := tcpip.ProtocolAddress{
		Protocol: ipv6.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(o.core.Address()), PrefixLen: 128,
		},
	}
	if err := o.stack.AddProtocolAddress(nicID, own, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("overlay_stack: %s", err)
	}
	o.stack.SetRouteTable([]tcpip.Route{{Destination: wholeMesh(), NIC: nicID}})
	go o.link.run()
	go (&halfOpen{core: o.core, self: o.link.self}).watch(o.link.closed)
	return nil
}

// wholeMesh is 200::/8, where Yggdrasil's node addresses live.
func wholeMesh() tcpip.Subnet {
	prefix := address.GetPrefix()
	var base [16]byte
	copy(base[:], prefix[:])
	return tcpip.AddressWithPrefix{Address: tcpip.AddrFrom16(base), PrefixLen: 8 * len(prefix)}.Subnet()
}

// Dial opens a connection to a peer, wherever on the mesh it is. The first packets towards a peer are lost while the
// mesh is still searching the path to it, and TCP would ask again only after one second, then two: so ask anew, each
// time with more patience, until ctx ends.
func (o *Overlay) Dial(ctx context.Context, peer PeerID) (*PeerConn, error) {
	patience := dialFirst
	for tries := 1; ; tries++ {
		if tries%4 == 0 {
			patience *= 2
		}
		// two peers that dial each other in step would cross their session handshakes again and again
		jittered := patience/2 + rand.N(patience)
		attempt, cancel := context.WithTimeout(ctx, jittered)
		conn, err := o.dialOnce(attempt, peer)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return conn, err
		}
	}
}

func (o *Overlay) dialOnce(ctx context.Context, peer PeerID) (*PeerConn, error) {
	remote := addressOf(peer)
	if !o.book.Learn(remote, peer) {
		return nil, errors.New("another key with the same overlay address is connected")
	}
	unpin := o.book.Pin(remote)
	var queue waiter.Queue
	ep, tcpErr := o.stack.NewEndpoint(tcp.ProtocolNumber, ipv6.ProtocolNumber, &queue)
	if tcpErr != nil {
		unpin()
		return nil, errors.New(tcpErr.String())
	}
	fail := func(err error) (*PeerConn, error) {
		ep.Close()
		unpin()
		return nil, err
	}
	if err := ep.Bind(tcpip.FullAddress{Addr: tcpip.AddrFromSlice(o.core.Address())}); err != nil {
		return fail(errors.New(err.String()))
	}
	local, tcpErr := ep.GetLocalAddress()
	if tcpErr != nil {
		return fail(errors.New(tcpErr.String()))
	}
	acked := o.tap.Watch(remote, local.Port)
	done := func() { o.tap.Forget(remote, local.Port); unpin() }
	ready, connected := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&ready)
	defer queue.EventUnregister(&ready)
	tcpErr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom16(remote), Port: uint16(o.tcpPort)})
	if _, started := tcpErr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			tcpErr = ep.LastError()
		case <-ctx.Done():
			o.tap.Forget(remote, local.Port)
			return fail(fmt.Errorf("no answer: %w", ctx.Err()))
		}
	}
	if tcpErr != nil {
		o.tap.Forget(remote, local.Port)
		return fail(errors.New(tcpErr.String()))
	}
	tune(ep)
	return &PeerConn{TCPConn: gonet.NewTCPConn(&queue, ep), Peer: peer, acked: acked, done: done}, nil
}

// Admit calls accept, each time on its own goroutine, for every connection to our port whose peer passes permit.
// The others are reset, so that their sender sees a refusal and not a silence.
func (o *Overlay) Admit(permit func(PeerID) bool, accept func(*PeerConn)) {
	forwarder := tcp.NewForwarder(o.stack, 0, maxHandshakes, func(request *tcp.ForwarderRequest) {
		from := request.ID()
		remote := address.Address(from.RemoteAddress.As16())
		peer, known := o.book.Find(remote)
		if from.LocalPort != uint16(o.tcpPort) || !known || !permit(peer) {
			request.Complete(true)
			return
		}
		var queue waiter.Queue
		ep, err := request.CreateEndpoint(&queue)
		request.Complete(false)
		if err != nil {
			return
		}
		tune(ep)
		accept(&PeerConn{TCPConn: gonet.NewTCPConn(&queue, ep), Peer: peer, done: o.book.Pin(remote)})
	})
	o.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
}

func tune(ep tcpip.Endpoint) {
	ep.SocketOptions().SetDelayOption(false) // TCP_NODELAY
	ep.SocketOptions().SetKeepAlive(true)
	idle, every := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveEvery)
	_ = ep.SetSockOpt(&idle) // these three cannot fail on a TCP endpoint
	_ = ep.SetSockOpt(&every)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveProbes)
}

// Close leaves the mesh.
func (o *Overlay) Close() {
	o.core.Stop()
	o.stack.Close()
}
