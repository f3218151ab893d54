package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

// talkTimeout bounds one question between members, from the dial to the answer.
const talkTimeout = 3 * time.Second

// Question is what one member asks of another. Exactly one field is set; a field that the other does not know is answered
// with an error, so that versions can mix.
type Question struct {
	// Status asks where the other stands.
	Status *struct{} `json:"status,omitempty"`
	// Announce tells the other, which passes it on to the leader, where the asker is to be found now. It must be the
	// asker's own row.
	Announce *registry.Member `json:"announce,omitempty"`
	// Renew asks for a new certificate for the key of the one in use, with these host names.
	Renew *Renewal `json:"renew,omitempty"`
}

// Renewal is what a new certificate is to hold besides the name and key of the old one.
type Renewal struct {
	Hosts []string `json:"hosts"`
}

// Reply is the answer to a Question; the field that belongs to it is set, or Error.
type Reply struct {
	Status      *Standing   `json:"status,omitempty"`
	Certificate string      `json:"certificate,omitempty"` // PEM
	Error       *replyError `json:"error,omitempty"`
}

type replyError struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
}

// Standing is where a member stands at this moment.
type Standing struct {
	StackID  string `json:"stack_id"`
	ServerID string `json:"server_id"`
	Version  string `json:"version"`
	// Leader is the server id of the leader as the member knows it, "" for none.
	Leader  string `json:"leader"`
	Term    uint64 `json:"term"`
	Applied uint64 `json:"applied"`
	// Hash is the running hash over all applied batches: equal for equal Applied.
	Hash  uint64 `json:"hash,string"`
	Ready bool   `json:"ready"`
	// GossipKeys names the keys that its gossip has now, in their order, without telling them.
	GossipKeys string `json:"gossip_keys"`
}

// Ask puts one question to the member want at address; want "" takes whichever member answers there.
func (d *Door) Ask(ctx context.Context, address, want string, q Question) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, talkTimeout)
	defer cancel()
	conn, err := d.Dial(ctx, address, want, Talk)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	raw, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("cluster: question: %w", err)
	}
	answer, err := exchange(ctx, conn, raw)
	if err != nil {
		return nil, fmt.Errorf("cluster: question to %s at TCP %s: %w", want, address, err)
	}
	var r Reply
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, fmt.Errorf("cluster: answer of %s at TCP %s: %w", want, address, err)
	}
	if r.Error != nil {
		return nil, fault.New(r.Error.Code, "%s", r.Error.Message)
	}
	return &r, nil
}

// Answerer answers questions. asker is proven; leaf is its certificate.
type Answerer func(ctx context.Context, asker trust.ID, leaf *x509.Certificate, q Question) (*Reply, error)

// ServeTalk answers other members' questions until the door closes; it returns when every connection has ended.
func (d *Door) ServeTalk(answer Answerer) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		conn, err := d.Listener(Talk).Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * talkTimeout))
			if err := answerOne(ctx, conn.(*peerConn), answer); err != nil {
				d.log.Info("a member's question was not answered", zap.String("remote", conn.RemoteAddr().String()), zap.Error(err))
			}
		})
	}
}

func answerOne(ctx context.Context, conn *peerConn, answer Answerer) error {
	ctx, cancel := context.WithTimeout(ctx, talkTimeout)
	defer cancel()
	raw, err := readFrame(conn)
	if err != nil {
		return err
	}
	var q Question
	if err := json.Unmarshal(raw, &q); err != nil {
		return err
	}
	who, err := trust.IDOf(conn.leaf)
	if err != nil {
		return err
	}
	r, err := answer(ctx, who, conn.leaf, q)
	if err != nil {
		f := fault.Of(err)
		r = &Reply{Error: &replyError{Code: f.Code, Message: f.Message}}
	}
	if raw, err = json.Marshal(r); err != nil {
		return err
	}
	return writeFrame(conn, raw)
}
