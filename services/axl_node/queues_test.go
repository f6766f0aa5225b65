package main

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/yggdrasil-network/yggdrasil-go/src/address"
)

func TestBudgetServesInLine(t *testing.T) {
	budget := NewBudget(10, 5)
	if !budget.TryAcquire(8) || budget.TryAcquire(3) {
		t.Fatal("8 of 10 fit, 3 more do not")
	}
	order := make(chan int, 2)
	queued := func(n int) bool {
		budget.mu.Lock()
		defer budget.mu.Unlock()
		return len(budget.line) == n
	}
	go func() { _ = budget.Acquire(context.Background(), 9); order <- 9 }()
	waitFor(t, func() bool { return queued(1) })
	go func() { _ = budget.Acquire(context.Background(), 1); order <- 1 }()
	waitFor(t, func() bool { return queued(2) })
	if budget.TryAcquire(1) {
		t.Error("a small one overtook the line")
	}
	budget.Release(8)
	if first, second := <-order, <-order; first+second != 10 {
		t.Errorf("served %d and %d", first, second)
	}
	if bytes, messages := budget.Used(); bytes != 10 || messages != 2 {
		t.Errorf("%d bytes, %d messages held", bytes, messages)
	}
}

func TestBudgetForgetsThoseWhoLeave(t *testing.T) {
	budget := NewBudget(10, 5)
	budget.TryAcquire(10)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := budget.Acquire(ctx, 4); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	budget.Release(10)
	if bytes, messages := budget.Used(); bytes != 0 || messages != 0 {
		t.Errorf("%d bytes, %d messages held", bytes, messages)
	}
}

func TestBudgetAdmitsOneLargerThanItself(t *testing.T) {
	budget := NewBudget(10, 5)
	if !budget.TryAcquire(11) || budget.TryAcquire(0) {
		t.Error("alone it may pass, and nothing beside it")
	}
}

func TestInboxServesSendersInTurn(t *testing.T) {
	inbox := NewInbox(100, 100)
	a, b := inbox.Attach(PeerID{1}), inbox.Attach(PeerID{2})
	for _, text := range []string{"a1", "a2", "a3"} {
		a.Budget.TryAcquire(2)
		inbox.Put(a, []byte(text))
	}
	b.Budget.TryAcquire(2)
	inbox.Put(b, []byte("b1"))
	got := ""
	for range 4 {
		delivery := inbox.Take(context.Background(), 0)
		got += string(delivery.Body) + " "
		delivery.Done()
	}
	if got != "a1 b1 a2 a3 " {
		t.Errorf("got %s", got)
	}
	if inbox.Take(context.Background(), 0) != nil {
		t.Error("a message too many")
	}
	inbox.Detach(a)
	inbox.Detach(b)
	if senders, _, _, _ := inbox.Used(); senders != 0 {
		t.Errorf("%d senders are remembered", senders)
	}
}

func TestInboxReturnKeepsTheOrder(t *testing.T) {
	inbox := NewInbox(100, 100)
	a := inbox.Attach(PeerID{1})
	for _, text := range []string{"1", "2"} {
		a.Budget.TryAcquire(1)
		inbox.Put(a, []byte(text))
	}
	inbox.Take(context.Background(), 0).Return()
	for _, want := range []string{"1", "2"} {
		delivery := inbox.Take(context.Background(), 0)
		if string(delivery.Body) != want {
			t.Fatalf("got %s, want %s", delivery.Body, want)
		}
		delivery.Done()
	}
}

func TestInboxCancelledReaderTakesNothing(t *testing.T) {
	inbox := NewInbox(100, 100)
	a := inbox.Attach(PeerID{1})
	for range 200 { // the message and the reader's leaving race
		ctx, cancel := context.WithCancel(context.Background())
		gone := make(chan *Delivery)
		go func() { gone <- inbox.Take(ctx, time.Minute) }()
		a.Budget.TryAcquire(1)
		go cancel()
		inbox.Put(a, []byte("x"))
		delivery := <-gone
		if delivery == nil {
			delivery = inbox.Take(context.Background(), 0)
		}
		if delivery == nil {
			t.Fatal("the message is gone")
		}
		delivery.Done()
	}
}

func TestAckTapCountsAcrossTheWrap(t *testing.T) {
	tap := NewAckTap(7000)
	remote := address.Address{2, 1}
	count := tap.Watch(remote, 5555)
	see := func(ack uint32, flags byte) {
		packet := make([]byte, ipv6HeaderBytes+20)
		packet[6] = protocolTCP
		binary.BigEndian.PutUint16(packet[40:], 7000)
		binary.BigEndian.PutUint16(packet[42:], 5555)
		binary.BigEndian.PutUint32(packet[48:], ack)
		packet[tcpFlagsOffset] = flags
		tap.Inbound(remote, packet)
	}
	see(0xffffff00, tcpFlagAck) // of an earlier connection: not counted before the handshake
	see(0xffffff00, tcpFlagAck|tcpFlagSyn)
	for _, step := range []struct {
		ack   uint32
		flags byte
		want  uint64
	}{
		{0xffffff00, tcpFlagAck, 0},
		{0xffffff80, tcpFlagAck, 0x80},
		{0x00000010, tcpFlagAck, 0x110},
		{0xffffffa0, tcpFlagAck, 0x110}, // late
		{0x00000400, tcpFlagAck | tcpFlagRst, 0x110},
		{0x00000020, tcpFlagAck, 0x120},
	} {
		see(step.ack, step.flags)
		if got := count.Bytes(); got != step.want {
			t.Errorf("after %#x: %#x acknowledged, want %#x", step.ack, got, step.want)
		}
	}
	tap.Forget(remote, 5555)
	see(0x00000030, tcpFlagAck)
	if got := count.Bytes(); got != 0x120 {
		t.Errorf("counted after Forget: %#x", got)
	}
}

func TestStockInboxLetsLaterMessagesOvertake(t *testing.T) {
	inbox := &StockInbox{spread: 20 * time.Millisecond}
	for number := range byte(60) {
		inbox.Arrive(context.Background(), "someone", []byte{number})
	}
	waitFor(t, func() bool { queued, _, _ := inbox.Used(); return queued == 60 })
	seen, inOrder := map[byte]bool{}, true
	for last := -1; ; {
		message, found := inbox.Take()
		if !found {
			break
		}
		seen[message.body[0]] = true
		inOrder = inOrder && int(message.body[0]) > last
		last = int(message.body[0])
	}
	_, lost, overtaken := inbox.Used()
	if len(seen) != 60 || lost != 0 || inOrder || overtaken == 0 {
		t.Errorf("%d of 60 messages, %d lost, in order: %v, %d overtaken", len(seen), lost, inOrder, overtaken)
	}
}

func TestStockInboxForgetsTheOldest(t *testing.T) {
	inbox := &StockInbox{}
	for number := range byte(150) {
		inbox.Arrive(context.Background(), "someone", []byte{number})
	}
	queued, lost, overtaken := inbox.Used()
	first, _ := inbox.Take()
	if queued != 100 || lost != 50 || overtaken != 0 || first.body[0] != 50 {
		t.Errorf("%d queued, %d lost, %d overtaken, %d first", queued, lost, overtaken, first.body[0])
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !condition(); {
		if time.Now().After(end) {
			t.Fatal("did not come about")
		}
		time.Sleep(time.Millisecond)
	}
}
