package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	writeBatchBytes = 64 << 10
	ackCheckEvery   = 100 * time.Millisecond
	redialFirst     = 50 * time.Millisecond
	redialMax       = 2 * time.Second
	maxTries        = 2 // a frame is written to at most two connections
)

// Outbox sends to one peer over one kept-open connection, in order. A message that was accepted is written, and
// written once more when the connection broke before the other side's TCP had all of it; so after a break a message
// may arrive twice.
type Outbox struct {
	peer         PeerID
	Budget       *Budget
	dial         func(context.Context) (*PeerConn, error)
	dialTimeout  time.Duration
	redialWindow time.Duration
	count        *Metrics
	log          *slog.Logger
	stopped      <-chan struct{}
	running      *sync.WaitGroup

	mu      sync.Mutex
	up      bool
	opened  bool     // there was a connection before
	dialing *dialing // nil while up or at rest
	queue   []*outFrame
	unacked int // written frames the other side may not have yet
	wake    chan struct{}
	used    time.Time
}

type dialing struct {
	done chan struct{}
	err  error
	kick chan struct{}
}

type outFrame struct {
	bytes []byte // length prefix and body
	end   uint64 // where it ends in the connection's byte stream
	tries int
}

func newDialing() *dialing {
	return &dialing{done: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// Ready waits until a connection to the peer is open, opening one if need be.
func (o *Outbox) Ready(ctx context.Context) error {
	o.mu.Lock()
	o.used = time.Now()
	if o.up {
		o.mu.Unlock()
		return nil
	}
	if o.dialing == nil {
		o.dialing = newDialing()
		o.start(o.dialing)
	}
	attempt := o.dialing
	o.mu.Unlock()
	select {
	case attempt.kick <- struct{}{}:
	default:
	}
	select {
	case <-attempt.done:
		return attempt.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Put queues a frame, for whose body the caller holds the budget.
func (o *Outbox) Put(frame []byte) {
	o.mu.Lock()
	o.queue = append(o.queue, &outFrame{bytes: frame})
	if !o.up && o.dialing == nil { // the connection ended since Ready
		o.dialing = newDialing()
		o.start(o.dialing)
	}
	o.mu.Unlock()
	o.nudge()
}

// Quiet reports whether everything accepted has reached the other side's TCP.
func (o *Outbox) Quiet() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) == 0 && o.unacked == 0
}

// restedFor reports whether the outbox has had neither a connection nor a message for that long.
func (o *Outbox) restedFor(span time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, held := o.Budget.Used()
	return !o.up && o.dialing == nil && held == 0 && time.Since(o.used) > span
}

func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Outbox) start(attempt *dialing) {
	o.running.Add(1)
	go func() {
		defer o.running.Done()
		o.run(attempt)
	}()
}

// run lives from the first dial until nothing is left to send and the connection is gone.
func (o *Outbox) run(attempt *dialing) {
	var again []*outFrame // to be written once more, before the queue
	var giveUp time.Time
	pause := redialFirst
	for {
		ctx, cancel := context.WithTimeout(context.Background(), o.dialTimeout)
		conn, err := o.dial(ctx)
		cancel()
		if err == nil {
			giveUp, pause = time.Time{}, redialFirst
			o.mu.Lock()
			if o.opened {
				o.count.Reconnects.Add(1)
			}
			o.up, o.opened, o.dialing = true, true, nil
			o.mu.Unlock()
			close(attempt.done)
			again = o.serve(conn, again)
			if attempt = o.afterClose(len(again)); attempt == nil {
				return
			}
			continue
		}
		if giveUp.IsZero() {
			giveUp = time.Now().Add(o.redialWindow)
		}
		attempt.err = err
		next := o.afterFailure(again, time.Now().After(giveUp), err)
		close(attempt.done)
		if attempt = next; attempt == nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-attempt.kick:
		case <-o.stopped:
			return
		}
		pause = min(2*pause, redialMax)
	}
}

func (o *Outbox) afterClose(again int) *dialing {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up, o.unacked = false, again
	select {
	case <-o.stopped:
		return nil
	default:
	}
	if again == 0 && len(o.queue) == 0 {
		return nil
	}
	o.dialing = newDialing()
	return o.dialing
}

