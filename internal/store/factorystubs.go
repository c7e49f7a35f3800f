package store

import "errors"

var errLater = errors.New("store: not here yet")
