package profile

import (
	"embed"
	"strings"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// Preset returns the text of a profile that comes with the product.
func Preset(name string) ([]byte, bool) {
	text, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	return text, err == nil
}

// Presets returns the names of the profiles that come with the product, sorted.
func Presets() []string {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}
