package server

import (
	"context"
	"net"
	"os/user"
	"strconv"
)

type peerKey struct{}

// PeerContext keeps the name of the user at the other end of a unix socket; use
// it as Config.ConnContext of the local listener.
func PeerContext(ctx context.Context, c net.Conn) context.Context {
	if l, ok := c.(*limitedConn); ok {
		c = l.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	uid, err := peerUID(u)
	if err != nil {
		return ctx
	}
	name := "uid-" + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	return context.WithValue(ctx, peerKey{}, name)
}

// PeerUser returns the local user behind a request that came by the unix
// socket.
func PeerUser(ctx context.Context) (string, bool) {
	name, ok := ctx.Value(peerKey{}).(string)
	return name, ok
}
