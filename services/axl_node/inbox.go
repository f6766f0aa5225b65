package main

import (
	"context"
	"sync"
	"time"
)

// Inbox holds what arrived and was not yet fetched: one bounded queue per sender, served in turn, so that a sender
// with much to say does not silence the others. It never drops: a full queue makes its sender's connection wait.
type Inbox struct {
	mu          sync.Mutex
	maxBytes    int
	maxMessages int
	senders     map[PeerID]*Sender
	turn        []*Sender // those with messages, next one first
	waiting     []*reader
}

// Sender is one peer's part of the inbox.
type Sender struct {
	ID     PeerID
	Budget *Budget
	queue  [][]byte
	conns  int
}

type reader struct{ handed chan *Delivery }

// Delivery is a message on its way to the local client; it ends with Done or Return.
type Delivery struct {
	Body   []byte
	Sender *Sender
	inbox  *Inbox
}

// NewInbox makes an inbox whose every sender may have that many bytes and messages waiting.
func NewInbox(maxBytes, maxMessages int) *Inbox {
	return &Inbox{maxBytes: maxBytes, maxMessages: maxMessages, senders: map[PeerID]*Sender{}}
}

// Attach announces a connection from a peer; Detach ends it.
func (b *Inbox) Attach(id PeerID) *Sender {
	b.mu.Lock()
	defer b.mu.Unlock()
	sender := b.senders[id]
	if sender == nil {
		sender = &Sender{ID: id, Budget: NewBudget(b.maxBytes, b.maxMessages)}
		b.senders[id] = sender
	}
	sender.conns++
	return sender
}

// Detach lets go of a sender; what it has queued stays to be fetched.
func (b *Inbox) Detach(sender *Sender) {
	b.mu.Lock()
	defer b.mu.Unlock()
	sender.conns--
	b.forgetIfDone(sender)
}

// Put adds a message, for which the caller holds the sender's budget.
func (b *Inbox) Put(sender *Sender, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hand(&Delivery{Body: body, Sender: sender, inbox: b}) {
		return
	}
	sender.queue = append(sender.queue, body)
	if len(sender.queue) == 1 {
		b.turn = append(b.turn, sender)
	}
}

// Take fetches one message, waiting up to wait for it; nil when none came or ctx ended.
func (b *Inbox) Take(ctx context.Context, wait time.Duration) *Delivery {
	b.mu.Lock()
	if delivery := b.next(); delivery != nil || wait <= 0 {
		b.mu.Unlock()
		return delivery
	}
	mine := &reader{handed: make(chan *Delivery, 1)}
	b.waiting = append(b.waiting, mine)
	b.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case delivery := <-mine.handed:
		return delivery
	case <-timer.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	for i, other := range b.waiting {
		if other == mine {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.mu.Unlock()
			return nil
		}
	}
	b.mu.Unlock()
	delivery := <-mine.handed // it came just as we gave up
	if ctx.Err() != nil {
		delivery.Return()
		return nil
	}
	return delivery
}

// Done says that the client has the message.
func (d *Delivery) Done() {
	d.Sender.Budget.Release(len(d.Body))
	d.inbox.mu.Lock()
	defer d.inbox.mu.Unlock()
	d.inbox.forgetIfDone(d.Sender)
}

// Return puts a message that did not reach the client back at the head of its sender's queue.
func (d *Delivery) Return() {
	b := d.inbox
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hand(d) {
		return
	}
	d.Sender.queue = append([][]byte{d.Body}, d.Sender.queue...)
	if len(d.Sender.queue) == 1 {
		b.turn = append([]*Sender{d.Sender}, b.turn...)
	}
}

// Used reports what waits: senders with a connection or messages, bytes, messages, and clients waiting for one.
func (b *Inbox) Used() (senders, bytes, messages, readers int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sender := range b.senders {
		messages += len(sender.queue)
		for _, body := range sender.queue {
			bytes += len(body)
		}
	}
	return len(b.senders), bytes, messages, len(b.waiting)
}

func (b *Inbox) hand(delivery *Delivery) bool {
	if len(b.waiting) == 0 {
		return false
	}
	b.waiting[0].handed <- delivery
	b.waiting = b.waiting[1:]
	return true
}

func (b *Inbox) next() *Delivery {
	if len(b.turn) == 0 {
		return nil
	}
	sender := b.turn[0]
	b.turn = b.turn[1:]
	body := sender.queue[0]
	sender.queue[0] = nil
	sender.queue = sender.queue[1:]
	if len(sender.queue) > 0 {
		b.turn = append(b.turn, sender)
	} else {
		sender.queue = nil
	}
	return &Delivery{Body: body, Sender: sender, inbox: b}
}

func (b *Inbox) forgetIfDone(sender *Sender) {
	if sender.conns == 0 && len(sender.queue) == 0 && b.senders[sender.ID] == sender {
		if _, messages := sender.Budget.Used(); messages == 0 {
			delete(b.senders, sender.ID)
		}
	}
}
