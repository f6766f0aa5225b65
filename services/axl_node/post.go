package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const postSweepAbove = 1024

// Post keeps one Outbox per destination.
type Post struct {
	cfg     Config
	overlay *Overlay
	count   *Metrics
	log     *slog.Logger
	stopped chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	boxes   map[PeerID]*Outbox
}

// NewPost makes an empty post office.
func NewPost(cfg Config, overlay *Overlay, count *Metrics, log *slog.Logger) *Post {
	return &Post{
		cfg: cfg, overlay: overlay, count: count, log: log,
		stopped: make(chan struct{}), boxes: map[PeerID]*Outbox{},
	}
}

// To returns the outbox of a destination.
func (p *Post) To(peer PeerID) *Outbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if box := p.boxes[peer]; box != nil {
		return box
	}
	if len(p.boxes) >= postSweepAbove {
		for id, box := range p.boxes {
			if box.restedFor(time.Minute) {
				delete(p.boxes, id)
			}
		}
	}
	box := &Outbox{
		peer: peer, Budget: NewBudget(p.cfg.SendQueueBytes, p.cfg.SendQueueMessages),
		dial:        func(ctx context.Context) (*PeerConn, error) { return p.overlay.Dial(ctx, peer) },
		dialTimeout: milliseconds(p.cfg.DialTimeoutMS), redialWindow: milliseconds(p.cfg.RedialWindowMS),
		count: p.count, log: p.log, stopped: p.stopped, running: &p.running, wake: make(chan struct{}, 1), used: time.Now(),
	}
	p.boxes[peer] = box
	return box
}

// Used reports the bytes and messages not yet written, and the open connections.
func (p *Post) Used() (bytes, messages, links int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, box := range p.boxes {
		b, m := box.Budget.Used()
		bytes, messages = bytes+b, messages+m
		box.mu.Lock()
		if box.up {
			links++
		}
		box.mu.Unlock()
	}
	return bytes, messages, links
}

// Flush waits until every peer has what was accepted for it, or ctx ends.
func (p *Post) Flush(ctx context.Context) bool {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if p.quiet() {
			tick.Stop()
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return false
		}
	}
}

func (p *Post) quiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, box := range p.boxes {
		if _, held := box.Budget.Used(); held > 0 || !box.Quiet() {
			return false
		}
	}
	return true
}

// Stop closes every connection.
func (p *Post) Stop() { close(p.stopped) }

// Wait returns when every connection that Stop ended is closed.
func (p *Post) Wait() { p.running.Wait() }
