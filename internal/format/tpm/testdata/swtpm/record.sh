#!/bin/sh
# Records what a real TPM says, for the tests of package tpm: public areas, names,
# attestations and signatures, made with swtpm and tpm2-tools. The files are
# checked in; run this again only to add some: all keys and values change.
#
#   sh record.sh    # in this folder; needs swtpm, swtpm-tools and tpm2-tools
set -eu
out=$PWD
state=$(mktemp -d)
trap 'kill "$(cat "$state/pid")"; rm -rf "$state"' EXIT

mkdir "$state/ca" "$state/certs"
cat > "$state/localca.conf" <<CONF
statedir=$state/ca
signingkey=$state/ca/signkey.pem
issuercert=$state/ca/issuercert.pem
certserial=$state/ca/certserial
CONF
cat > "$state/localca.options" <<CONF
--platform-manufacturer ExampleWidgets
--platform-version 1.0
--platform-model GW-100
CONF
cat > "$state/setup.conf" <<CONF
create_certs_tool=/usr/bin/swtpm_localca
create_certs_tool_config=$state/localca.conf
create_certs_tool_options=$state/localca.options
active_pcr_banks=sha256
CONF
swtpm_setup --tpm2 --tpm-state "$state" --config "$state/setup.conf" --create-ek-cert --create-platform-cert \
	--overwrite --pcr-banks sha256,sha384 --vmid SN0001 --write-ek-cert-files "$state/certs" --logfile "$state/log"
swtpm socket --tpm2 --tpmstate "dir=$state" --flags not-need-init,startup-clear --daemon --pid "file=$state/pid" \
	--server "type=unixio,path=$state/tpm.sock" --ctrl "type=unixio,path=$state/tpm.sock.ctrl"
export TPM2TOOLS_TCTI="swtpm:path=$state/tpm.sock"
flush() { tpm2_flushcontext -t; tpm2_flushcontext -l; tpm2_flushcontext -s; }

# Certificates of the endorsement keys, and the platform's, whose names differ.
cp "$state/certs/ek-rsa2048.crt" "$out/ek-L-1.crt"
cp "$state/certs/ek-secp384r1.crt" "$out/ek-H-3.crt"
tpm2_nvread -C o 0x01c08000 -o "$out/platform.crt"

# Endorsement keys (TPM2B_PUBLIC). libtpms has no RSA-4096; the tool has neither
# H-1 nor H-2.
for key in L-1:rsa2048 L-2:ecc256 H-3:ecc384 H-4:ecc521 H-6:rsa3072; do
	tpm2_createek -c "$state/ek.ctx" -G "${key#*:}" -u "$out/ek-${key%:*}.pub" > /dev/null
	flush
done

# Attestation keys, each with its name, a certified subject key and two quotes.
tpm2_createek -c 0x81010003 -G rsa2048 -u "$state/ek.pub" > /dev/null
flush
tpm2_createprimary -C o -G ecc -c "$state/parent.ctx" > /dev/null
tpm2_evictcontrol -C o -c "$state/parent.ctx" 0x81000001 > /dev/null
flush
for key in rsassa:rsa:rsassa:sha256 rsapss:rsa:rsapss:sha256 ecdsa:ecc256:ecdsa:sha256 ecdsa384:ecc384:ecdsa:sha384 sha1:rsa:rsassa:sha1; do
	name=${key%%:*} rest=${key#*:}
	alg=${rest%%:*} rest=${rest#*:}
	scheme=${rest%%:*} hash=${rest#*:}
	tpm2_createak -C 0x81010003 -c "$state/ak.ctx" -G "$alg" -g "$hash" -s "$scheme" -u "$out/ak-$name.pub" -n "$out/ak-$name.name" > /dev/null
	flush
	tpm2_evictcontrol -C o -c "$state/ak.ctx" 0x81000002 > /dev/null
	flush
	tpm2_create -C 0x81000001 -G ecc256:ecdsa-sha256 -u "$state/sub.pub" -r "$state/sub.priv" \
		-a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign' > /dev/null
	tpm2_load -C 0x81000001 -u "$state/sub.pub" -r "$state/sub.priv" -c "$state/sub.ctx" -n "$out/subject-$name.name" > /dev/null
	flush
	cp "$state/sub.pub" "$out/subject-$name.pub"
	tpm2_certify -c "$state/sub.ctx" -C 0x81000002 -g "$hash" --scheme "$scheme" -o "$out/certify-$name.attest" -s "$out/certify-$name.sig"
	flush
	tpm2_quote -c 0x81000002 -g "$hash" --scheme "$scheme" -l sha256:0,1,7,23 -q 0102030405060708090a0b0c0d0e0f10 \
		-m "$out/quote-$name.attest" -s "$out/quote-$name.sig" > /dev/null
	tpm2_evictcontrol -C o -c 0x81000002 > /dev/null
	flush
done

# A subject key on RSA, and attestations of other kinds.
tpm2_createak -C 0x81010003 -c "$state/ak.ctx" -G ecc256 -g sha256 -s ecdsa -u "$state/ak.pub" > /dev/null
flush
tpm2_create -C 0x81000001 -G rsa2048:null -u "$out/subject-rsa.pub" -r "$state/sub.priv" \
	-a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign' > /dev/null
flush
tpm2_gettime -c "$state/ak.ctx" -s ecdsa -q 0102 -o "$out/time.sig" --attestation "$out/time.attest" > /dev/null
flush
