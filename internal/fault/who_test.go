package fault_test

import (
	"testing"

	"github.com/birthmark/birthmark/internal/fault"
)

// Every refusal names somebody who can help.
func TestWho(t *testing.T) {
	for _, e := range fault.All() {
		if e.Code.Who() == "" {
			t.Errorf("%s: nobody", e.Code)
		}
	}
	for code, want := range map[fault.Code]string{
		fault.OrderFull:          "planner",
		fault.OrderState:         "planner",
		fault.NonceExpired:       "anyone at the line",
		fault.FixtureFailed:      "anyone at the line",
		fault.FixtureProtocol:    "test engineer",
		fault.StationNotAssigned: "line lead",
		fault.ChipWithdrawn:      "RA officer",
		fault.Unexpected:         "administrator",
		fault.Code(1):            "administrator", // of a newer server
	} {
		if got := code.Who(); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
}
