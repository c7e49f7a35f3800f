#!/usr/bin/env bash
# Installs what the tests need from Debian packages: PostgreSQL, a TPM and an HSM
# in software, and the foreign clients. Installs only what is missing. Where there
# is no apt-get it names what is missing and goes on: the tests then say which of
# them cannot run.
set -euo pipefail

packages=(
    postgresql                      # the second storage engine
    strongswan-pki                  # `pki --est`, an EST client
    libstrongswan-standard-plugins  # without these two, pki has neither curl
    libstrongswan-extra-plugins     # nor elliptic curves
    gnutls-bin                      # ocsptool and certtool, the second opinion
    swtpm                           # a TPM 2.0 in software
    swtpm-tools                     # and what a maker puts into one: EK certificates
    tpm2-tools                      # a second program that speaks to TPMs
    tpm2-openssl                    # curl and mosquitto_pub with a key in a TPM
    tpm2-abrmd                      # and enough room in the TPM for them
    libtss2-tcti-tabrmd0
    dbus                            # over which it is asked
    softhsm2                        # an HSM in software
    opensc                          # `pkcs11-tool`, a second program that speaks to HSMs
    mosquitto                       # an MQTT broker for devices to connect to
    mosquitto-clients
    strace                          # power cuts: syncs that do nothing
    e2fsprogs                       # power cuts: a file system of their own
    mount
    gcc                             # the device's side of the serial line
    libc6-dev
    zbar-tools                      # reads the labels' codes
    librsvg2-bin                    # draws them
    openssl
    curl
    jq
    make
    git
    ca-certificates
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    for program in postgres pki ocsptool cc zbarimg rsvg-convert openssl curl jq \
        swtpm swtpm_setup tpm2 softhsm2-util pkcs11-tool mosquitto mosquitto_pub tpm2-abrmd dbus-daemon; do
        command -v "$program" >/dev/null || echo "setup: missing: $program (install it with this system's package manager)"
    done
    exit 0
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    echo "setup: missing: ${missing[*]}; install them as root" >&2
    exit 1
fi

# Debian's package would make a database cluster and start it; the tests start
# their own. The file must be there before the package is.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' |
        "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi

# Mosquitto's would start a broker that is open to whoever reaches it, now and at
# every boot, tpm2-abrmd's would take this machine's TPM. A unit that is masked before
# it comes is not started.
for unit in mosquitto tpm2-abrmd; do
    if [[ " ${missing[*]} " == *" $unit "* && ! -e /etc/systemd/system/$unit.service ]]; then
        "${as_root[@]}" mkdir -p /etc/systemd/system
        "${as_root[@]}" ln -s /dev/null "/etc/systemd/system/$unit.service"
    fi
done

echo "setup: installing ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends -o Dpkg::Options::=--force-confold "${missing[@]}"
