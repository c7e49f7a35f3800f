#!/usr/bin/env bash
# Builds the release into a folder: static binaries of each program and platform, an
# SBOM beside each, SHA256SUMS over all. The same commit gives the same bytes, wherever and
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
# The programs of a system. birthmark-signer asks Linux who its callers are. It is
# built without PKCS #11 here: that needs cgo and the C library of the machine it
# is to run on (`make signer`).
programs() {
    echo birthmark birthmark-station birthmark-agent
    [ "$1" != linux ] || echo birthmark-signer
}

for platform in $platforms; do
    os=${platform%/*} arch=${platform#*/}
    for program in $(programs "$os"); do
        name=${program}_${version}_${os}_${arch}
        [ "$os" != windows ] || name=$name.exe
        echo "release: $name"
        CGO_ENABLED=0 GOOS=$os GOARCH=$arch GOFLAGS=-mod=readonly \
            go build -trimpath -buildvcs=false \
            -ldflags "-s -w -buildid= -X main.version=$version" \
            -o "$out/$name" ./cmd/$program
        "$work/sbom" --version "$version" "$out/$name" >"$out/$name.cdx.json"
        names+=("$name" "$name.cdx.json")
    done
done

# The licences of what is linked ask that their texts come along.
for name in "${names[@]}"; do
    case $name in *.cdx.json) ;; *) go version -m "$out/$name" ;; esac
done | awk '$1 == "dep" { print $2 }' | LC_ALL=C sort -u | while read -r module; do
    folder=$(go list -m -f '{{.Dir}}' "$module")
    for text in "$folder"/LICEN[CS]E* "$folder"/COPYING*; do
        [ -f "$text" ] || continue
        printf '==== %s: %s\n\n' "$module" "$(basename "$text")"
        cat "$text"
        printf '\n'
    done
done >"$out/third-party-licenses.txt"
names+=(third-party-licenses.txt)

(cd "$out" && LC_ALL=C sha256sum "${names[@]}" >SHA256SUMS)
echo "release: $out/SHA256SUMS"
