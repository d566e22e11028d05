#!/usr/bin/env bash
# What a delivery costs bongsu beside the floor (a program that only holds sockets and writes the
# same bytes to each). Runs both in turns on core 0, the generator on core 1, and prints a table.
#
#   cargo build --release --bin bongsu --example floor
#   benches/fanout.sh target/release/examples/floor target/release/bongsu
#
# Settings by environment, with their defaults:
#   RUNS=5  CONNECTIONS=10000  RATE=5 (publishes/s, 0 = closed loop)  SECONDS_PER_RUN=10
#   TRANSPORT=sse (or websocket)  WAVES=0 (rounds of connecting and leaving before the run)
#   PAYLOAD_BYTES=128  BONGSU_ARGS="" (more arguments for `bongsu serve`)
#   RESULTS="" (directory that keeps every run's report; default: none are kept)
set -euo pipefail

if [[ $# -ne 2 || ! -x ${1:-} || ! -x ${2:-} ]]; then
    echo "usage: $0 FLOOR_BINARY BONGSU_BINARY" >&2
    exit 2
fi
floor=$(realpath "$1") bongsu=$(realpath "$2")
RUNS=${RUNS:-5} CONNECTIONS=${CONNECTIONS:-10000} RATE=${RATE:-5}
SECONDS_PER_RUN=${SECONDS_PER_RUN:-10} PAYLOAD_BYTES=${PAYLOAD_BYTES:-128}
TRANSPORT=${TRANSPORT:-sse} WAVES=${WAVES:-0}
read -ra bongsu_args <<<"${BONGSU_ARGS:-}"

files=$(ulimit -n)
if [[ $files != unlimited ]] && ((files < CONNECTIONS + 200)); then
    echo "$CONNECTIONS connections need ulimit -n of $((CONNECTIONS + 200)), it is $files" >&2
    exit 1
fi

work=$(mktemp -d)
results=${RESULTS:-$work/results}
mkdir -p "$results"
server=

stop_server() {
    [[ -n $server ]] || return 0
    kill "$server" 2>/dev/null || true
    for _ in {1..100}; do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

trap 'stop_server; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# field NAME FILE: member NAME of the first JSON object line that has it.
field() {
    python3 - "$1" "$2" <<'PY'
import json, sys
for line in open(sys.argv[2]):
    try:
        value = json.loads(line)[sys.argv[1]]
    except (ValueError, KeyError, TypeError):
        continue
    print(value)
    break
else:
    sys.exit(1)
PY
}

# start NAME COMMAND...: starts a server on core 0 and sets server and address.
start() {
    local out=$work/$1.out log=$work/$1.log
    shift
    : >"$out"
    taskset -c 0 "$@" >"$out" 2>"$log" &
    server=$!
    for _ in {1..200}; do
        if grep -q listening "$out" && address=$(field address "$out"); then
            return 0
        fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "this server did not start listening: $*" >&2
    tail -n 20 "$log" >&2
    return 1
}

# generate NAME RUN [OPTION...]: one measured run against the server that was started.
generate() {
    local report=$results/$1-$2.json log=$work/generator.log
    local -a options=("${@:3}")
    echo "run $2 of $RUNS: $1" >&2
    if ! taskset -c 1 "$bongsu" bench fanout --json --address "$address" --server-pid "$server" \
        --connections "$CONNECTIONS" --rate-per-s "$RATE" --seconds "$SECONDS_PER_RUN" \
        --payload-bytes "$PAYLOAD_BYTES" --transport "$TRANSPORT" --waves "$WAVES" "${options[@]}" >"$report" 2>"$log"; then
        echo "the generator failed against $1:" >&2
        tail -n 20 "$log" >&2
        return 1
    fi
}

run_floor() {
    start floor "$floor" --bind 127.0.0.1:0
    generate floor "$1"
    stop_server
}

run_bongsu() {
    local data=$work/data key
    rm -rf "$data"
    mkdir "$data"
    "$bongsu" key create --tenant default --scopes publish,subscribe,manage --json \
        --data-dir "$data" >"$work/key.out"
    key=$(field key "$work/key.out")
    start bongsu "$bongsu" serve --json --bind 127.0.0.1:0 --data-dir "$data" "${bongsu_args[@]}"
    generate bongsu "$1" --api-key "$key"
    stop_server
}

for ((run = 1; run <= RUNS; run++)); do
    # The order alternates, so that what drifts on the machine does not favour one of them.
    if ((run % 2)); then
        run_floor "$run"
        run_bongsu "$run"
    else
        run_bongsu "$run"
        run_floor "$run"
    fi
done

TRANSPORT=$TRANSPORT python3 - "$results" "$RUNS" <<'PY'
import json, os, statistics, sys

results, runs = sys.argv[1], int(sys.argv[2])
def load(name):
    return [json.load(open(f"{results}/{name}-{run}.json")) for run in range(1, runs + 1)]
floor, bongsu = load("floor"), load("bongsu")

def spread(values, digits):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

def row(title, digits, pick):
    def value(report):
        try:
            return pick(report)
        except TypeError:
            return None
    ours, theirs = [value(report) for report in bongsu], [value(report) for report in floor]
    ratios = [a / b for a, b in zip(ours, theirs) if a is not None and b]
    print(f"| {title} | {spread(theirs, digits)} | {spread(ours, digits)} | {spread(ratios, 2)} |")

first = bongsu[0]
rate = f"{first['rate_per_s']:g} publishes/s" if first["rate_per_s"] else "closed loop"
load_1m = os.getloadavg()[0]
print(f"{os.environ['TRANSPORT']}, {first['connections']} connections, {rate}, {first['payload_bytes']} bytes of padding, "
      f"{runs} pairs of runs, Linux {os.uname().release}, {os.cpu_count()} cores, "
      f"load {load_1m:.1f} at the end. Median (min–max).\n")
print("| | floor | bongsu | bongsu / floor, pair by pair |")
print("|---|---|---|---|")
row("server CPU, µs per delivery", 2, lambda r: r["server_cpu_us_per_delivery"])
row("deliveries per second", 0, lambda r: r["deliveries_per_s"])
row("latency p50, ms", 2, lambda r: r["latency"]["p50_ms"])
row("latency p99, ms", 2, lambda r: r["latency"]["p99_ms"])
row("server memory idle, KiB per connection", 2, lambda r: r["rss_idle_per_connection_kib"])
row("server memory after the run, KiB per connection", 2, lambda r: r["rss_after_per_connection_kib"])
row("bytes per delivery", 0, lambda r: r["bytes_per_delivery"])
row("deliveries lost", 0, lambda r: r["deliveries_lost"])
row("connections dropped", 0, lambda r: r["connections_dropped"])
row("publishes late", 0, lambda r: r["publishes_late"])
row("generator CPU, share of its core", 2, lambda r: r["generator_cpu_share"])
PY
