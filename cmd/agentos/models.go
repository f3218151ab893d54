package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) modelsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "models",
		Short:   "List models, or talk to one",
		Example: "  agentos models list\n  agentos models chat --text hello",
	}
	list := a.modelsListCommand()
	cmd.AddCommand(list, a.modelsChatCommand(), a.modelsPricesCommand())
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
			return listing[client.Model]{
				role: roleUser, plural: "models", from: (*client.Client).Models,
				row: func(t *table, m client.Model) {
					window := "-" // not known of every server's models
					if m.ContextWindowTokens > 0 {
						window = fmt.Sprint(m.ContextWindowTokens)
					}
					t.row(m.ID, m.Provider, m.Capabilities, window, m.Tiers)
				},
				heads: []string{"model", "backend", "can", "context", "tiers"},
			}.show(cmd.Context(), a, page{all: true, limit: 1})
		},
	}
}

func (a *app) modelsPricesCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "prices",
		Short: "Show what models cost, or replace the price list",
		Example: `  agentos models prices --output json > prices.json
  agentos models prices --file prices.json`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wanted client.Prices
			if file != "" {
				if err := a.readObject(cmd, file, "prices", &wanted); err != nil {
					return err
				}
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			var p *client.Prices
			if file != "" {
				p, err = c.PutPrices(cmd.Context(), wanted)
			} else {
				p, err = c.GetPrices(cmd.Context())
			}
			if err != nil {
				return err
			}
			return a.told(c, func(t *table) {
				t.row("model", "USD a million in", "out")
				for _, name := range slices.Sorted(maps.Keys(p.Models)) {
					t.row(name, number(p.Models[name].Input), number(p.Models[name].Output))
				}
				if p.Default != nil {
					t.row("any other", number(p.Default.Input), number(p.Default.Output))
				}
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with the new price list; - reads standard input")
	return cmd
}

func (a *app) modelsChatCommand() *cobra.Command {
	var req client.ChatRequest
	var text, system string
	cmd := &cobra.Command{
		Use:   "chat --text TEXT",
		Short: "Ask a model one question, under the tenant's policy and budget",
		Long: `Ask a model one question, under the tenant's policy and budget. The answer is printed as it comes; as JSON it is printed
whole, once it's there.`,
		Example: `  agentos models chat --text "hello"
  cat question.txt | agentos models chat --model tier:balanced --text -`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("text") {
				return usage("%s needs --text, which may be - for standard input", cmd.CommandPath())
			}
			text, err := a.readText(text)
			if err != nil {
				return err
			}
			if system != "" {
				req.Messages = append(req.Messages, client.Message{Role: "system", Content: system})
			}
			req.Messages = append(req.Messages, client.Message{Role: "user", Content: text})
			return a.chat(cmd, req)
		},
	}
	cmd.Flags().StringVar(&req.Model, "model", "tier:fast", "tier:fast, tier:balanced, tier:premium, or a model's id")
	cmd.Flags().StringVar(&text, "text", "", "what to ask; - reads standard input")
	cmd.Flags().StringVar(&system, "system", "", "instructions to stand before it")
	cmd.Flags().IntVar(&req.MaxTokens, "max-tokens", 0, "most tokens of the answer")
	return cmd
}

func (a *app) chat(cmd *cobra.Command, req client.ChatRequest) error {
	c, err := a.dial(roleUser)
	if err != nil {
		return err
	}
	defer c.close()
	if a.output == "json" {
		if _, err := c.Chat(cmd.Context(), req); err != nil {
			return err
		}
		return a.json(c.body())
	}
	var last client.ChatAnswer // what is told once, at the end
	begun := false
	for piece, err := range c.ChatStream(cmd.Context(), req) {
		if err != nil {
			if begun {
				fmt.Fprintln(a.out)
			}
			return err
		}
		for _, choice := range piece.Choices {
			begun = begun || choice.Delta.Content != ""
			if _, err := fmt.Fprint(a.out, lines(choice.Delta.Content)); err != nil {
				return err
			}
		}
		if piece.Usage != nil {
			last = *piece
		}
	}
	fmt.Fprintln(a.out)
	if last.Route != nil && last.PolicyOutcome != nil {
		a.say("%s/%s, %d tokens, policy %s", plain(last.Route.Backend), plain(last.Route.Model), last.Usage.TotalTokens, plain(last.PolicyOutcome.Decision))
	}
	return nil
}
