package main

import (
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
type StockInbox struct {
	mu       sync.Mutex
	messages []stockMessage
	Lost     uint64
}

type stockMessage struct {
	from string
	body []byte
}

// Put appends a message, dropping the oldest of more than a hundred.
func (q *StockInbox) Put(from string, body []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) >= stockQueueMessages {
		q.messages = q.messages[1:]
		q.Lost++
	}
	q.messages = append(q.messages, stockMessage{from, body})
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

// Used reports the number of messages queued and lost so far.
func (q *StockInbox) Used() (queued int, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.messages), q.Lost
}
