package main

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
)

func (a *app) modelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "models",
		Short:   "List models, or talk to one",
		Example: "  agentos models list\n  agentos models chat --text hello",
	}
	list := a.modelsListCommand()
	cmd.AddCommand(list, a.modelsChatCommand())
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("%s has no command %q", cmd.CommandPath(), args[0])
		}
		return nil
	}
	cmd.RunE = list.RunE // a bare "models" lists them
	return cmd
}

func (a *app) modelsListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the models that the tenant may use",
		Example: "  agentos models list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			raw, err := c.raw(cmd.Context(), http.MethodGet, "/v1/models", nil)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(raw)
			}
			var body struct {
				Models []struct {
					ID           string   `json:"model_id"`
					Provider     string   `json:"provider"`
					Capabilities []string `json:"capabilities"`
					Context      int64    `json:"context_window_tokens"`
					Tiers        []string `json:"tiers"`
				} `json:"models"`
			}
			if err := json.Unmarshal(raw, &body); err != nil {
				return err
			}
			t := newTable(a.out, "model", "backend", "can", "context", "tiers")
			for _, m := range body.Models {
				t.row(m.ID, m.Provider, m.Capabilities, m.Context, m.Tiers)
			}
			return t.flush()
		},
	}
}

func (a *app) modelsChatCommand() *cobra.Command {
	var model, text, system string
	var most int
	cmd := &cobra.Command{
		Use:   "chat --text TEXT",
		Short: "Ask a model one question, under the tenant's policy and budget",
		Example: `  agentos models chat --text "hello"
  cat question.txt | agentos models chat --model tier:balanced --text -`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("text") {
				return usage("%s needs --text, which may be - for standard input", cmd.CommandPath())
			}
			if text == "-" {
				raw, err := a.readFile("-")
				if err != nil {
					return err
				}
				text = string(raw)
			}
			messages := []map[string]any{}
			if system != "" {
				messages = append(messages, map[string]any{"role": "system", "content": system})
			}
			body := map[string]any{"model": model, "messages": append(messages, map[string]any{"role": "user", "content": text})}
			if most > 0 {
				body["max_tokens"] = most
			}
			return a.chat(cmd, body)
		},
	}
	cmd.Flags().StringVar(&model, "model", "tier:fast", "tier:fast, tier:balanced, tier:premium, or a model's id")
	cmd.Flags().StringVar(&text, "text", "", "what to ask; - reads standard input")
	cmd.Flags().StringVar(&system, "system", "", "instructions to stand before it")
	cmd.Flags().IntVar(&most, "max-tokens", 0, "most tokens of the answer")
	return cmd
}

func (a *app) chat(cmd *cobra.Command, body any) error {
	c, err := a.dial(roleUser)
	if err != nil {
		return err
	}
	defer c.close()
	raw, err := c.raw(cmd.Context(), http.MethodPost, "/v1/chat/completions", body)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.json(raw)
	}
	var answer struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
		Usage struct {
			Total int64 `json:"total_tokens"`
		} `json:"usage"`
		Route struct {
			Backend string `json:"backend"`
			Model   string `json:"model"`
		} `json:"route"`
		Policy struct {
			Decision string `json:"decision"`
		} `json:"policy_outcome"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	for _, choice := range answer.Choices {
		if _, err := fmt.Fprintln(a.out, lines(choice.Message.Content)); err != nil {
			return err
		}
	}
	a.say("%s/%s, %d tokens, policy %s", plain(answer.Route.Backend), plain(answer.Route.Model), answer.Usage.Total, plain(answer.Policy.Decision))
	return nil
}
