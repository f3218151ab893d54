package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// order tells a load process what to do; it comes as JSON on standard input.
type order struct {
	Do          string // post, alone, runs, turns, fan, idle
	Addr        string
	Also        []string // further nodes: the connections are dealt out over all of them
	Path        string   // of the POST, or of the stream
	Other       string   // of turns: the POST that is taken in turns with Path
	TLS         *proof   // mutual TLS; nil means none
	Key         string
	Body        string
	Watch       string // prefix of a run's path, for streams
	Connections int
	Seconds     float64
	Frames      int // of a fan: so many frames end it
	Publish     int // of a fan: publish so many frames to the hub as soon as all watch
}

// result is what a load process answers, as JSON on standard output.
type result struct {
	Took    []time.Duration `json:"took,omitempty"`
	Count   int             `json:"count"`
	Elapsed time.Duration   `json:"elapsed"`
	Errors  int             `json:"errors"`
	First   string          `json:"first_error,omitempty"`
	Turns   [2]legs         `json:"turns"`
}

// loader is one run of a load process.
type loader struct {
	order
	mu  sync.Mutex
	res result
}

func loadProcess() error {
	debug.SetGCPercent(400)
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	l := &loader{order: o}
	begun := time.Now()
	switch o.Do {
	case "post":
		l.each(l.post)
	case "alone":
		l.each(l.alone)
	case "runs":
		l.each(l.complete)
	case "turns":
		l.each(l.turns)
	case "fan":
		begun = l.fan()
	case "idle":
		return l.idle()
	default:
		return fmt.Errorf("no such load: %q", o.Do)
	}
	l.res.Elapsed = time.Since(begun)
	return json.NewEncoder(os.Stdout).Encode(l.res)
}

// each calls once from every connection, again and again until the time is over, and keeps how long each call took.
func (l *loader) each(once func(*conn) (time.Duration, error)) {
	until := time.Now().Add(time.Duration(l.Seconds * float64(time.Second)))
	var wg sync.WaitGroup
	addrs := append([]string{l.Addr}, l.Also...)
	for i := range l.Connections {
		wg.Go(func() {
			c := &conn{addr: addrs[i%len(addrs)], proof: l.TLS}
			defer c.close()
			took := make([]time.Duration, 0, 1<<12)
			var errs []error
			for time.Now().Before(until) && len(errs) < 100 {
				d, err := once(c)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				took = append(took, d)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.res.Took = append(l.res.Took, took...)
			l.res.Count += len(took)
			l.res.Errors += len(errs)
			if len(errs) > 0 && l.res.First == "" {
				l.res.First = errs[0].Error()
			}
		})
	}
	wg.Wait()
}

// post is one POST and its answer.
func (l *loader) post(c *conn) (time.Duration, error) {
	begun := time.Now()
	status, body, err := c.do("POST", l.Path, l.Key, []byte(l.Body))
	took := time.Since(begun)
	if err == nil && status >= 300 {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	return took, err
}

// create makes a run and returns its id.
func (l *loader) create(c *conn, path string) (string, time.Duration, error) {
	begun := time.Now()
	status, body, err := c.do("POST", path, l.Key, []byte(l.Body))
	took := time.Since(begun)
	if err != nil {
		return "", took, err
	}
	id := field(body, `"run_id":"`)
	if status != 201 || id == "" {
		return "", took, fmt.Errorf("create: status %d: %s", status, body)
	}
	return id, took, nil
}

// alone is a create on a node that has nothing else to do: the run is followed to its end before the next, off the clock.
func (l *loader) alone(c *conn) (time.Duration, error) {
	id, took, err := l.create(c, l.Path)
	if err == nil {
		viewer := &conn{addr: c.addr}
		_, err = viewer.follow(l.Watch+id+"/events", l.Key, nil)
	}
	return took, err
}

// complete is a whole run, from the create's first byte to the arrival of the final event.
func (l *loader) complete(c *conn) (time.Duration, error) {
	begun := time.Now()
	id, _, err := l.create(c, l.Path)
	if err == nil {
		_, err = c.follow(l.Watch+id+"/events", l.Key, nil)
	}
	return time.Since(begun), err
}

func field(body []byte, name string) string {
	_, rest, ok := bytes.Cut(body, []byte(name))
	if !ok {
		return ""
	}
	value, _, _ := bytes.Cut(rest, []byte{'"'})
	return string(value)
}

// fan lets many watch one log and returns when the first frame beyond those that everybody had at the start arrived. Its
// Count is the number of frames delivered.
func (l *loader) fan() time.Time {
	var watching, wg sync.WaitGroup
	watching.Add(l.Connections)
	var first sync.Once
	begun := time.Now()
	for range l.Connections {
		wg.Go(func() {
			c := &conn{addr: l.Addr}
			ready, last := false, 0
			frames, err := c.follow(l.Path, l.Key, func(n int) {
				if !ready {
					ready = true
					watching.Done()
				}
				if n > 5 && last <= 5 { // beyond what a waiting run already has
					first.Do(func() { begun = time.Now() })
				}
				last = n
			})
			if !ready {
				watching.Done()
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.res.Count += frames
			if err != nil && !(l.Publish > 0 && frames == l.Frames) { // the hub knows no final event
				l.res.Errors++
				l.res.First = err.Error()
			}
			if l.Frames > 0 && frames != l.Frames {
				l.res.Errors++
				l.res.First = fmt.Sprintf("%d frames of %d", frames, l.Frames)
			}
		})
	}
	watching.Wait()
	fmt.Fprintln(os.Stderr, "watching")
	if l.Publish > 0 {
		l.publish()
	}
	wg.Wait()
	return begun
}

// publish is the hub's only writer: one POST for each frame, like a run's journal, event by event.
func (l *loader) publish() {
	c := &conn{addr: l.Addr}
	defer c.close()
	for i := range l.Publish {
		path := l.Path
		if i == l.Publish-1 {
			path += "?final=1"
		}
		if _, _, err := c.do("POST", path, "", []byte(l.Body)); err != nil {
			l.mu.Lock()
			l.res.Errors++
			l.res.First = err.Error()
			l.mu.Unlock()
			return
		}
	}
}

// idle opens streams and holds them until standard input ends.
func (l *loader) idle() error {
	conns := make([]*conn, l.Connections)
	for i := range conns {
		conns[i] = &conn{addr: l.Addr}
		if err := conns[i].send("GET", l.Path, l.Key, nil); err != nil {
			return err
		}
		status, _, _, err := conns[i].head()
		if err != nil || status != 200 {
			return errors.Join(err, errors.New("status "+strconv.Itoa(status)))
		}
	}
	fmt.Println(`{}`)
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		c.close()
	}
	return nil
}
