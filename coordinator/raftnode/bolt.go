package raftnode

import (
	"time"

	"go.etcd.io/bbolt"
)

// boltOptions: a second process on the same directory fails at once rather than waiting for the lock for ever.
func boltOptions() *bbolt.Options {
	return &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType}
}
