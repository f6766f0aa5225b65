package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

const (
	defaultMaxMessageBytes = 16 << 20
	defaultQueueBytes      = 32 << 20
	defaultQueueMessages   = 4096
	minMTU                 = 1280
	// defaultMTU lets a first burst of ten segments pass Yggdrasil's 128 KiB packet queues, and a hidden state of
	// 8 KiB travel as one packet. Stock nodes announce 1280 when they connect, and TCP keeps to the smaller of the two.
	defaultMTU = 16384
	maxMTU     = 65535
)

// Config is the node's configuration file. Everything down to ConnIdleTimeoutSecs is what a stock node reads,
// under the same names and with the same defaults; the keys after it exist in this node only.
type Config struct {
	PrivateKeyPath    string   `json:"PrivateKeyPath"`
	Peers             []string `json:"Peers"`
	Listen            []string `json:"Listen"`
	AllowedPublicKeys []string `json:"AllowedPublicKeys"`

	APIPort             int    `json:"api_port"`
	BridgeAddr          string `json:"bridge_addr"`
	TCPPort             int    `json:"tcp_port"`
	RouterAddr          string `json:"router_addr"`
	RouterPort          int    `json:"router_port"`
	A2AAddr             string `json:"a2a_addr"`
	A2APort             int    `json:"a2a_port"`
	MaxMessageSize      int    `json:"max_message_size"`
	MaxConcurrentConns  int    `json:"max_concurrent_conns"`
	ConnReadTimeoutSecs int    `json:"conn_read_timeout_secs"`
	ConnIdleTimeoutSecs int    `json:"conn_idle_timeout_secs"`

	// AllowedPeers are the keys that may open a connection to us; nil admits everyone, an empty list nobody.
	AllowedPeers []string `json:"allowed_peers"`
	// AllowedHosts are additional names a client may put into its Host header.
	AllowedHosts      []string `json:"allowed_hosts"`
	RecvQueueBytes    int      `json:"recv_queue_bytes"`
	RecvQueueMessages int      `json:"recv_queue_messages"`
	SendQueueBytes    int      `json:"send_queue_bytes"`
	SendQueueMessages int      `json:"send_queue_messages"`
	SendWaitMS        int      `json:"send_wait_ms"`
	DialTimeoutMS     int      `json:"dial_timeout_ms"`
	RedialWindowMS    int      `json:"redial_window_ms"`
	APIToken          string   `json:"api_token"`
	APISocket         string   `json:"api_socket"`
	MTU               int      `json:"mtu"`
	Stock             bool     `json:"stock"`
	// StockReorderMS makes messages in stock mode overtake each other within so many milliseconds.
	StockReorderMS int `json:"stock_reorder_ms"`
}

func defaultConfig() Config {
	return Config{
		APIPort: 9002, BridgeAddr: "127.0.0.1", TCPPort: 7000, RouterPort: 9003, A2APort: 9004,
		MaxMessageSize: defaultMaxMessageBytes, MaxConcurrentConns: 128,
		ConnReadTimeoutSecs: 60, ConnIdleTimeoutSecs: 300,
		RecvQueueBytes: defaultQueueBytes, RecvQueueMessages: defaultQueueMessages,
		SendQueueBytes: defaultQueueBytes, SendQueueMessages: defaultQueueMessages,
		SendWaitMS: 1000, DialTimeoutMS: 10000, RedialWindowMS: 60000, MTU: defaultMTU,
	}
}

// inertKeys are Yggdrasil's settings for things this node does not have (a TUN device, multicast, an admin
// socket). Empty or switched off they change nothing; set to something they would be silently ignored, so refuse.
var inertKeys = []string{
	"IfName", "IfMTU", "MulticastInterfaces", "InterfacePeers", "AdminListen", "NodeInfo", "NodeInfoPrivacy",
}

// LoadConfig reads and checks a configuration file.
func LoadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("config_unreadable: %w", err)
	}
	cfg, err := ParseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// ParseConfig decodes a configuration, applies the defaults and refuses what it cannot honour.
