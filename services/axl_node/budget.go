package main

import (
	"context"
	"sync"
)

// Budget bounds how many bytes and messages may be under way at once. Those who find it full wait in line, so
// that a large message is not overtaken for ever by small ones. A message larger than the whole budget is
// admitted when nothing else is held.
type Budget struct {
	mu                      sync.Mutex
	maxBytes, maxMessages   int
	usedBytes, usedMessages int
	line                    []*claim
}

type claim struct {
	bytes   int
	granted chan struct{}
}

// NewBudget makes an empty budget of that many bytes and messages.
func NewBudget(maxBytes, maxMessages int) *Budget {
	return &Budget{maxBytes: maxBytes, maxMessages: maxMessages}
}

// TryAcquire takes one message of that size if it fits now and nobody waits.
func (b *Budget) TryAcquire(bytes int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.line) > 0 || !b.fits(bytes) {
		return false
	}
	b.take(bytes)
	return true
}

// Acquire waits for room for one message of that size, or for the end of ctx.
func (b *Budget) Acquire(ctx context.Context, bytes int) error {
	b.mu.Lock()
	if len(b.line) == 0 && b.fits(bytes) {
		b.take(bytes)
		b.mu.Unlock()
		return nil
	}
	mine := &claim{bytes: bytes, granted: make(chan struct{})}
	b.line = append(b.line, mine)
	b.mu.Unlock()
	select {
	case <-mine.granted:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, waiting := range b.line {
		if waiting == mine {
			b.line = append(b.line[:i], b.line[i+1:]...)
			b.serve()
			return ctx.Err()
		}
	}
	return nil // granted between ctx's end and our lock
}

// Release gives one message of that size back.
func (b *Budget) Release(bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usedBytes -= bytes
	b.usedMessages--
	b.serve()
}

// Shrink corrects a message's size downwards once it is known.
func (b *Budget) Shrink(by int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usedBytes -= by
	b.serve()
}

// Used reports the bytes and messages held now.
func (b *Budget) Used() (bytes, messages int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.usedBytes, b.usedMessages
}

func (b *Budget) fits(bytes int) bool {
	return b.usedMessages == 0 || (b.usedBytes+bytes <= b.maxBytes && b.usedMessages < b.maxMessages)
}

func (b *Budget) take(bytes int) {
	b.usedBytes += bytes
	b.usedMessages++
}

func (b *Budget) serve() {
	for len(b.line) > 0 && b.fits(b.line[0].bytes) {
		b.take(b.line[0].bytes)
		close(b.line[0].granted)
		b.line = b.line[1:]
	}
}
