# shellcheck shell=bash
# For scripts that start servers for a test: a folder and processes that end with the script, however it ends; free ports;
# waiting for an event. Sourced, not run. A script with more to clean up does that in a function `give_back`.

# A healthy server answers within seconds.
PATIENCE=30

SCRIPT=${0##*/}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/$SCRIPT.XXXXXX")
# The processes to kill at the end.
STARTED=()

give_back() {
    :
}

clean_up() {
    local status=$?
    trap - EXIT
    for pid in "${STARTED[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    give_back
    # Never into a file system that is still mounted below.
    if grep -q " $WORK/" /proc/self/mounts; then
        echo "$SCRIPT: something is still mounted below $WORK: it stays" >&2
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints why, with the logs, and ends.
fail() {
    local log
    echo "$SCRIPT: $*" >&2
    for log in "$WORK"/*.log; do
        [ -e "$log" ] || continue
        echo "--- ${log##*/}" >&2
        tail -n 30 "$log" >&2
    done
    exit 1
}

step() {
    echo "== $*"
}

# Polls a command until it succeeds.
until_true() {
    local what=$1 deadline=$((SECONDS + PATIENCE))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "never: $what"
        sleep 0.2
    done
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts a Redis on loopback that keeps nothing; REDIS_PORT is where.
start_redis() {
    REDIS_PORT=$(free_port)
    redis-server --port "$REDIS_PORT" --bind 127.0.0.1 --save '' --appendonly no --dir "$WORK" >"$WORK/redis.log" 2>&1 &
    STARTED+=($!)
    until_true "Redis answers" redis-cli -p "$REDIS_PORT" ping
}
