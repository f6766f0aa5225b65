package main

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
)

// extensions are what this node can do beyond a stock one; a client looks here before it relies on any of them.
var extensions = []string{
	"recv_wait", "full_sender_key", "backpressure", "kept_connections", "sender_fairness", "allowed_peers", "metrics",
}

type topology struct {
	OurIPv6        string         `json:"our_ipv6"`
	OurPublicKey   string         `json:"our_public_key"`
	Peers          []topologyPeer `json:"peers"`
	Tree           []topologyNode `json:"tree"`
	Extensions     []string       `json:"extensions,omitempty"`
	MaxMessageSize int            `json:"max_message_size,omitempty"`
	MTU            uint32         `json:"mtu,omitempty"`
}

type topologyPeer struct {
	URI       string   `json:"uri"`
	Up        bool     `json:"up"`
	Inbound   bool     `json:"inbound"`
	PublicKey string   `json:"public_key"`
	Root      string   `json:"root"`
	Port      uint64   `json:"port"`
	Coords    []uint64 `json:"coords"`
}

type topologyNode struct {
	PublicKey string `json:"public_key"`
	Parent    string `json:"parent"`
	Sequence  uint64 `json:"sequence"`
}

func (n *Node) handleTopology(w http.ResponseWriter, _ *http.Request) {
	answer := topology{
		OurIPv6: n.overlay.core.Address().String(), OurPublicKey: n.overlay.self.String(),
		Peers: []topologyPeer{}, Tree: []topologyNode{},
	}
	for _, peer := range n.overlay.core.GetPeers() {
		answer.Peers = append(answer.Peers, topologyPeer{
			URI: peer.URI, Up: peer.Up, Inbound: peer.Inbound, PublicKey: hex.EncodeToString(peer.Key),
			Root: hex.EncodeToString(peer.Root), Port: peer.Port, Coords: peer.Coords,
		})
	}
	for _, node := range n.overlay.core.GetTree() {
		answer.Tree = append(answer.Tree, topologyNode{
			PublicKey: hex.EncodeToString(node.Key), Parent: hex.EncodeToString(node.Parent), Sequence: node.Sequence,
		})
	}
	if !n.cfg.Stock {
		answer.Extensions, answer.MaxMessageSize, answer.MTU = extensions, n.cfg.MaxMessageSize, n.overlay.link.MTU()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}
