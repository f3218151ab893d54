package event

// Held is how many bytes all windows hold.
func (h *Hub) Held() int64 { return h.held.Load() }
