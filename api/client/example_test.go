package client_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
)

// A run is created, followed to its end, and looked at.
func ExampleClient_Follow() {
	key, err := os.ReadFile(".agentos/keys/tnt_demo.tenant_user.key")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Options{BaseURL: "http://127.0.0.1:8420", Key: strings.TrimSpace(string(key))})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	run, err := c.CreateRun(ctx, "agt_sample_echo_v1", client.RunCreate{Input: client.Text{Text: "hello"}})
	if client.Is(err, "rate_limited") {
		log.Fatal("too many runs at once: ", err)
	}
	if err != nil {
		log.Fatal(err)
	}
	for frame, err := range c.Follow(ctx, run.ID, 0) {
		switch {
		case err != nil:
			log.Fatal(err)
		case frame.Event != nil:
			fmt.Println(frame.Event.Sequence, frame.Event.Type)
		}
	}
	if run, err = c.GetRun(ctx, run.ID); err == nil && run.Output != nil {
		fmt.Println(run.Output.Text)
	}
}

// A list is gone through as far as it is wanted; the pages behind it are asked for on the way.
func ExampleList_All() {
	c, err := client.New(client.Options{BaseURL: "http://127.0.0.1:8420", Key: "aos_…"})
	if err != nil {
		log.Fatal(err)
	}
	for run, err := range c.Runs(client.RunFilter{Status: "failed"}).All(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(run.ID, run.CreatedAt)
	}
}
