#!/usr/bin/env python3
"""Bongsu beside the floor and other servers: one generator, one core for the server, one for the generator.

    cargo build --release --bin bongsu --example floor
    ulimit -n 20000; benches/peers.py target/release/bongsu target/release/examples/floor

Starts nginx with Nchan, nats-server, Socket.IO 4 and a NestJS controller with @Sse as well, installing
what is missing (apt-get, npm); what cannot be had is named. Rounds are interleaved: every server once, then
every server again in the opposite order. Settings by environment, with their defaults:

    ROUNDS=5  CONNECTIONS=10000  SECONDS_PER_RUN=5  RATE=5 (publishes/s)  AHEAD=8 (on their way at once in the
    closed loop)  PAYLOAD_BYTES=128  ONLY="" (names separated by commas)  GROWTH="" (numbers of connections,
    separated by commas: Bongsu and the floor at each, instead of the table)
"""

import json, os, shutil, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent / "peers"
ROUNDS, CONNECTIONS = int(os.environ.get("ROUNDS", 5)), int(os.environ.get("CONNECTIONS", 10000))
SECONDS, RATE = float(os.environ.get("SECONDS_PER_RUN", 5)), float(os.environ.get("RATE", 5))
AHEAD, PAYLOAD = int(os.environ.get("AHEAD", 8)), int(os.environ.get("PAYLOAD_BYTES", 128))
ONLY = [name for name in os.environ.get("ONLY", "").split(",") if name]
GROWTH = [int(count) for count in os.environ.get("GROWTH", "").split(",") if count]
PORT = 18_400


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    global PORT
    PORT += 1
    return PORT


