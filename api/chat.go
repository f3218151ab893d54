package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// dialectBody reads a body in OpenAI's format: as strictly as any other, and whole, for the dialect names its own fields.
func (c *call) dialectBody() ([]byte, error) {
	raw, err := c.rawBody()
	if err != nil {
		return nil, err
	}
	return raw, c.decode(raw, nil)
}

func (c *call) answerMark(prefix string) OpenAIAnswer {
	return OpenAIAnswer{ID: prefix + id.New(""), Created: time.Now(), CorrelationID: c.correlationID, TenantID: c.auth.TenantID}
}

// marks says in headers who answered, and what policy did.
func (c *call) marks(r model.RouteTaken, o model.PolicyOutcome) {
	c.w.Header().Set("X-AgentOS-Route", r.Backend+"/"+r.Model)
	c.w.Header().Set("X-AgentOS-Policy", o.Decision)
}

// billOnce takes the idempotency key for the request id of a call that has none. An answer of a model is not kept and not
// replayed, but the same request under the same id is billed once.
func (c *call) billOnce(requestID *string) {
	if *requestID == "" {
		*requestID = c.key
	}
}

func (c *call) chatCompletions() error {
	raw, err := c.dialectBody()
	if err != nil {
		return err
	}
	chat, err := c.s.o.OpenAI.Chat(raw)
	if err != nil {
		return err
	}
	caller, err := c.caller()
	if err != nil {
		return err
	}
	c.billOnce(&chat.Request().RequestID)
	mark := c.answerMark("chatcmpl-")
	if chat.Streams() {
		return c.streamChat(chat, caller, mark)
	}
	r, err := c.s.o.Models.Chat(c.ctx(), caller, chat.Request(), nil)
	if err != nil {
		return err
	}
	c.marks(r.Route, r.PolicyOutcome)
	return c.replyRaw(http.StatusOK, "application/json", chat.Whole(r, mark))
}

// streamChat answers piece by piece. Before the first piece an error is an ordinary answer; after it, it's the stream's
// last frame, and "[DONE]" does not follow.
func (c *call) streamChat(chat OpenAIChat, caller model.Caller, mark OpenAIAnswer) error {
	rc := http.NewResponseController(c.w)
	begin := func() error {
		c.streamHeaders()
		c.w.WriteHeader(http.StatusOK)
		_, err := c.w.Write(chat.First(mark)) // goes out with what follows
		return err
	}
	send := func(frames []byte) error {
		if len(frames) == 0 {
			return nil
		}
		return writeNow(c.w, rc, frames)
	}
	r, err := c.s.o.Models.Chat(c.ctx(), caller, chat.Request(), func(d model.Delta) error {
		if !c.wrote {
			if err := begin(); err != nil {
				return err
			}
		}
		return send(chat.Delta(d))
	})
	switch {
	case err != nil && !c.wrote:
		return err
	case err != nil:
		body, _ := errorValue(err, true)
		frame, encodeErr := json.Marshal(map[string]any{"error": body, "correlation_id": c.correlationID})
		if encodeErr == nil {
			_ = send(append(append([]byte("data: "), frame...), "\n\n"...))
		}
		return err
	}
	if !c.wrote {
		if err := begin(); err != nil {
			return err
		}
	}
	return send(chat.Last(r, mark))
}

func (c *call) embeddings() error {
	raw, err := c.dialectBody()
	if err != nil {
		return err
	}
	embed, err := c.s.o.OpenAI.Embeddings(raw)
	if err != nil {
		return err
	}
	caller, err := c.caller()
	if err != nil {
		return err
	}
	c.billOnce(&embed.Request().RequestID)
	r, err := c.s.o.Models.Embed(c.ctx(), caller, embed.Request())
	if err != nil {
		return err
	}
	c.marks(r.Route, r.PolicyOutcome)
	return c.replyRaw(http.StatusOK, "application/json", embed.Whole(r, c.answerMark("embd-")))
}

// listed is a model as OpenAI's clients read it.
type listed struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

// models are those that the tenant may use, as it stands in a state as new as r demands.
func (c *call) models(r storage.Read) ([]model.Info, error) {
	var t *tenancy.Tenant
	err := storage.Find(c.ctx(), c.s.o.Store, r, func(s storage.Snapshot) (err error) {
		c.index = s.Index()
		t, err = tenancy.GetTenant(s, c.auth.TenantID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.s.o.Models.Models(c.ctx(), t)
}

// listModels is one answer for both kinds of readers.
func (c *call) listModels() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	infos, err := c.models(read)
	if err != nil {
		return err
	}
	data := make([]listed, 0, len(infos))
	for _, m := range infos {
		data = append(data, listed{ID: m.ID, Object: "model", Created: m.Created, OwnedBy: m.OwnedBy})
	}
	if infos == nil {
		infos = []model.Info{}
	}
	return c.reply(http.StatusOK, member{"models", infos}, member{"object", "list"}, member{"data", data}, cursorOf(""))
}

func (c *call) getModel() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	m, err := c.model(read)
	if fault.Is(err, fault.NotFound) && read.Consistency == storage.Default { // another node may have just allowed it
		read.Consistency = storage.Linearizable
		m, err = c.model(read)
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"model", m}, member{"id", m.ID}, member{"object", "model"}, member{"created", m.Created}, member{"owned_by", m.OwnedBy})
}

// model is the one that the path names.
func (c *call) model(r storage.Read) (*model.Info, error) {
	infos, err := c.models(r)
	if err != nil {
		return nil, err
	}
	for i := range infos {
		if infos[i].ID == c.param("model_id") {
			return &infos[i], nil
		}
	}
	return nil, fault.New(fault.NotFound, "There is no such model.").With("param", "model")
}
