package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	maxRecvWait     = 30 * time.Second
	bodyReadTimeout = 30 * time.Second
)

// NewAPI is the node's HTTP interface: a stock node's /send, /recv and /topology, and ours.
func NewAPI(n *Node) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/send", only(http.MethodPost, n.handleSend))
	mux.HandleFunc("/recv", only(http.MethodGet, n.handleRecv))
	mux.HandleFunc("/topology", only(http.MethodGet, n.handleTopology))
	mux.HandleFunc("/metrics", only(http.MethodGet, n.handleMetrics))
	mux.HandleFunc("/healthz", only(http.MethodGet, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem{http.StatusNotFound, "no_such_route", "this node has no such route", "docs/axl-node.md lists the routes"}.write(w)
	})
	return NewGuard(n.cfg, mux)
}

func only(method string, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			problem{http.StatusMethodNotAllowed, "method_not_allowed", r.Method + " is not for this route", "use " + method}.write(w)
			return
		}
		handle(w, r)
	}
}

// refuse answers with a problem after reading the rest of the request, so that a client still writing its body gets
// to see the answer instead of a broken connection.
func (n *Node) refuse(w http.ResponseWriter, r *http.Request, p problem) {
	_, _ = io.CopyN(io.Discard, r.Body, 2*int64(n.cfg.MaxMessageSize))
	p.write(w)
}

func (n *Node) handleSend(w http.ResponseWriter, r *http.Request) {
	peer, err := ParsePeerID(r.Header.Get("X-Destination-Peer-Id"))
	if err != nil {
		n.refuse(w, r, problem{http.StatusBadRequest, "bad_peer_id", err.Error(), "put the destination's public key into X-Destination-Peer-Id"})
		return
	}
	if r.ContentLength > int64(n.cfg.MaxMessageSize) {
		n.refuse(w, r, n.tooLarge())
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyReadTimeout + milliseconds(n.cfg.SendWaitMS+n.cfg.DialTimeoutMS)))
	var sent int
	var trouble *problem
	switch {
	case n.cfg.Stock:
		sent, trouble = n.sendAsStock(r, peer)
	case peer == n.overlay.self:
		sent, trouble = n.sendToSelf(r)
	default:
		sent, trouble = n.sendToPeer(r, peer)
	}
	if trouble != nil {
		if trouble.Status == http.StatusServiceUnavailable {
			n.count.PushbackSend.Add(1)
			w.Header().Set("Retry-After", "1")
		}
		n.refuse(w, r, *trouble)
		return
	}
	n.count.FramesSent.Add(1)
	n.count.BytesSent.Add(uint64(sent))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Sent-Bytes", strconv.Itoa(sent))
	w.WriteHeader(http.StatusOK)
}

func (n *Node) sendToPeer(r *http.Request, peer PeerID) (int, *problem) {
	box := n.post.To(peer)
	if err := box.Ready(r.Context()); err != nil {
		return 0, unreachable(err)
	}
	release, trouble := n.reserve(r, box.Budget)
	if trouble != nil {
		return 0, trouble
	}
	frame, trouble := n.readFrame(r, release)
	if trouble != nil {
		return 0, trouble
	}
	box.Put(frame)
	return len(frame) - frameHeaderBytes, nil
}

func (n *Node) sendToSelf(r *http.Request) (int, *problem) {
	sender := n.inbox.Attach(n.overlay.self)
	defer n.inbox.Detach(sender)
	release, trouble := n.reserve(r, sender.Budget)
	if trouble != nil {
		return 0, trouble
	}
	frame, trouble := n.readFrame(r, release)
	if trouble != nil {
		return 0, trouble
	}
	body := frame[frameHeaderBytes:]
	n.count.FramesReceived.Add(1)
	n.count.BytesReceived.Add(uint64(len(body)))
	n.inbox.Put(sender, body)
	return len(body), nil
}

func (n *Node) sendAsStock(r *http.Request, peer PeerID) (int, *problem) {
	frame, trouble := n.readFrame(r, func(int) {})
	if trouble != nil {
		return 0, trouble
	}
	ctx, cancel := context.WithTimeout(r.Context(), milliseconds(n.cfg.DialTimeoutMS))
	defer cancel()
	conn, err := n.overlay.Dial(ctx, peer)
	if err != nil {
		return 0, unreachable(err)
	}
	defer func() { _ = conn.Close() }()
	for _, part := range [][]byte{frame[:frameHeaderBytes], frame[frameHeaderBytes:]} {
		if _, err := conn.Write(part); err != nil {
			return 0, unreachable(err)
		}
	}
	return len(frame) - frameHeaderBytes, nil
}

