#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own:
#
#     tools/postgres.sh go test ./internal/store/...
#
# The server lives in a temporary folder, listens only on a Unix socket there,
# syncs every commit as in production, and is stopped and removed however the
# command ends. The command finds it through
#
#     BIRTHMARK_TEST_POSTGRES      connection string of a superuser
#     BIRTHMARK_TEST_POSTGRES_PID  its process, for measuring its CPU time
#
# A server that is named already is used as it is. POSTGRES_OPTIONS adds
# settings ("-c shared_buffers=1GB"), TMPDIR chooses the disk.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 COMMAND..." >&2; exit 2; }
[ -z "${BIRTHMARK_TEST_POSTGRES:-}" ] || exec "$@"

bin=
for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) \
    "$(dirname "$(command -v postgres || echo /nowhere/postgres)")"; do
    if [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ]; then
        bin=$folder
        break
    fi
done
if [ -z "$bin" ]; then
    echo "postgres.sh: no PostgreSQL server on this machine; the tests that need it will say so" >&2
    exec "$@"
fi

home=$(mktemp -d "${TMPDIR:-/tmp}/birthmark-pg.XXXXXX")
server=
stop() {
    status=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -INT "$server" 2>/dev/null || true # "fast" shutdown
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$home"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# PostgreSQL refuses to run as root.
drop=()
if [ "$(id -u)" = 0 ]; then
    account=postgres
    id "$account" >/dev/null 2>&1 || account=nobody
    chown "$account" "$home"
    drop=(setpriv "--reuid=$account" "--regid=$(id -g "$account")" --clear-groups)
fi

( cd "$home" && "${drop[@]}" "$bin/initdb" --pgdata="$home/data" --username=birthmark \
    --auth=trust --encoding=UTF8 --locale=C --no-sync >"$home/initdb.log" 2>&1 ) ||
    { cat "$home/initdb.log" >&2; exit 1; }

# --pdeathsig: the server goes when this script goes, even by SIGKILL.
linger=()
command -v setpriv >/dev/null && linger=("${drop[@]:-setpriv}" --pdeathsig INT)
# shellcheck disable=SC2086 # options are words
"${linger[@]}" "$bin/postgres" -D "$home/data" -k "$home" -c listen_addresses= \
    -c fsync=on -c synchronous_commit=on -c full_page_writes=on \
    -c max_connections=200 -c shared_buffers=256MB -c max_wal_size=2GB \
    ${POSTGRES_OPTIONS:-} >"$home/server.log" 2>&1 &
server=$!

for _ in $(seq 300); do
    "$bin/pg_isready" -q -h "$home" -U birthmark -d postgres && break
    if ! kill -0 "$server" 2>/dev/null; then
        cat "$home/server.log" >&2
        exit 1
    fi
    sleep 0.1
done

export BIRTHMARK_TEST_POSTGRES="postgres://birthmark@/postgres?host=$home&sslmode=disable"
export BIRTHMARK_TEST_POSTGRES_PID=$server
"$@"
