#!/usr/bin/env bash
# What 1 000 readers that have stopped reading cost everybody else: p99 from publish to client of
# healthy listeners, with and without them, in turns.
#
#   cargo build --release && benches/stalled.sh target/release/bongsu
#
# The stalled ones hear what the others hear, with full kernel buffers and frames waiting in their
# queues, and are kept far longer than the default 10 s.
# RUNS=7 STALLED=1000 CONNECTIONS=500 RATE=20 SECONDS_PER_RUN=6 by environment.
set -euo pipefail
[[ $# -eq 1 && -x ${1:-} ]] || { echo "usage: $0 BONGSU_BINARY" >&2; exit 2; }
exec python3 - "$(realpath "$1")" "${RUNS:-7}" "${STALLED:-1000}" "${CONNECTIONS:-500}" "${RATE:-20}" "${SECONDS_PER_RUN:-6}" <<'PY'
import http.client, json, os, socket, statistics, subprocess, sys, tempfile, time

binary, (runs, stalled, connections, rate, seconds) = sys.argv[1], map(int, sys.argv[2:])
FILL_BYTES, FILLS = 60_000, 3

def publish(port, key, topic, data):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"topic": topic, "type": "fill", "data": data})
    connection.request("POST", "/v2/events", body, {"X-API-Key": key, "Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 202, answer.read()
    connection.close()

def stall(port, key):
    sockets = []
    head = f"GET /v2/realtime/stream?topics=topic:bench,topic:fill HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    for _ in range(stalled):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.connect(("127.0.0.1", port))
        one.sendall(head)
        sockets.append(one)
    for one in sockets:
        one.recv(64)
    for _ in range(FILLS):
        publish(port, key, "topic:fill", "x" * FILL_BYTES)
    time.sleep(1)
    return sockets

def metric(port, text):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        body = connection.makefile("rb").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.startswith(text))

def measure(port, key):
    command = ["taskset", "-c", "1", binary, "bench", "fanout", "--json", "--address", f"127.0.0.1:{port}", "--connections",
               str(connections), "--rate-per-s", str(rate), "--seconds", str(seconds), "--api-key", key]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert report["deliveries_lost"] == 0, report
    return report["latency"]["p99_ms"]

with tempfile.TemporaryDirectory() as data:
    made = subprocess.run([binary, "key", "create", "--scopes", "publish,subscribe", "--json", "--data-dir", data],
                          check=True, capture_output=True).stdout
    key = json.loads(made)["key"]
    environment = dict(os.environ, BONGSU__SERVER__STALL_TIMEOUT_MS="120000", BONGSU__SERVER__WORKERS="1",
                       BONGSU__METRICS__BIND="127.0.0.1:0", BONGSU__LOGGING__LEVEL="warn")
    server = subprocess.Popen(["taskset", "-c", "0", binary, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", data],
                              stdout=subprocess.PIPE, env=environment)
    try:
        line = json.loads(server.stdout.readline())
        port, metrics = (int(line[name].rsplit(":", 1)[1]) for name in ("address", "metrics_address"))
        measure(port, key)
        pairs = []
        for _ in range(runs):
            sockets = stall(port, key)
            beside = measure(port, key)
            held = metric(metrics, "bongsu_connections{")
            assert held >= stalled, f"only {held} of {stalled} stalled readers were still there"
            for one in sockets:
                one.close()
            while metric(metrics, "bongsu_connections{") > 0:
                time.sleep(0.1)
            alone = measure(port, key)
            pairs.append((alone, beside, beside / alone))
            print(f"p99 alone {alone:.2f} ms, beside {stalled} stalled readers {beside:.2f} ms", file=sys.stderr)
    finally:
        server.terminate()
        server.wait(40)
show = lambda values: f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
print(f"{connections} listeners, {rate} publishes/s, {runs} pairs of runs. Median (min–max).\n")
print("| p99 alone, ms | p99 beside the stalled, ms | ratio, pair by pair |\n|---|---|---|")
print("| " + " | ".join(show(column) for column in zip(*pairs)) + " |")
PY
