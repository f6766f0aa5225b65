package main

import (
	"crypto/ed25519"
	"encoding/hex"
	"sync"
	"time"

	"github.com/yggdrasil-network/yggdrasil-go/src/address"
)

const (
	bookSweepAbove  = 1024
	bookForgetAfter = 2 * time.Minute
)

// AddressBook knows which whole public key stands behind an overlay IPv6 address, which by itself holds only the
// key's leading bits. Every packet of the overlay comes with its sender's proven key, so the book is never guessed.
type AddressBook struct {
	mu      sync.RWMutex
	entries map[address.Address]*bookEntry
}

type bookEntry struct {
	id     PeerID
	pinned int // connections that need it
	seen   time.Time
}

// NewAddressBook makes an empty book.
func NewAddressBook() *AddressBook {
	return &AddressBook{entries: map[address.Address]*bookEntry{}}
}

// Learn notes a key that was just seen or is about to be written to. It reports false for a key whose address is in
// use by another key's connection: such a one must not be taken for the other.
func (b *AddressBook) Learn(addr address.Address, id PeerID) bool {
	b.mu.RLock()
	entry := b.entries[addr]
	known := entry != nil && entry.id == id && time.Since(entry.seen) < bookForgetAfter/4
	b.mu.RUnlock()
	if known {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if entry = b.entries[addr]; entry != nil && (entry.id == id || entry.pinned > 0) {
		if entry.id == id {
			entry.seen = time.Now()
		}
		return entry.id == id
	}
	if len(b.entries) >= bookSweepAbove {
		for a, e := range b.entries {
			if e.pinned == 0 && time.Since(e.seen) > bookForgetAfter {
				delete(b.entries, a)
			}
		}
	}
	b.entries[addr] = &bookEntry{id: id, seen: time.Now()}
	return true
}

// Pin keeps an entry while a connection uses it; call the result once to let it go.
func (b *AddressBook) Pin(addr address.Address) (unpin func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	entry := b.entries[addr]
	if entry == nil {
		return func() {}
	}
	entry.pinned++
	return func() {
		b.mu.Lock()
		entry.pinned--
		entry.seen = time.Now()
		b.mu.Unlock()
	}
}

// Find returns the whole key behind an address, if it was seen.
func (b *AddressBook) Find(addr address.Address) (PeerID, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if entry := b.entries[addr]; entry != nil {
		return entry.id, true
	}
	return PeerID{}, false
}

func addressOf(id PeerID) address.Address {
	return *address.AddrForKey(ed25519.PublicKey(id[:]))
}

// truncatedID is the sender id a stock node shows: the key's bits that survive in the address, then ones.
func truncatedID(addr address.Address) string {
	return hex.EncodeToString(addr.GetKey())
}
