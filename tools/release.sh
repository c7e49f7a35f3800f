#!/usr/bin/env bash
# Builds the release into a folder: a static binary per platform, an SBOM beside
# each, SHA256SUMS over all. The same commit gives the same bytes, wherever and
# whenever it is built (tools/release-check.sh tries).
#
#     tools/release.sh [FOLDER]
#
# VERSION overrides the version, PLATFORMS the list.
set -euo pipefail
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
platforms=${PLATFORMS:-linux/amd64 linux/arm64 windows/amd64 darwin/amd64 darwin/arm64}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go -C tools build -o "$work/sbom" ./sbom

names=()
for platform in $platforms; do
    os=${platform%/*} arch=${platform#*/}
    name=birthmark_${version}_${os}_${arch}
    [ "$os" != windows ] || name=$name.exe
    echo "release: $name"
    CGO_ENABLED=0 GOOS=$os GOARCH=$arch GOFLAGS=-mod=readonly \
        go build -trimpath -buildvcs=false \
        -ldflags "-s -w -buildid= -X main.version=$version" \
        -o "$out/$name" ./cmd/birthmark
    "$work/sbom" --version "$version" "$out/$name" >"$out/$name.cdx.json"
    names+=("$name" "$name.cdx.json")
done

(cd "$out" && LC_ALL=C sha256sum "${names[@]}" >SHA256SUMS)
echo "release: $out/SHA256SUMS"
