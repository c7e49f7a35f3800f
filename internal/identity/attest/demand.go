package attest

import (
	"slices"
	"strings"
)

// LevelNames returns the names of all levels, weakest first.
func LevelNames() []string {
	names := make([]string, len(levels))
	for i, l := range levels {
		names[i] = l.Name
	}
	return names
}

// Demanded says in one word what several levels demand together, for people and
// stations to read: the one that includes the others or, where none does, all that
// matter with a plus between. Names that are no levels are left out.
func Demanded(names ...string) string {
	var wanted []Level
	for _, l := range levels {
		if l.Claims != 0 && slices.Contains(names, l.Name) {
			wanted = append(wanted, l)
		}
	}
	var matter []string
	for i, l := range wanted {
		covered := slices.ContainsFunc(wanted[i+1:], func(x Level) bool { return Missing(l.Claims, x.Claims) == 0 })
		if !covered {
			matter = append(matter, l.Name)
		}
	}
	if len(matter) == 0 {
		return levels[0].Name
	}
	return strings.Join(matter, "+")
}