class Served:
    """A server on core 0, ended by its process id."""

    def __init__(self, command, env=None, wait_for=None, cwd=None):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=subprocess.PIPE, stderr=self.log,
                                        env=dict(os.environ, **(env or {})), cwd=cwd, text=True)
        self.address = wait_for or json.loads(self.process.stdout.readline())["address"]
        deadline = time.time() + 15
        host, port = self.address.split(":")
        import socket
        while time.time() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{command[0]} does not listen")

    def pid(self):
        """The process that does the work: nginx's only worker, else the server itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children and "nginx" in Path(f"/proc/{children[0]}/comm").read_text() else self.process.pid

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def filled(name, **values):
    text = (HERE / name).read_text()
    for key, value in values.items():
        text = text.replace(key, str(value))
    return text


def bongsu(work):
    shutil.rmtree(work / "data", ignore_errors=True)
    (work / "data").mkdir()
    made = subprocess.run([BONGSU, "key", "create", "--scopes", "publish,subscribe", "--json", "--data-dir", work / "data"],
                          check=True, capture_output=True, text=True).stdout
    served = Served([BONGSU, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", str(work / "data")],
                    env={"BONGSU__SERVER__WORKERS": "1", "BONGSU__LOGGING__LEVEL": "warn"})
    return served, ["--api-key", json.loads(made)["key"]]


def floor(_):
    return Served([FLOOR, "--bind", "127.0.0.1:0"]), []


def nchan(work):
    port = free_port()
    (work / "nchan.conf").write_text(filled("nchan.conf", PORT=port, DIR=work))
    return Served(["nginx", "-c", str(work / "nchan.conf")], wait_for=f"127.0.0.1:{port}"), []


def nats(work):
    port, websocket = free_port(), free_port()
    (work / "nats.conf").write_text(filled("nats.conf", WSPORT=websocket, PORT=port))
    served = Served(["nats-server", "-c", str(work / "nats.conf")], env={"GOMAXPROCS": "1"}, wait_for=f"127.0.0.1:{websocket}")
    return served, ["--publish-address", f"127.0.0.1:{port}"]


def node(script):
    return lambda work: (Served(["node", str(work / "node" / script)]), [])


SERVERS = {  # name: (kind for the generator, start, transports)
    "floor": ("floor", floor, ["sse", "websocket"]),
    "Bongsu": ("bongsu", bongsu, ["sse", "websocket"]),
    "Nchan": ("nchan", nchan, ["sse", "websocket"]),
    "nats-server": ("nats", nats, ["websocket"]),
    "Socket.IO": ("socketio", node("socketio.mjs"), ["websocket"]),
    "NestJS": ("nestjs", node("nestjs.mjs"), ["sse"]),
}


def install(work):
    """Names of the servers that cannot be had here, with the reason."""
    missing = {}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, packages, there in [("Nchan", ["nginx", "libnginx-mod-nchan"], Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists()),
                                  ("nats-server", ["nats-server"], shutil.which("nats-server"))]:
        if wanted(name) and not there and subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *packages], **quiet).returncode:
            missing[name] = f"apt-get install {' '.join(packages)} failed"
    if wanted("Socket.IO") or wanted("NestJS"):
        shutil.copytree(HERE, work / "node")
        if subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=work / "node", **quiet).returncode:
            missing.update(dict.fromkeys(["Socket.IO", "NestJS"], "npm install failed"))
    return missing


def wanted(name):
    return not ONLY or name in ONLY


def generate(served, kind, transport, connections, *options):
    command = ["taskset", "-c", "1", BONGSU, "bench", "fanout", "--json", "--peer", kind, "--address", served.address,
               "--transport", transport, "--connections", str(connections), "--server-pid", str(served.pid()),
               "--seconds", str(SECONDS), "--payload-bytes", str(PAYLOAD), "--topic", "topic:bench", *options]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr[-500:])
    return json.loads(run.stdout)


def measure(work, name, transport, connections):
    """Both runs against a fresh server each: at the rate, and in the closed loop."""
    kind, start, _ = SERVERS[name]
    reports = []
    for options in (["--rate-per-s", str(RATE)], ["--rate-per-s", "0", "--ahead", str(AHEAD)]):
        served, own = start(work)
        try:
            reports.append(generate(served, kind, transport, connections, *own, *options))
        finally:
            served.end()
    return reports


def spread(values, digits):
    values = [value for value in values if value is not None]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})" if values else "-"


def row(title, pairs):
    at_rate, closed = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    lost = sum(report["deliveries_lost"] + report["connections_dropped"] for report in at_rate + closed)
    cells = [spread([r["server_cpu_us_per_delivery"] for r in at_rate], 2), spread([r["latency"]["p99_ms"] for r in at_rate], 1),
             spread([r["deliveries_per_s"] for r in closed], 0), spread([r["server_cpu_us_per_delivery"] for r in closed], 2),
             spread([r["rss_idle_per_connection_kib"] for r in at_rate], 2), str(lost)]
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def head(connections):
    print(f"{connections} connections, {PAYLOAD} bytes of padding, {ROUNDS} rounds of {SECONDS:g} s, {AHEAD} publishes on their way at once in "
          f"the closed loop; the server on one core, the generator on another; Linux {os.uname().release}, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f} at the end. Median (min–max).\n")
    print(f"| | CPU, µs per delivery at {RATE:g}/s | p99 at {RATE:g}/s, ms | deliveries/s, closed loop | CPU, µs per delivery, closed loop | "
          "KiB per idle connection | lost |\n|---|---|---|---|---|---|---|")


def main():
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        work.chmod(0o755)
        if GROWTH:
            counts = {(name, transport, count): [] for count in GROWTH for name in ("floor", "Bongsu") for transport in ("sse", "websocket")}
        else:
            missing = install(work)
            counts = {(name, transport, CONNECTIONS): [] for name, (_, _, transports) in SERVERS.items() for transport in transports
                      if wanted(name) and name not in missing}
            for name, why in missing.items():
                print(f"{name} is missing: {why}.\n")
        for number in range(ROUNDS):
            for key in list(counts)[:: 1 if number % 2 == 0 else -1]:
                say(f"round {number + 1} of {ROUNDS}: {key[0]}, {key[1]}, {key[2]} connections")
                try:
                    counts[key].append(measure(work, *key))
                except (RuntimeError, OSError, ValueError) as error:
                    say(f"{key[0]} failed: {error}")
        head(", ".join(map(str, GROWTH)) or CONNECTIONS)
        for (name, transport, count), pairs in counts.items():
            title = f"{name}, {transport}" + (f", {count}" if GROWTH else "")
            row(title, pairs) if pairs else print(f"| {title} | failed in every round | | | | | |")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    BONGSU, FLOOR = (str(Path(path).resolve()) for path in sys.argv[1:])
    main()
