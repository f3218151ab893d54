package storage

import (
	"strconv"
	"time"
)

// AnswerKeys is the prefix of the keys that say when kept answers expire: AnswerKeys, the Unix second in twelve digits, and
// a slash begin each. The duty that calls SweepAnswers watches it.
const AnswerKeys = answerOrder

// NextAnswer returns when SweepAnswers will next have something to remove; ok is false when nothing is kept.
func NextAnswer(r Reader) (t time.Time, ok bool, err error) {
	err = r.Scan(Prefix(answerOrder), func(key string, _ []byte) bool {
		if len(key) < len(answerOrder)+12 {
			return true
		}
		s, err := strconv.ParseInt(key[len(answerOrder):len(answerOrder)+12], 10, 64)
		if err != nil {
			return true
		}
		t, ok = time.Unix(s+1, 0).UTC(), true
		return false
	})
	return t, ok, err
}
