#!/usr/bin/env bash
# Runs every fuzz target of the tree for a while, one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:-20s}
status=0
while IFS=: read -r file target; do
    echo "fuzz: $target in $(dirname "$file")"
    go test -run='^$' -fuzz="^$target\$" -fuzztime="$seconds" "./$(dirname "$file")" || status=1
done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' internal cmd tools |
    sed 's/func //' | sort)
exit $status
