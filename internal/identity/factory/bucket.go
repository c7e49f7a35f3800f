package factory

import (
	"math"
	"time"
)

// perDoubling is how many buckets lie between a duration and its double: a
// percentile read from them is at most 9 % too high.
const perDoubling = 8

func bucket(d time.Duration) int64 {
	us := float64(d) / float64(time.Microsecond)
	if us <= 1 {
		return 0
	}
	return int64(math.Ceil(math.Log2(us) * perDoubling))
}

func bucketUpper(b int64) time.Duration {
	return time.Duration(math.Exp2(float64(b)/perDoubling) * float64(time.Microsecond))
}
