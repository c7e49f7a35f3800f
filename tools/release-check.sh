#!/usr/bin/env bash
# Proves that a release is reproducible: builds it here, then from a copy of the
# sources at another path with an empty build cache, and compares every byte.
# PLATFORMS="linux/amd64" makes it short.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
export VERSION

tools/release.sh "$work/one"
mkdir "$work/elsewhere"
tar -c --exclude=./.git --exclude=./dist . | tar -x -C "$work/elsewhere"
GOCACHE="$work/cache" "$work/elsewhere/tools/release.sh" "$work/two"

diff -r "$work/one" "$work/two"
(cd "$work/two" && sha256sum --check --quiet SHA256SUMS)
echo "release-check: identical"
