//go:build !linux

package signer

import (
	"net"

	"github.com/birthmark/birthmark/internal/fault"
)

// PeerUID is for Linux, where the kernel names the user at the other end of a
// Unix socket.
func PeerUID(net.Conn) (uint32, error) {
	return 0, fault.New(fault.SignerPeer, "the signer runs on Linux only")
}
