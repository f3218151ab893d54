package event

import (
	"strconv"
	"strings"
)

// keyDigits is how many digits the sequence has in a key, so that keys sort by it.
const keyDigits = 12

// maxSequence is the largest sequence a key can hold.
const maxSequence = 1e12 - 1

// JournalPrefix is the beginning of the keys of one run's events.
func JournalPrefix(tenantID, runID string) string {
	b := make([]byte, 0, len("tenant//runs//events/")+len(tenantID)+len(runID))
	return string(appendJournalPrefix(b, tenantID, runID))
}

// Key is the key of one event.
func Key(tenantID, runID string, sequence uint64) string {
	b := make([]byte, 0, len("tenant//runs//events/")+len(tenantID)+len(runID)+keyDigits)
	return string(appendSequence(appendJournalPrefix(b, tenantID, runID), sequence))
}

const veilTail = "/veil"

// VeilKey is the key that is there for as long as a run's final event is not for the run's tenant to see (see Hub.Follow).
// It comes with the run's first event or never, and once it has gone it does not come back.
func VeilKey(tenantID, runID string) string {
	return "tenant/" + tenantID + "/runs/" + runID + veilTail
}

// veilOf is the key of the veil of a journal with this prefix.
func veilOf(journal string) string { return strings.TrimSuffix(journal, "/events/") + veilTail }

// splitVeil takes the key of a veil apart into its journal's prefix; ok is false for any other key.
func splitVeil(key string) (journal string, ok bool) {
	of, ok := strings.CutSuffix(key, veilTail)
	if !ok {
		return "", false
	}
	part := strings.Split(of, "/")
	if len(part) != 4 || part[0] != "tenant" || part[2] != "runs" {
		return "", false
	}
	return of + "/events/", true
}

func appendJournalPrefix(b []byte, tenantID, runID string) []byte {
	b = append(b, "tenant/"...)
	b = append(b, tenantID...)
	b = append(b, "/runs/"...)
	b = append(b, runID...)
	return append(b, "/events/"...)
}

func appendSequence(b []byte, sequence uint64) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], sequence, 10)
	for i := len(d); i < keyDigits; i++ {
		b = append(b, '0')
	}
	return append(b, d...)
}

// splitKey takes the key of an event apart into its journal's prefix and its sequence; ok is false for any other key.
func splitKey(key string) (journal string, sequence uint64, ok bool) {
	const tail = len("/events/") + keyDigits
	if len(key) <= tail || key[len(key)-tail:len(key)-keyDigits] != "/events/" {
		return "", 0, false
	}
	for _, c := range []byte(key[len(key)-keyDigits:]) {
		if c < '0' || c > '9' {
			return "", 0, false
		}
		sequence = sequence*10 + uint64(c-'0')
	}
	return key[:len(key)-keyDigits], sequence, true
}
