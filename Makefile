# make test    installs what the tests need (Debian), starts a PostgreSQL of its
#              own in a temporary folder and runs every test; a skip is a failure
# make short   the tests that need nothing but Go, quickly
# make check   vet, format, staticcheck, go fix, module files, other platforms
# make bench   the figures of docs/performance.md; BENCH_QUICK=1 for the short form,
#              which leaves out `go run ./bench signers` and `swtpms`
# make fuzz    every fuzz target, FUZZTIME=20s each
# make release reproducible binaries, checksums and SBOM in dist/
# make signer  birthmark-signer and birthmark-station with PKCS #11, for this machine
#              (needs a C compiler)
# make release-check   builds twice, apart, and compares the bytes

FUZZTIME ?= 20s
TESTFLAGS ?=

.PHONY: test short check bench fuzz release release-check signer setup

test: setup
	BIRTHMARK_NO_SKIP=1 tools/postgres.sh go test -timeout 15m $(TESTFLAGS) ./...
	cd tools && go test ./...

short:
	go test -short ./...

check:
	tools/check.sh

bench: setup
	tools/postgres.sh go run ./bench
	[ -n "$(BENCH_QUICK)" ] || go run ./bench signers
	[ -n "$(BENCH_QUICK)" ] || go run ./bench swtpms

fuzz:
	tools/fuzz.sh $(FUZZTIME)

release:
	tools/release.sh dist

# PKCS #11 modules are C libraries, so this build alone uses cgo; -trimpath keeps
# it as reproducible as the compiler is.
signer:
	mkdir -p dist
	CGO_ENABLED=1 go build -trimpath -tags pkcs11 -ldflags "-s -w" -o dist/ ./cmd/birthmark-signer ./cmd/birthmark-station

release-check:
	tools/release-check.sh

setup:
	tools/setup.sh
