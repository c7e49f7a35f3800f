#!/bin/sh
# A sample fixture for --adapter exec: a "device" whose keys are files, in POSIX
# shell and openssl. It reads one JSON object per line and answers with one. A real
# fixture does the same over its cable.
#
# KEYS is a folder: KEYS/chip.pem is the chip's key, as its manifest lists it.
set -eu

member() { # value of a member with text, from the call in $call
	printf '%s\n' "$call" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'
}
base64() { openssl base64 -A "$@"; }
signature() { # of the digest in the call, by a key
	member digest | openssl base64 -d -A | openssl pkeyutl -sign -inkey "$1" | base64
}

serial=${BIRTHMARK_SERIAL:-SH0001}
unit=$KEYS/$serial
mkdir -p "$unit"

while IFS= read -r call; do
	number=$(printf '%s\n' "$call" | sed -n 's/^{"number":\([0-9]*\),.*/\1/p')
	answer="{\"number\":$number,\"ok\":true"
	case $(member step) in
	identify)
		spki=$(openssl pkey -in "$KEYS/chip.pem" -pubout -outform DER | base64)
		answer="$answer,\"serial\":\"$serial\",\"chip\":\"$CHIP\",\"spki\":\"$spki\"}"
		;;
	request)
		# The key stays until it has a confirmed certificate, so that a unit that was
		# cut off gets the same one again.
		[ -f "$unit/key.pem" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$unit/key.pem" 2>/dev/null
		csr=$(openssl req -new -key "$unit/key.pem" -subj /CN=device -outform DER | base64)
		answer="$answer,\"csr\":\"$csr\"}"
		;;
	prove) answer="$answer,\"signature\":\"$(signature "$KEYS/chip.pem")\"}" ;;
	install)
		member certificate | openssl base64 -d -A >"$unit/certificate.der"
		answer="$answer}"
		;;
	readback) answer="$answer,\"certificate\":\"$(base64 -in "$unit/certificate.der")\"}" ;;
	confirm) answer="$answer,\"signature\":\"$(signature "$unit/key.pem")\"}" ;;
	close) answer="$answer}" ;;
	*) answer="{\"number\":$number,\"ok\":false,\"error\":\"no such step\"}" ;;
	esac
	printf '%s\n' "$answer"
done
