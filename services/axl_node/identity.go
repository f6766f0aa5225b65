package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// LoadIdentity reads an ed25519 private key in PKCS #8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
// Without a path it makes a key that lives as long as the process, as the stock node does.
func LoadIdentity(path string) (ed25519.PrivateKey, error) {
	if path == "" {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("key_missing: PrivateKeyPath %s does not exist; make it with: axl_node -genkey %s", path, path)
	}
	if err != nil {
		return nil, fmt.Errorf("key_unreadable: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("key_invalid: %s holds no PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key_invalid: %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key_invalid: %s holds a %T, not an ed25519 key", path, parsed)
	}
	return key, nil
}

// GenerateIdentity writes a new private key, readable by its owner only, and never replaces an existing file.
func GenerateIdentity(path string) (PeerID, error) {
	var id PeerID
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return id, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return id, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return id, fmt.Errorf("key_not_written: %w", err)
	}
	if err := pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		_ = file.Close()
		return id, fmt.Errorf("key_not_written: %w", err)
	}
	copy(id[:], public)
	return id, file.Close()
}