// reserve takes room before the body is read, so that callers who are made to wait hold no memory. The returned
// function gives back the part of the reservation above what is kept; all of it when that is negative.
func (n *Node) reserve(r *http.Request, budget *Budget) (func(keep int), *problem) {
	size := int(r.ContentLength)
	if size < 0 {
		size = n.cfg.MaxMessageSize // chunked: its length is not known yet
	}
	if !budget.TryAcquire(size) {
		ctx, cancel := context.WithTimeout(r.Context(), milliseconds(n.cfg.SendWaitMS))
		defer cancel()
		if budget.Acquire(ctx, size) != nil {
			return nil, &problem{http.StatusServiceUnavailable, "peer_queue_full", "the peer does not take messages as fast as they are sent", "wait as Retry-After says and send again"}
		}
	}
	return func(keep int) {
		if keep < 0 {
			budget.Release(size)
		} else if keep < size {
			budget.Shrink(size - keep)
		}
	}, nil
}

// readFrame reads the body into a frame that is ready for the wire.
func (n *Node) readFrame(r *http.Request, release func(keep int)) ([]byte, *problem) {
	fail := func(p problem) ([]byte, *problem) {
		release(-1)
		return nil, &p
	}
	if size := r.ContentLength; size >= 0 {
		frame, body := newFrame(int(size))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return fail(unreadable(err))
		}
		return frame, nil
	}
	limited := io.LimitReader(r.Body, int64(n.cfg.MaxMessageSize)+1)
	data, err := io.ReadAll(limited)
	if err != nil {
		return fail(unreadable(err))
	}
	if len(data) > n.cfg.MaxMessageSize {
		return fail(n.tooLarge())
	}
	release(len(data))
	frame, body := newFrame(len(data))
	copy(body, data)
	return frame, nil
}

func (n *Node) handleRecv(w http.ResponseWriter, r *http.Request) {
	if n.cfg.Stock {
		message, found := n.stockInbox.Take()
		if !found {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		n.count.FramesDelivered.Add(1)
		_ = writeMessage(w, message.from, message.body)
		return
	}
	wait, err := recvWait(r)
	if err != nil {
		problem{http.StatusBadRequest, "bad_wait", err.Error(), "use /recv?wait=MILLISECONDS"}.write(w)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	delivery := n.inbox.Take(ctx, wait)
	switch {
	case delivery == nil:
		w.WriteHeader(http.StatusNoContent)
	case r.Context().Err() != nil:
		n.count.Returned.Add(1)
		delivery.Return()
	default:
		if err := writeMessage(w, delivery.Sender.ID.String(), delivery.Body); err != nil {
			n.count.Returned.Add(1)
			delivery.Return()
			panic(http.ErrAbortHandler) // half an answer may be out: the connection must not be used again
		}
		n.count.FramesDelivered.Add(1)
		delivery.Done()
	}
}

func recvWait(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.Atoi(text)
	if err != nil || ms < 0 {
		return 0, fmt.Errorf("wait=%q is not a number of milliseconds", text)
	}
	return min(time.Duration(ms)*time.Millisecond, maxRecvWait), nil
}

func writeMessage(w http.ResponseWriter, from string, body []byte) error {
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("X-From-Peer-Id", from)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(body); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

func (n *Node) handleMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writeSamples(w, n.metricSamples())
}

func (n *Node) tooLarge() problem {
	return problem{http.StatusRequestEntityTooLarge, "message_too_large",
		fmt.Sprintf("a message may have %d bytes", n.cfg.MaxMessageSize), "split it, or raise max_message_size on every node"}
}

func unreachable(err error) *problem {
	detail := "the peer could not be reached: " + err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		detail = "the peer did not answer in time"
	}
	return &problem{http.StatusBadGateway, "peer_unreachable", detail, "check that its node runs, is connected to the mesh and allows this one"}
}

func unreadable(err error) problem {
	return problem{http.StatusBadRequest, "body_unreadable", "the body ended early: " + err.Error(), "send as many bytes as Content-Length says"}
}
