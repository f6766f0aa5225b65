// Command axl_node is a mesh node that speaks stock AXL's wire and HTTP interface, with what ComputePool needs added:
// kept-open connections, queues that push back, waiting receives. It knows nothing of what the messages mean.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const shutdownGrace = 2 * time.Second

func main() {
	configPath := flag.String("config", "node-config.json", "configuration file")
	listen := flag.String("listen", "", "listen for peers on this address too, such as tls://0.0.0.0:9001")
	genkey := flag.String("genkey", "", "write a new private key to this path, print its public key and exit")
	debug := flag.Bool("debug", false, "log details")
	flag.Parse()
	log := newLog(os.Stderr, *debug)
	if err := run(*configPath, *listen, *genkey, log); err != nil {
		log.Error("failed", "error", err.Error())
		os.Exit(1)
	}
}

func run(configPath, listen, genkey string, log *slog.Logger) error {
	if genkey != "" {
		id, err := GenerateIdentity(genkey)
		if err == nil {
			fmt.Println(id)
		}
		return err
	}
	cfg, err := LoadConfig(configPath)
	if err != nil {
		return err
	}
	if listen != "" {
		cfg.Listen = append(cfg.Listen, listen)
	}
	key, err := LoadIdentity(cfg.PrivateKeyPath)
	if err != nil {
		return err
	}
	if cfg.PrivateKeyPath == "" {
		log.Warn("identity_not_kept", "why", "PrivateKeyPath is not set; this key ends with the process")
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	api, where, err := listenAPI(cfg)
	if err != nil {
		return err
	}
	node, err := OpenNode(cfg, key, log)
	if err != nil {
		_ = api.Close()
		return err
	}
	return serve(stop, node, api, where, log)
}

func listenAPI(cfg Config) (net.Listener, string, error) {
	if cfg.APISocket == "" {
		listener, err := net.Listen("tcp", net.JoinHostPort(cfg.BridgeAddr, strconv.Itoa(cfg.APIPort)))
		if err != nil {
			return nil, "", fmt.Errorf("api_listen_failed: %w", err)
		}
		return listener, "http://" + listener.Addr().String(), nil
	}
	if info, err := os.Lstat(cfg.APISocket); err == nil && info.Mode()&os.ModeSocket != 0 {
		if conn, err := net.Dial("unix", cfg.APISocket); err == nil {
			_ = conn.Close()
			return nil, "", fmt.Errorf("api_listen_failed: another process serves %s", cfg.APISocket)
		}
		if err := os.Remove(cfg.APISocket); err != nil { // left by a process that was killed
			return nil, "", fmt.Errorf("api_listen_failed: %w", err)
		}
	}
	old := syscall.Umask(0o177) // the socket is its owner's from the first moment
	listener, err := net.Listen("unix", cfg.APISocket)
	syscall.Umask(old)
	if err != nil {
		return nil, "", fmt.Errorf("api_listen_failed: %w", err)
	}
	return listener, "unix:" + cfg.APISocket, nil
}

// started is the one line on standard output by which a supervisor learns the real addresses.
type started struct {
	Event     string   `json:"event"`
	API       string   `json:"api"`
	Listen    []string `json:"listen"`
	PublicKey string   `json:"public_key"`
	IPv6      string   `json:"ipv6"`
	PID       int      `json:"pid"`
}

func serve(stop context.Context, node *Node, api net.Listener, where string, log *slog.Logger) error {
	server := &http.Server{
		Handler: NewAPI(node), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(api) }()
	line, err := json.Marshal(started{
		Event: "started", API: where, Listen: append([]string{}, node.overlay.Listens...),
		PublicKey: node.overlay.self.String(), IPv6: node.overlay.core.Address().String(), PID: os.Getpid(),
	})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	select {
	case err = <-failed:
	case <-stop.Done():
		log.Info("stopping")
	}
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	node.Close(grace) // ends waiting /recv calls too
	_ = server.Shutdown(grace)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
