package meter

import "github.com/nexixai/agentos/model"

// Words counts the words of s: runs of anything but ASCII white space.
func Words(s string) int64 {
	n, in := int64(0), false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ', '\t', '\n', '\r', '\v', '\f':
			in = false
		default:
			if !in {
				n++
			}
			in = true
		}
	}
	return n
}

// WordsOf counts the words of one message as a model of words sees it: its text and its tool calls.
func WordsOf(m *model.Message) int64 {
	n := Words(m.Content)
	for i := range m.ToolCalls {
		n += Words(m.ToolCalls[i].Name) + Words(string(m.ToolCalls[i].Arguments))
	}
	return n
}
