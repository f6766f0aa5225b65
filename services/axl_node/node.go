package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	readBufferBytes = 64 << 10
	// goodbyeTravel is how long the overlay has to pass on the last packets; it tells nobody when it has.
	goodbyeTravel = 150 * time.Millisecond
)

// Node joins the overlay, the queues and the counters: what the HTTP API talks to.
type Node struct {
	cfg        Config
	log        *slog.Logger
	overlay    *Overlay
	inbox      *Inbox
	stockInbox *StockInbox
	post       *Post
	count      *Metrics
	allowed    map[PeerID]bool // nil: everyone
	life       context.Context
	end        context.CancelFunc
	closing    sync.Once
	receivers  sync.WaitGroup
}

// OpenNode joins the mesh and begins to receive.
func OpenNode(cfg Config, key ed25519.PrivateKey, log *slog.Logger) (*Node, error) {
	overlay, err := OpenOverlay(cfg, key, log)
	if err != nil {
		return nil, err
	}
	count := &Metrics{}
	n := &Node{
		cfg: cfg, log: log, overlay: overlay, count: count, stockInbox: &StockInbox{spread: milliseconds(cfg.StockReorderMS)},
		inbox: NewInbox(cfg.RecvQueueBytes, cfg.RecvQueueMessages),
		post:  NewPost(cfg, overlay, count, log),
	}
	n.life, n.end = context.WithCancel(context.Background())
	if cfg.AllowedPeers != nil {
		n.allowed = map[PeerID]bool{overlay.self: true}
		for _, text := range cfg.AllowedPeers {
			id, err := ParsePeerID(text)
			if err != nil {
				return nil, err
			}
			n.allowed[id] = true
		}
	}
	overlay.Admit(n.permit, n.receive)
	return n, nil
}

// Close waits briefly for what was accepted to leave, then leaves the mesh.
func (n *Node) Close(ctx context.Context) {
	n.closing.Do(func() {
		if !n.post.Flush(ctx) {
			n.log.Warn("closed_with_messages_unsent")
		}
		n.end()
		n.post.Stop()
		n.sayGoodbye(ctx)
		n.overlay.Close()
	})
}

// sayGoodbye lets the ends of our connections reach their peers, who would otherwise take this node for a silent one
// and go on repeating until their patience ends.
func (n *Node) sayGoodbye(ctx context.Context) {
	closed := make(chan struct{})
	go func() {
		n.receivers.Wait()
		n.post.Wait()
		time.Sleep(goodbyeTravel)
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
}

func (n *Node) permit(peer PeerID) bool {
	if n.allowed != nil && !n.allowed[peer] {
		if refused := n.count.RefusedPeers.Add(1); refused&(refused-1) == 0 { // a stranger must not fill the log
			n.log.Warn("peer_refused", "peer", peer, "refused_so_far", refused)
		}
		return false
	}
	if n.count.Connections.Load() >= int64(n.cfg.MaxConcurrentConns) {
		if refused := n.count.RefusedBusy.Add(1); refused&(refused-1) == 0 {
			n.log.Warn("connection_refused", "peer", peer, "why", "max_concurrent_conns", "refused_so_far", refused)
		}
		return false
	}
	return true
}

// receive reads one inbound connection to its end.
func (n *Node) receive(conn *PeerConn) {
	n.receivers.Add(1)
	defer n.receivers.Done()
	n.count.Connections.Add(1)
	sender := n.inbox.Attach(conn.Peer)
	stop := context.AfterFunc(n.life, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
		n.inbox.Detach(sender)
		n.count.Connections.Add(-1)
	}()
	input := bufio.NewReaderSize(conn, readBufferBytes)
	for {
		if err := n.receiveOne(conn, input, sender); err != nil {
			if !errors.Is(err, io.EOF) && n.life.Err() == nil {
				n.log.Info("connection_ended", "peer", conn.Peer, "error", err.Error())
			}
			return
		}
	}
}

func (n *Node) receiveOne(conn *PeerConn, input *bufio.Reader, sender *Sender) error {
	if input.Buffered() < frameHeaderBytes {
		_ = conn.SetReadDeadline(time.Now().Add(seconds(n.cfg.ConnIdleTimeoutSecs)))
	}
	length, err := readFrameLength(input, n.cfg.MaxMessageSize)
	if err != nil {
		if errors.Is(err, errOversize) {
			n.count.Oversize.Add(1)
		}
		return err
	}
	if !n.cfg.Stock && !sender.Budget.TryAcquire(length) {
		// Not reading on is what tells the sender: its TCP window closes, its queue fills, its client is told to wait.
		n.count.PushbackRecv.Add(1)
		if err := sender.Budget.Acquire(n.life, length); err != nil {
			return err
		}
	}
	if input.Buffered() < length {
		_ = conn.SetReadDeadline(time.Now().Add(seconds(n.cfg.ConnReadTimeoutSecs)))
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(input, body); err != nil {
		if !n.cfg.Stock {
			sender.Budget.Release(length)
		}
		return err
	}
	n.count.FramesReceived.Add(1)
	n.count.BytesReceived.Add(uint64(length))
	if n.cfg.Stock {
		n.stockInbox.Arrive(n.life, truncatedID(addressOf(conn.Peer)), body)
	} else {
		n.inbox.Put(sender, body)
	}
	return nil
}
