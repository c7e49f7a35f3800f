#!/usr/bin/env bash
# Runs every static check, also after one has failed, and says how each ended.
# Needs only Go: the tools are pinned in tools/go.mod.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()
step() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'ok    %s\n' "$name"
    else
        printf 'FAIL  %s\n%s\n' "$name" "$output"
        failed+=("$name")
    fi
}

tool() { go tool -modfile=tools/go.mod "$@"; }

gofumpt() {
    local files
    files=$(tool gofumpt -l .)
    [ -z "$files" ] || { echo "not formatted (run gofumpt -w): $files"; return 1; }
}

vet_for() { GOOS=$1 GOARCH=$2 CGO_ENABLED=0 go vet ./...; }

# Known holes in what is really called. The database is on the network; where it
# cannot be reached that is said, and is no failure.
govulncheck() {
    local output
    if output=$(timeout 300 go tool -modfile=tools/go.mod govulncheck ./... 2>&1); then
        return 0
    fi
    case $output in
    *"fetching vulnerabilities"* | *"dial tcp"* | *"no such host"*) return 77 ;;
    esac
    printf '%s\n' "$output"
    return 1
}

step "go vet" go vet ./...
step "go vet windows" vet_for windows amd64
step "go vet macOS" vet_for darwin arm64
# What is built with cgo, where there is a C compiler.
if command -v cc >/dev/null; then
    step "go vet pkcs11" env CGO_ENABLED=1 go vet -tags pkcs11 ./cmd/birthmark-signer ./cmd/birthmark-station ./internal/pki/... ./internal/edge/...
else
    echo "skip  go vet pkcs11: no C compiler"
fi
step "gofumpt" gofumpt
step "staticcheck" tool staticcheck ./...
step "go fix" go fix -diff ./...
step "go mod tidy" go mod tidy -diff
step "go mod tidy, tools" go -C tools mod tidy -diff
step "go mod verify" go mod verify
step "go vet, tools" go -C tools vet ./...
step "archtest" go test ./internal/archtest/
if vulnerable=$(govulncheck); then
    echo "ok    govulncheck"
elif [ $? = 77 ]; then
    echo "skip  govulncheck: no vulnerability database"
else
    printf 'FAIL  govulncheck\n%s\n' "$vulnerable"
    failed+=(govulncheck)
fi

[ ${#failed[@]} = 0 ] || { echo "check: failed: ${failed[*]}"; exit 1; }
echo "check: all passed"
