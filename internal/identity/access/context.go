package access

import "context"

type callerKey struct{}

// WithCaller returns a context that carries who asks, for handlers behind a
// route that has been authorized.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller of a request. Without one it is a caller that may
// do nothing and sees nothing.
func CallerOf(ctx context.Context) *Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c
	}
	return &Caller{Name: "nobody"}
}
