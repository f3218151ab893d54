package node

import (
	"context"
	"math"
	"net/http"
	"net/http/pprof"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/metric"
	"github.com/nexixai/agentos/peer/gossip"
	"github.com/nexixai/agentos/storage"
)

// adminHandler serves what operators look at: /metrics, /debug/pprof/, and, through calls, the admin calls and health.
func (n *Node) adminHandler(calls http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metric.Handler(n.w.metrics.registry))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/", calls)
	return mux
}

// gauges shows what the rooms can say about themselves at any moment.
func (n *Node) gauges() {
	w := &n.w
	w.metrics.gauge("active_runs", "Runs that this node works on now.", func() float64 { return float64(w.sessions.Held()) })
	w.metrics.gauge("queue_depth", "Admitted runs of the cluster that wait for a worker.", func() float64 { return n.queued() })
	w.metrics.gauge("event_streams", "Event streams that are open at this node.", func() float64 { return float64(w.hub.Followers()) })
	w.metrics.gauge("raft_applied_index", "Index of the last change that this node's copy holds.", func() float64 { return float64(w.store.Status().Applied) })
	w.metrics.gauge("raft_term", "Term of the log.", func() float64 { return float64(w.store.Status().Term) })
	w.metrics.gauge("raft_leader", "1 while this node leads its cluster.", func() float64 {
		if w.store.Status().Role == "leader" {
			return 1
		}
		return 0
	})
	for state, help := range map[gossip.State]string{
		gossip.Alive: "Nodes that gossip holds for alive, this one among them.",
		gossip.Dead:  "Members that gossip holds for dead and goes on looking for.",
		gossip.Left:  "Members that said goodbye.",
	} {
		w.metrics.gauge("gossip_members_"+string(state), help, func() float64 { return float64(n.near.pool.Count(state)) })
	}
	w.metrics.total("gossip_dropped", "Packets, streams and claims that gossip did not take: another label or key, malformed, too many.", n.near.pool.Dropped)
	w.metrics.total("cluster_door_refused", "Callers that the cluster's door turned away before they could say anything.", n.near.door.Refused)
	w.metrics.total("federation_door_refused", "Callers that the federation door turned away before they could say anything.", func() int64 { return n.abroad.door.Refused() })
	w.metrics.gauge("peers_reachable", "Nodes of other organisations that answer this node.", func() float64 {
		answering := 0
		for _, p := range n.abroad.book.Peers() {
			if p.Reachable {
				answering++
			}
		}
		return float64(answering)
	})
	w.metrics.gauge("peers_unreachable", "Doors of active peerings that don't answer this node.", func() float64 { return float64(len(n.abroad.book.Unreachable())) })
	w.metrics.gauge("ready", "1 while this node takes requests.", func() float64 {
		if n.draining.Load() {
			return 0
		}
		return 1
	})
}

// queued counts the runs that wait, in this node's own copy; NaN when it can't be read.
func (n *Node) queued() float64 {
	depth := math.NaN()
	err := n.w.store.View(context.Background(), storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) error {
		high, normal, low, err := queue.Depth(s)
		if err == nil {
			depth = float64(high + normal + low)
		}
		return err
	})
	if err != nil {
		n.log.Warn("the queue's depth can't be read", zap.Error(err))
	}
	return depth
}