func ParseConfig(raw []byte) (Config, error) {
	cfg := defaultConfig()
	keys := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &keys); err != nil {
		return cfg, fmt.Errorf("config_not_json: %w", err)
	}
	for _, key := range inertKeys {
		if value, present := keys[key]; present && !isOff(value) {
			return cfg, fmt.Errorf("config_unsupported_key: %s is a setting of Yggdrasil's that this node has no use for; remove it", key)
		}
		delete(keys, key)
	}
	rest, err := json.Marshal(keys)
	if err != nil {
		return cfg, fmt.Errorf("config_not_json: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(rest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&cfg); err != nil && !errors.Is(err, io.EOF) {
		return cfg, fmt.Errorf("config_bad_key: %w; docs/axl-node.md lists every key", err)
	}
	return cfg, cfg.check()
}

func isOff(value json.RawMessage) bool {
	switch strings.TrimSpace(string(value)) {
	case "null", "false", `""`, `"none"`, "0", "[]", "{}":
		return true
	}
	return false
}

func (c *Config) check() error {
	if c.RouterAddr != "" || c.A2AAddr != "" {
		return errors.New("config_router_unsupported: router_addr and a2a_addr must stay empty: this node has no MCP or A2A router")
	}
	for name, port := range map[string]int{"api_port": c.APIPort, "tcp_port": c.TCPPort} {
		if port < 0 || port > 65535 || (name == "tcp_port" && port == 0) {
			return fmt.Errorf("config_bad_value: %s = %d is no port", name, port)
		}
	}
	if c.APISocket == "" && net.ParseIP(c.BridgeAddr) == nil && c.BridgeAddr != "localhost" {
		return fmt.Errorf("config_bad_value: bridge_addr %q must be an IP address", c.BridgeAddr)
	}
	for name, value := range map[string]int{
		"max_message_size": c.MaxMessageSize, "max_concurrent_conns": c.MaxConcurrentConns,
		"conn_read_timeout_secs": c.ConnReadTimeoutSecs, "conn_idle_timeout_secs": c.ConnIdleTimeoutSecs,
		"recv_queue_bytes": c.RecvQueueBytes, "recv_queue_messages": c.RecvQueueMessages,
		"send_queue_bytes": c.SendQueueBytes, "send_queue_messages": c.SendQueueMessages,
		"dial_timeout_ms": c.DialTimeoutMS, "redial_window_ms": c.RedialWindowMS,
	} {
		if value <= 0 {
			return fmt.Errorf("config_bad_value: %s = %d must be positive", name, value)
		}
	}
	if c.SendWaitMS < 0 {
		return fmt.Errorf("config_bad_value: send_wait_ms = %d must not be negative", c.SendWaitMS)
	}
	if c.StockReorderMS < 0 || c.StockReorderMS > 10_000 {
		return fmt.Errorf("config_bad_value: stock_reorder_ms = %d is not within 0..10000", c.StockReorderMS)
	}
	if c.StockReorderMS > 0 && !c.Stock {
		return errors.New("config_bad_value: stock_reorder_ms needs stock: our own mode keeps the order")
	}
	if c.Stock && c.AllowedPeers != nil {
		return errors.New("config_bad_value: allowed_peers does not go with stock: the stock node admits everyone")
	}
	if c.MaxMessageSize > 1<<30 {
		return fmt.Errorf("config_bad_value: max_message_size = %d is above 1 GiB", c.MaxMessageSize)
	}
	if c.MTU < minMTU || c.MTU > maxMTU {
		return fmt.Errorf("config_bad_value: mtu = %d is not within %d..%d", c.MTU, minMTU, maxMTU)
	}
	for name, list := range map[string][]string{"allowed_peers": c.AllowedPeers, "AllowedPublicKeys": c.AllowedPublicKeys} {
		for _, text := range list {
			if _, err := ParsePeerID(text); err != nil {
				return fmt.Errorf("config_bad_value: %s: %w", name, err)
			}
		}
	}
	return nil
}

// PeerID is a node's whole ed25519 public key: its name on the mesh.
type PeerID [32]byte

func (p PeerID) String() string { return hex.EncodeToString(p[:]) }

// ParsePeerID reads 64 hex digits.
func ParsePeerID(text string) (PeerID, error) {
	var id PeerID
	if len(text) != 2*len(id) {
		return id, fmt.Errorf("a peer id has 64 hex digits, not %d characters", len(text))
	}
	if _, err := hex.Decode(id[:], []byte(text)); err != nil {
		return id, errors.New("a peer id has only the digits 0-9 and a-f")
	}
	return id, nil
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }
func seconds(n int) time.Duration      { return time.Duration(n) * time.Second }
