package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/yggdrasil-network/yggdrasil-go/src/address"
)

var update = flag.Bool("update", false, "write the transcript anew instead of comparing with it")

const transcriptPath = "testdata/transcript.json"

// transcript is the wire as it must stay: stock nodes and their clients depend on every byte of it.
type transcript struct {
	About     string           `json:"about"`
	Addresses []addressVector  `json:"addresses"`
	Frames    []frameVector    `json:"frames"`
	Exchanges []exchangeVector `json:"exchanges"`
}

type addressVector struct {
	PublicKey   string `json:"public_key"`
	IPv6        string `json:"ipv6"`
	TruncatedID string `json:"truncated_id"`
}

type frameVector struct {
	MessageHex string `json:"message_hex"`
	FrameHex   string `json:"frame_hex"`
}

// exchangeVector is one step of the play: an HTTP call, or bytes on an overlay connection seen from the other peer.
type exchangeVector struct {
	Step     string `json:"step"`
	Request  string `json:"request,omitempty"`
	Response string `json:"response,omitempty"`
	PeerSent string `json:"peer_sent_hex,omitempty"`
	PeerGot  string `json:"peer_got_hex,omitempty"`
}

func readTranscript(t *testing.T) transcript {
	t.Helper()
	raw, err := os.ReadFile(transcriptPath)
	check(t, err)
	var found transcript
	check(t, json.Unmarshal(raw, &found))
	return found
}

// deriveByHand follows Yggdrasil's rule on a string of bits, apart from the library: 02, the number of leading ones
// of the inverted key, then its bits after the first zero.
func deriveByHand(key []byte) (net.IP, string) {
	var bits strings.Builder
	for _, b := range key {
		fmt.Fprintf(&bits, "%08b", ^b)
	}
	ones := strings.IndexByte(bits.String(), '0')
	rest := bits.String()[ones+1:]
	ip := net.IP{0x02, byte(ones)}
	for i := 0; len(ip) < 16; i += 8 {
		var b byte
		_, _ = fmt.Sscanf(rest[i:i+8], "%08b", &b)
		ip = append(ip, b)
	}
	kept := ones + 1 + 14*8
	var back strings.Builder
	for i, bit := range bits.String() {
		if i < kept && bit == '1' {
			back.WriteByte('0')
		} else {
			back.WriteByte('1')
		}
	}
	truncated := make([]byte, 32)
	for i := range truncated {
		_, _ = fmt.Sscanf(back.String()[8*i:8*i+8], "%08b", &truncated[i])
	}
	return ip, hex.EncodeToString(truncated)
}

func TestAddressVectors(t *testing.T) {
	vectors := readTranscript(t).Addresses
	if len(vectors) < 4 {
		t.Fatalf("%d address vectors", len(vectors))
	}
	for _, v := range vectors {
		id, err := ParsePeerID(v.PublicKey)
		check(t, err)
		byHand, truncated := deriveByHand(id[:])
		addr := addressOf(id)
		if net.IP(addr[:]).String() != v.IPv6 || byHand.String() != v.IPv6 {
			t.Errorf("%s: %s, by hand %s, want %s", v.PublicKey, net.IP(addr[:]), byHand, v.IPv6)
		}
		if truncatedID(addr) != v.TruncatedID || truncated != v.TruncatedID {
			t.Errorf("%s: %s, by hand %s, want %s", v.PublicKey, truncatedID(addr), truncated, v.TruncatedID)
		}
	}
}

func TestFrameVectors(t *testing.T) {
	for _, v := range readTranscript(t).Frames {
		message, err := hex.DecodeString(v.MessageHex)
		check(t, err)
		frame, body := newFrame(len(message))
		copy(body, message)
		if hex.EncodeToString(frame) != v.FrameHex {
			t.Errorf("framed %x, want %s", frame, v.FrameHex)
		}
		length, err := readFrameLength(bytes.NewReader(frame), len(message))
		if err != nil || length != len(message) {
			t.Errorf("read back %d, %v", length, err)
		}
	}
	if _, err := readFrameLength(strings.NewReader("\x00\x00\x01\x00"), 255); err == nil {
		t.Error("a length above the limit was taken")
	}
}

// TestTranscript plays the committed exchanges against a running node with a stock-like peer at the other end.
func TestTranscript(t *testing.T) {
	const port = 7000
	peer := newStockPeer(t, testKey("peer"), port)
	cfg, err := ParseConfig([]byte(`{"Peers": ["` + peer.uri + `"], "mtu": 16384}`))
	check(t, err)
	node, err := OpenNode(cfg, testKey("node"), newLog(io.Discard, false))
	check(t, err)
	server := httptest.NewServer(NewAPI(node))
	t.Cleanup(func() { server.Close(); node.overlay.Close() })
	want := readTranscript(t)
	var incoming net.Conn
	for i := range want.Exchanges {
		step := &want.Exchanges[i]
		played := exchangeVector{Step: step.Step, Request: step.Request, PeerSent: step.PeerSent, PeerGot: step.PeerGot}
		if step.PeerSent != "" {
			raw, err := hex.DecodeString(step.PeerSent)
			check(t, err)
			peer.writeOnce(t, node.overlay.core.Address(), port, raw)
		}
		if step.Request != "" {
			played.Response = rawCall(t, server.Listener.Addr().String(), step.Request)
		}
		if step.PeerGot != "" {
			if incoming == nil {
				incoming, err = peer.accept.Accept()
				check(t, err)
			}
			played.PeerGot = hex.EncodeToString(readExactly(t, incoming, len(step.PeerGot)/2))
		}
		if *update {
			*step = played
		} else if played != *step {
			t.Errorf("step %q:\n got %+v\nwant %+v", step.Step, played, *step)
		}
	}
	if *update {
		raw, err := json.MarshalIndent(want, "", "  ")
		check(t, err)
		check(t, os.WriteFile(transcriptPath, append(raw, '\n'), 0o644))
	}
}

var changing = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`Date: [^\r]*`), "Date: *"},
	{regexp.MustCompile(`"sequence":\d+`), `"sequence":0`},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:0"},
	{regexp.MustCompile(`"(root|parent)":"[0-9a-f]*"`), `"$1":"*"`},
	{regexp.MustCompile(`"port":\d+,"coords":(null|\[[\d,]*\])`), `"port":0,"coords":[]`},
	{regexp.MustCompile(`"tree":\[[^\]]*\]`), `"tree":[*]`},
	{regexp.MustCompile(`Content-Length: \d{3,}`), "Content-Length: *"},
}

// rawCall writes a request as it stands and returns the response as it came, but for what differs from run to run.
func rawCall(t *testing.T, to, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", to)
	check(t, err)
	defer func() { _ = conn.Close() }()
	check(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(conn, request)
	check(t, err)
	raw, err := io.ReadAll(bufio.NewReader(conn)) // every request of the play asks for the connection's close
	check(t, err)
	text := string(raw)
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.instead)
	}
	return text
}

func TestTheBookNeverTakesOneKeyForAnother(t *testing.T) {
	book := NewAddressBook()
	shared := address.Address{2, 0, 1}
	if !book.Learn(shared, PeerID{1}) {
		t.Fatal("a first key was refused")
	}
	unpin := book.Pin(shared)
	if book.Learn(shared, PeerID{2}) {
		t.Error("a second key took over the address of a connected one")
	}
	unpin()
	if !book.Learn(shared, PeerID{2}) {
		t.Error("the address was not free after the connection ended")
	}
	if id, _ := book.Find(shared); id != (PeerID{2}) {
		t.Errorf("the address belongs to %s", id)
	}
}
