package rest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/internal/api"
)

const (
	dialLimit = 2 * time.Second
	// probes are how many times the disk is tried: the best one counts, for others wait for what else the machine does.
	probes = 3
)

// condition is what only the node itself can tell: of its clock, its disk, and its way to the others.
func condition(s *Server, r *http.Request) (int, any, error) {
	var out api.Condition
	disk, err := diskOf(s.opts.Data)
	if err != nil {
		disk.Error = err.Error()
	}
	out.Disk = disk
	addrs, _ := s.opts.Nodes(r.Context()) // without a leader nobody knows them, which /ready says
	out.Peers = make([]api.Peer, len(addrs))
	g, ctx := errgroup.WithContext(r.Context())
	g.SetLimit(16)
	for i, addr := range addrs {
		g.Go(func() error {
			out.Peers[i] = peer(ctx, addr)
			return nil
		})
	}
	_ = g.Wait()
	out.AtUnixMS = time.Now().UnixMilli()
	return http.StatusOK, out, nil
}

func peer(ctx context.Context, addr string) api.Peer {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	p := api.Peer{REST: addr}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		p.Error = err.Error()
		return p
	}
	_ = c.Close()
	return p
}

// diskOf looks at the file system of a directory, and how long a small write takes to be on disk.
func diskOf(dir string) (out api.Disk, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return out, err
	}
	block := int64(st.Bsize) //nolint:unconvert // another type on macOS
	out.FreeBytes, out.TotalBytes = int64(st.Bavail)*block, int64(st.Blocks)*block
	for i := range probes {
		began := time.Now()
		if err := writeProbe(dir); err != nil {
			return out, err
		}
		if ms := time.Since(began).Milliseconds(); i == 0 || ms < out.SyncMS {
			out.SyncMS = ms
		}
	}
	return out, nil
}

func writeProbe(dir string) error {
	f, err := os.CreateTemp(dir, "condition-")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
}
