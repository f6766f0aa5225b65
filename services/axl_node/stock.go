package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The parts that differ when `"stock": true` makes this node behave as the stock one does, its hazards included.
// They exist so that the figures and the tests have something real to compare with.

const (
	stockQueueMessages = 100
	stockIdleSleep     = time.Millisecond
	stockPacketQueue   = 8192
)

// sleepyLink is overlayLink with the stock node's outbound pump: a queue whose reader sleeps when it finds nothing.
type sleepyLink struct {
	*overlayLink
	packets chan []byte
}

func newSleepyLink(inner *overlayLink) *sleepyLink {
	link := &sleepyLink{overlayLink: inner, packets: make(chan []byte, stockPacketQueue)}
	go link.pump()
	return link
}

func (l *sleepyLink) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	sent := 0
	for _, pkt := range list.AsSlice() {
		view := pkt.ToView()
		select {
		case l.packets <- append([]byte(nil), view.AsSlice()...):
			sent++
		default:
		}
		view.Release()
	}
	return sent, nil
}

func (l *sleepyLink) pump() {
	for {
		select {
		case packet := <-l.packets:
			l.write(packet)
		case <-l.closed:
			return
		default:
			time.Sleep(stockIdleSleep)
		}
	}
}

// StockInbox is the stock node's one queue for all senders, which forgets its oldest message when full.
//
// Every message has a connection of its own there, so a later one may arrive first. On one machine that is rare; with a
// spread above zero each message is held for a random part of it, so that it happens.
type StockInbox struct {
	mu        sync.Mutex
	messages  []stockMessage
	spread    time.Duration
	arrived   uint64
	newest    uint64
	lost      uint64
	overtaken uint64
}

type stockMessage struct {
	from string
	body []byte
}

// Arrive takes a message in, at once or after its random part of the spread, unless life ends before.
func (q *StockInbox) Arrive(life context.Context, from string, body []byte) {
	q.mu.Lock()
	q.arrived++
	number := q.arrived
	q.mu.Unlock()
	message := stockMessage{from, body}
	if q.spread <= 0 {
		q.put(number, message)
		return
	}
	timer := time.NewTimer(rand.N(q.spread))
	go func() {
		defer timer.Stop()
		select {
		case <-timer.C:
			q.put(number, message)
		case <-life.Done():
		}
	}()
}

// put appends a message, dropping the oldest of more than a hundred.
func (q *StockInbox) put(number uint64, message stockMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if number < q.newest {
		q.overtaken++
	}
	q.newest = max(q.newest, number)
	if len(q.messages) >= stockQueueMessages {
		q.messages = q.messages[1:]
		q.lost++
	}
	q.messages = append(q.messages, message)
}

// Take removes the oldest message.
func (q *StockInbox) Take() (stockMessage, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) == 0 {
		return stockMessage{}, false
	}
	first := q.messages[0]
	q.messages = q.messages[1:]
	return first, true
}

// Used reports the number of messages queued, and so far lost and overtaken by a later one.
func (q *StockInbox) Used() (queued int, lost, overtaken uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages), q.lost, q.overtaken
}
