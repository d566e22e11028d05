#!/usr/bin/env bash
# From the start of the process to the first request served (embedded), in milliseconds: on an empty
# data directory (schema and first key are made) and on one that has been served before.
#
#   cargo build --release && benches/start.sh target/release/bongsu
#
# RUNS=20 by environment.
set -euo pipefail
[[ $# -eq 1 && -x ${1:-} ]] || { echo "usage: $0 BONGSU_BINARY" >&2; exit 2; }
exec python3 - "$(realpath "$1")" "${RUNS:-20}" <<'PY'
import json, socket, statistics, subprocess, sys, tempfile, time

binary, runs = sys.argv[1], int(sys.argv[2])

def once(data_dir):
    began = time.monotonic()
    server = subprocess.Popen([binary, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", data_dir],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        host, port = json.loads(server.stdout.readline())["address"].rsplit(":", 1)
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return (time.monotonic() - began) * 1000
    finally:
        server.terminate()
        server.wait(30)

print("| data directory | median ms | min–max ms |\n|---|---|---|")
for name in ("empty", "served before"):
    with tempfile.TemporaryDirectory() as kept:
        once(kept)
        figures = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as fresh:
                figures.append(once(fresh if name == "empty" else kept))
    print(f"| {name} | {statistics.median(figures):.0f} | {min(figures):.0f}–{max(figures):.0f} |")
PY
