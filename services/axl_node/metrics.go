package main

import (
	"fmt"
	"io"
	"sync/atomic"
)

// Metrics counts what happened since the node started.
type Metrics struct {
	FramesSent, BytesSent         atomic.Uint64
	FramesReceived, BytesReceived atomic.Uint64
	FramesDelivered               atomic.Uint64
	Returned                      atomic.Uint64
	Reconnects, Retried, Lost     atomic.Uint64
	RefusedPeers, RefusedBusy     atomic.Uint64
	Oversize                      atomic.Uint64
	PushbackSend, PushbackRecv    atomic.Uint64
	Connections                   atomic.Int64
}

type sample struct {
	name, kind, help string
	value            int64
}

func writeSamples(w io.Writer, samples []sample) {
	last := ""
	for _, s := range samples {
		family := s.name
		for i := range family {
			if family[i] == '{' {
				family = family[:i]
				break
			}
		}
		if family != last {
			fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", family, s.help, family, s.kind)
			last = family
		}
		fmt.Fprintf(w, "%s %d\n", s.name, s.value)
	}
}

// metricSamples gathers the node's counters and the depth of its queues.
func (n *Node) metricSamples() []sample {
	m := n.count
	counter := func(name, help string, v uint64) sample { return sample{name, "counter", help, int64(v)} }
	gauge := func(name, help string, v int) sample { return sample{name, "gauge", help, int64(v)} }
	senders, recvBytes, recvMessages, readers := n.inbox.Used()
	sendBytes, sendMessages, links := n.post.Used()
	stockQueued, stockLost, stockOvertaken := n.stockInbox.Used()
	return []sample{
		counter("axl_frames_sent_total", "Messages accepted by POST /send.", m.FramesSent.Load()),
		counter("axl_bytes_sent_total", "Body bytes of those messages.", m.BytesSent.Load()),
		counter("axl_frames_received_total", "Messages that came in from peers.", m.FramesReceived.Load()),
		counter("axl_bytes_received_total", "Body bytes of those messages.", m.BytesReceived.Load()),
		counter("axl_frames_delivered_total", "Messages fetched by GET /recv.", m.FramesDelivered.Load()),
		counter("axl_recv_returned_total", "Messages put back because the fetching client was gone.", m.Returned.Load()),
		counter("axl_drops_total", "Messages dropped from a full queue (stock mode only).", stockLost),
		counter("axl_overtaken_total", "Messages that a later one overtook (stock mode only).", stockOvertaken),
		counter("axl_lost_total", "Accepted messages given up because the peer stayed unreachable.", m.Lost.Load()),
		counter("axl_retried_total", "Messages written a second time after a connection broke.", m.Retried.Load()),
		counter("axl_reconnects_total", "Connections opened again to a peer.", m.Reconnects.Load()),
		counter(`axl_refused_total{why="not_allowed"}`, "Inbound connections refused.", m.RefusedPeers.Load()),
		counter(`axl_refused_total{why="too_many"}`, "Inbound connections refused.", m.RefusedBusy.Load()),
		counter("axl_oversize_total", "Inbound connections closed for a message above max_message_size.", m.Oversize.Load()),
		counter(`axl_pushback_total{side="send"}`, "Times a full queue made the sender wait or fail.", m.PushbackSend.Load()),
		counter(`axl_pushback_total{side="recv"}`, "Times a full queue made the sender wait or fail.", m.PushbackRecv.Load()),
		gauge("axl_recv_queue_messages", "Messages waiting for GET /recv.", recvMessages+stockQueued),
		gauge("axl_recv_queue_bytes", "Bytes waiting for GET /recv.", recvBytes),
		gauge("axl_recv_waiting", "GET /recv calls waiting for a message.", readers),
		gauge("axl_senders", "Peers with an inbound connection or messages waiting.", senders),
		gauge("axl_send_queue_messages", "Messages not yet written to a peer.", sendMessages),
		gauge("axl_send_queue_bytes", "Bytes not yet written to a peer.", sendBytes),
		gauge("axl_links_up", "Open outbound connections.", links),
		gauge("axl_connections", "Open inbound connections.", int(m.Connections.Load())),
	}
}