func (o *Outbox) afterFailure(again []*outFrame, over bool, err error) *dialing {
	o.mu.Lock()
	defer o.mu.Unlock()
	if left := len(again) + len(o.queue); left > 0 && !over {
		o.dialing = newDialing()
		return o.dialing
	} else if left > 0 {
		for _, frame := range o.queue {
			o.Budget.Release(frame.size())
		}
		o.queue, o.unacked = nil, 0
		o.count.Lost.Add(uint64(left))
		o.log.Error("messages_lost", "peer", o.peer, "messages", left, "why", "peer unreachable for redial_window_ms", "error", err.Error())
	}
	o.dialing = nil
	return nil
}

func (f *outFrame) size() int { return len(f.bytes) - frameHeaderBytes }

// serve writes until the connection ends and returns the frames the other side may not have got.
func (o *Outbox) serve(conn *PeerConn, again []*outFrame) []*outFrame {
	ended := make(chan struct{})
	go func() { // without a reader nobody would notice that the other side has closed
		_, _ = io.Copy(io.Discard, conn)
		close(ended)
		_ = conn.Close()
	}()
	defer func() { _ = conn.Close() }()
	s := sending{outbox: o, conn: conn}
	if !s.write(again, false) {
		return s.left()
	}
	for {
		o.mu.Lock()
		batch := o.queue
		o.queue = nil
		o.mu.Unlock()
		if len(batch) > 0 {
			if !s.write(batch, true) {
				return s.left()
			}
			continue
		}
		var check <-chan time.Time
		if s.prune() > 0 {
			check = time.After(ackCheckEvery)
		}
		select {
		case <-o.wake:
		case <-check:
		case <-ended:
			return s.left()
		case <-o.stopped:
			return s.left()
		}
	}
}

// sending is one connection's state of writing.
type sending struct {
	outbox  *Outbox
	conn    *PeerConn
	written uint64
	sent    []*outFrame // written, not yet known to be acknowledged
	again   []*outFrame // not written, from an earlier connection
}

// write puts frames on the wire, small ones together. Frames it could not write go back where they came from.
func (s *sending) write(frames []*outFrame, fromQueue bool) bool {
	for len(frames) > 0 {
		n, bytes := 1, frames[0].bytes
		if len(frames) > 1 && len(bytes)+len(frames[1].bytes) <= writeBatchBytes {
			bytes = make([]byte, 0, writeBatchBytes)
			for n = 0; n < len(frames) && len(bytes)+len(frames[n].bytes) <= writeBatchBytes; n++ {
				bytes = append(bytes, frames[n].bytes...)
			}
		}
		if fromQueue {
			s.prune()
		}
		for _, frame := range frames[:n] {
			s.written += uint64(len(frame.bytes))
			frame.end = s.written
			frame.tries++
		}
		_, err := s.conn.Write(bytes)
		if fromQueue {
			for _, frame := range frames[:n] {
				s.outbox.Budget.Release(frame.size())
			}
		}
		s.sent = append(s.sent, frames[:n]...)
		frames = frames[n:]
		if err != nil {
			if fromQueue {
				s.outbox.mu.Lock()
				s.outbox.queue = append(frames, s.outbox.queue...)
				s.outbox.mu.Unlock()
			} else {
				s.again = frames
			}
			return false
		}
	}
	return true
}

// prune forgets frames that were acknowledged, and returns how many were not.
func (s *sending) prune() int {
	sure := s.conn.Acked()
	if margin := uint64(2 * tcpBufferMax); s.written > margin {
		sure = max(sure, s.written-margin) // the TCP stack holds less than this
	}
	done := 0
	for done < len(s.sent) && s.sent[done].end <= sure {
		s.sent[done] = nil
		done++
	}
	if s.sent = s.sent[done:]; len(s.sent) == 0 {
		s.sent = nil
	}
	s.outbox.mu.Lock()
	s.outbox.unacked = len(s.sent)
	s.outbox.mu.Unlock()
	return len(s.sent)
}

// left is what must be written again; a frame that broke two connections is given up.
func (s *sending) left() []*outFrame {
	s.prune()
	var again []*outFrame
	lost := 0
	for _, frame := range append(s.sent, s.again...) {
		if frame.tries >= maxTries {
			lost++
			continue
		}
		again = append(again, frame)
	}
	s.outbox.count.Retried.Add(uint64(len(again)))
	if lost > 0 {
		s.outbox.count.Lost.Add(uint64(lost))
		s.outbox.log.Error("messages_lost", "peer", s.outbox.peer, "messages", lost, "why", "two connections broke under them")
	}
	return again
}
