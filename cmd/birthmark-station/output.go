package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/edge/station"
)

// outcomeLine is the one line about a unit.
func outcomeLine(o *station.Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-6s %s", o.Result, orDash(o.DeviceSerial))
	if o.Nest != "" {
		fmt.Fprintf(&b, " [%s]", o.Nest)
	}
	if o.Result != station.Fail {
		fmt.Fprintf(&b, " %v", (time.Duration(o.CycleMillis) * time.Millisecond).Round(time.Millisecond))
		if o.Message != "" {
			fmt.Fprintf(&b, "; %s", o.Message)
		}
		if o.Replayed {
			b.WriteString("; it had this certificate already")
		}
		return b.String()
	}
	fmt.Fprintf(&b, " %s %s", o.Code, o.Message)
	if o.Detail != "" {
		fmt.Fprintf(&b, ": %s", o.Detail)
	}
	fmt.Fprintf(&b, " | do: %s | who: %s", o.Remedy, o.Who)
	if o.Scrapped {
		b.WriteString(" | scrapped")
	}
	return b.String()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
