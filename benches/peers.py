#!/usr/bin/env python3
"""Bongsu beside the floor and other servers, measured by one generator in interleaved rounds.

    cargo build --release --bin bongsu --example floor
    benches/peers.py MODE target/release/bongsu target/release/examples/floor

MODE is what to measure:
    fanout   every server: processor time at a rate; deliveries per second in the closed loop, where the next event is
             published when the previous one has arrived, with one publisher and with several; memory
    memory   every server: memory per idle connection; again after three waves of connections and a burst of
             large messages
    growth   the floor and Bongsu at growing numbers of connections
    topics   the floor and Bongsu with many topics, on all cores

nginx with Nchan, nats-server, Socket.IO 4 and a NestJS controller with @Sse are installed if they are missing
(apt-get, npm); what cannot be had is named. In every mode but the last the server has core 0 and the generator
core 1. Bongsu's events are durable, in its log on the disk before they are answered; all the others only pass theirs on. A round is every server once; the next round takes them in the opposite order. Each server is ended by its
process id, each run by its time limit. Settings by environment, with their defaults:

    ROUNDS=5  SECONDS_PER_RUN=4  CONNECTIONS=10000 (topics: 18000)  RATE=5 (publishes/s; topics: 278, which are
    50 000 deliveries/s)  TOPICS=1 (topics: 100)  PUBLISHERS=8 (connections that publish, each when its last publish
    is answered, in the second closed loop and with topics)  PAYLOAD_BYTES=128  BURST_BYTES=32768
    GROWTH=100,1000,10000,18000  ONLY="" (names of servers, separated by commas)  RESULTS="" (directory that keeps
    every run's report)
"""

import json, os, resource, select, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"
START_S, STOP_S = 20, 20


def setting(name, default):
    return type(default)(os.environ.get(name) or default)


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


class Served:
    """A running server; it says where it listens as a line of JSON, unless the address is known."""

    def __init__(self, cores, command, env=None, address=None, **options):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([*cores, *map(str, command)], stdout=subprocess.PIPE, stderr=self.log,
                                        env={**os.environ, **(env or {})}, text=True, **options)
        try:
            self.address = address or self.said()
            self.wait_for(self.address)
        except BaseException:
            self.end()
            raise

    def said(self):
        if not select.select([self.process.stdout], [], [], START_S)[0]:
            raise RuntimeError("it did not say where it listens")
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"it ended: {self.log.read()[-500:]}")
        self.told = json.loads(line)
        return self.told["address"]

    def wait_for(self, address):
        host, port = address.split(":")
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.05)
        self.log.seek(0)
        raise RuntimeError(f"it does not listen: {self.log.read()[-500:]}")

    def pid(self):
        """The process that does the work: nginx's only worker, else the server itself."""
        if self.process.args[-3] != "nginx":
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (worker,) = (pid for pid in children if "nginx" in Path(f"/proc/{pid}/comm").read_text())
        return worker

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def bongsu(cores, work):
    shutil.rmtree(work / "data", ignore_errors=True)
    command = [BONGSU, "key", "create", "--scopes", "publish,subscribe", "--json", "--data-dir", work / "data"]
    key = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=START_S).stdout)["key"]
    env = {"BONGSU__LOGGING__LEVEL": "warn", **({"BONGSU__SERVER__WORKERS": "1"} if cores else {})}
    return Served(cores, [BONGSU, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", work / "data"], env), ["--api-key", key]


def floor(cores, _):
    return Served(cores, [FLOOR, "--bind", "127.0.0.1:0"]), []


def configured(work, name, **values):
    text = (PEERS / name).read_text()
    for key, value in values.items():
        text = text.replace(key, str(value))
    (work / name).write_text(text)
    return work / name


def nchan(cores, work):
    port = free_port()
    config = configured(work, "nchan.conf", PORT=port, DIR=work)
    return Served(cores, ["nginx", "-c", config], address=f"127.0.0.1:{port}"), []


def nats(cores, work):
    port, websocket = free_port(), free_port()
    config = configured(work, "nats.conf", WSPORT=websocket, PORT=port)
    served = Served(cores, ["nats-server", "-c", config], {"GOMAXPROCS": "1"}, f"127.0.0.1:{websocket}")
    return served, ["--publish-address", f"127.0.0.1:{port}"]


def node(script):
    return lambda cores, work: (Served(cores, ["node", work / "node" / script], {"NODE_ENV": "production"}), [])


SERVERS = {  # name: (kind for the generator, start, transports)
    "floor": ("floor", floor, ["sse", "websocket"]),
    "Bongsu": ("bongsu", bongsu, ["sse", "websocket"]),
    "Nchan": ("nchan", nchan, ["sse", "websocket"]),
    "nats-server": ("nats", nats, ["websocket"]),
    "Socket.IO": ("socketio", node("socketio.mjs"), ["websocket"]),
    "NestJS": ("nestjs", node("nestjs.mjs"), ["sse"]),
}


def install(work, names):
    """Installs what is missing of these servers; those that cannot be had, with the reason."""
    missing = {}

    def made(command, **options):
        try:
            return subprocess.run(command, capture_output=True, timeout=300, **options).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    is_there = {"Nchan": Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists(), "nats-server": shutil.which("nats-server")}
    for name, packages in {"Nchan": ["nginx", "libnginx-mod-nchan"], "nats-server": ["nats-server"]}.items():
        if name in names and not is_there[name] and not made(["apt-get", "install", "-y", "--no-install-recommends", *packages]):
            missing[name] = f"`apt-get install {' '.join(packages)}` failed"
    if {"Socket.IO", "NestJS"} & set(names):
        shutil.copytree(PEERS, work / "node")
        if not made(["npm", "install", "--no-audit", "--no-fund"], cwd=work / "node"):
            missing.update(dict.fromkeys(["Socket.IO", "NestJS"], "node is missing or `npm install` failed"))
    return missing


def version(name, work):
    """A peer's name with its version; None for what is built here."""
    packages = {"Socket.IO": "socket.io", "NestJS": "@nestjs/core"}
    if name in packages:
        package = json.loads((work / "node/node_modules" / packages[name] / "package.json").read_text())
        return f"{name} {package['version']}"
    debian = {"Nchan": "libnginx-mod-nchan", "nats-server": "nats-server"}
    if name in debian:
        found = subprocess.run(["dpkg-query", "-Wf", "${Version}", debian[name]], capture_output=True, text=True).stdout
        return f"{name} {found}"


class Bench:
    """What one mode runs and prints."""

    names = list(SERVERS)
    is_pinned = True
    connections, rate, topics = 10_000, 5.0, 1

    def __init__(self, work):
        self.work = work
        self.rounds, self.seconds = setting("ROUNDS", 5), setting("SECONDS_PER_RUN", 4.0)
        self.connections, self.rate = setting("CONNECTIONS", self.connections), setting("RATE", self.rate)
        self.topics, self.publishers = setting("TOPICS", self.topics), setting("PUBLISHERS", 8)
        self.payload, self.burst = setting("PAYLOAD_BYTES", 128), setting("BURST_BYTES", 32_768)
        only = [name for name in setting("ONLY", "").split(",") if name]
        if unknown := set(only) - set(SERVERS):
            sys.exit(f"ONLY names no server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
        self.names = [name for name in self.names if not only or name in only]
        self.missing = install(work, self.names)
        self.reports = {key: [] for key in self.keys()}

    def keys(self):
        """(server, transport, connections) of every row."""
        return [(name, transport, self.connections) for name in self.names if name not in self.missing for transport in SERVERS[name][2]]

    def runs(self):
        """Options of the generator for each run of a row, by name; one after the other on one server."""
        return {"rate": ["--rate-per-s", self.rate],
                "one": ["--rate-per-s", 0],
                "many": ["--rate-per-s", 0, "--ahead", self.publishers, "--publishers", self.publishers]}

    def measure(self, number, key):
        name, transport, connections = key
        kind, start, _ = SERVERS[name]
        server_cores, generator_cores = ([["taskset", "-c", str(core)] for core in (0, 1)] if self.is_pinned else ([], []))
        served, own = start(server_cores, self.work)
        try:
            always = [*generator_cores, BONGSU, "bench", "fanout", "--json", "--peer", kind, "--address", served.address,
                      "--server-pid", served.pid(), "--transport", transport, "--connections", connections,
                      "--topics", min(self.topics, connections), "--seconds", self.seconds, "--payload-bytes", self.payload, *own]
            return {run: self.generate([*always, *options], f"{name}-{transport}-{connections}-{run}-{number}")
                    for run, options in self.runs().items()}
        finally:
            served.end()

    def generate(self, command, title):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=180 + 5 * self.seconds)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-500:])
        if results := os.environ.get("RESULTS"):
            Path(results).mkdir(parents=True, exist_ok=True)
            (Path(results) / f"{title}.json").write_text(done.stdout)
        return json.loads(done.stdout)

    def run(self):
        began = time.monotonic()
        for number in range(1, self.rounds + 1):
            for key in list(self.reports)[:: 1 if number % 2 else -1]:
                say(f"round {number} of {self.rounds}: {', '.join(map(str, key))} connections")
                try:
                    self.reports[key].append(self.measure(number, key))
                except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                    self.reports[key].append(None)
                    say(f"{key[0]} failed: {error}")
        self.print(time.monotonic() - began)

    def print(self, took_s):
        cores = "the server on one core, the generator on another" if self.is_pinned else "server and generator on all cores"
        print(f"{self.payload} bytes of padding, {self.rounds} rounds of {self.seconds:g} s, {cores}; Linux {os.uname().release}, "
              f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, {took_s / 60:.0f} minutes. Median (min–max).")
        versions = [version(name, self.work) for name in self.names if name not in self.missing]
        if any(versions):
            print("; ".join(filter(None, versions)) + ".")
        for name, why in self.missing.items():
            print(f"**{name} is missing**: {why}.")
        columns = self.columns()
        print("\n| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for key, reports in self.reports.items():
            reports = [report for report in reports if report]
            cells = [spread(map(pick, reports), digits) for digits, pick in columns.values()] if reports else ["failed in every round"]
            part = f", {len(reports)} of {self.rounds} rounds" if len(reports) < self.rounds else ""
            print(f"| {self.title(key)}{part} | " + " | ".join(cells) + " |", flush=True)
        print("\nRound by round:")
        for title, ours, theirs, pick in self.ratios():
            rounds = zip(self.reports.get(ours, []), self.reports.get(theirs, []))
            pairs = [(pick(a), pick(b)) for a, b in rounds if a and b]
            if pairs:
                print(f"- {title}: {spread([a / b for a, b in pairs if b], 2)}")

    def title(self, key):
        return f"{key[0]}, {key[1]}"

    def columns(self):
        """Name: (digits, figure of a row's reports)."""
        return {
            f"CPU, µs per delivery at {self.rate:g}/s": (2, lambda r: r["rate"]["server_cpu_us_per_delivery"]),
            f"p99 at {self.rate:g}/s, ms": (1, lambda r: (r["rate"]["latency"] or {}).get("p99_ms")),
            "deliveries/s, 1 publisher": (0, lambda r: r["one"]["deliveries_per_s"]),
            "CPU, µs": (2, lambda r: r["one"]["server_cpu_us_per_delivery"]),
            f"deliveries/s, {self.publishers} publishers": (0, lambda r: r["many"]["deliveries_per_s"]),
            "CPU, µs ": (2, lambda r: r["many"]["server_cpu_us_per_delivery"]),
            "KiB per idle connection": (2, lambda r: r["rate"]["rss_idle_per_connection_kib"]),
            "bytes per delivery": (0, lambda r: r["rate"]["bytes_per_delivery"]),
            "lost": (0, lambda r: sum(r[run]["deliveries_lost"] + r[run]["connections_dropped"] for run in r)),
            f"late at {self.rate:g}/s": (0, lambda r: r["rate"]["publishes_late"]),
        }

    def ratios(self):
        """(title, row, row to compare with, figure)."""
        for count in sorted({key[2] for key in self.reports}):
            for transport in ("sse", "websocket"):
                ours, base, nchan = ((name, transport, count) for name in ("Bongsu", "floor", "Nchan"))
                at = f"{transport}, {count} connections"
                yield (f"CPU at {self.rate:g}/s, Bongsu ÷ floor, {at}", ours, base, lambda r: r["rate"]["server_cpu_us_per_delivery"])
                for run, publishers in {"one": 1, "many": self.publishers}.items():
                    title = f"deliveries/s, {publishers} publishers, Bongsu ÷ Nchan, {at}"
                    yield title, ours, nchan, lambda r, run=run: r[run]["deliveries_per_s"]


class Growth(Bench):
    names = ["floor", "Bongsu"]

    def keys(self):
        counts = map(int, setting("GROWTH", "100,1000,10000,18000").split(","))
        return [(name, transport, count) for count in counts for transport in ("sse", "websocket") for name in self.names]

    def title(self, key):
        return ", ".join(map(str, key))


class Memory(Bench):
    def runs(self):
        return {"memory": ["--rate-per-s", 1, "--waves", 3, "--burst-bytes", self.burst]}

    def columns(self):
        return {
            "KiB per idle connection": (2, lambda r: r["memory"]["rss_waves_per_connection_kib"][0]),
            "after three waves": (2, lambda r: r["memory"]["rss_idle_per_connection_kib"]),
            "after a burst of large messages": (2, lambda r: r["memory"]["rss_burst_per_connection_kib"]),
            "÷ first, waves": (2, lambda r: r["memory"]["rss_idle_per_connection_kib"] / first(r)),
            "÷ first, burst": (2, lambda r: r["memory"]["rss_burst_per_connection_kib"] / first(r)),
            "kernel's TCP memory, idle, both ends, KiB": (2, lambda r: r["memory"]["tcp_mem_idle_per_connection_kib"]),
            "lost": (0, lambda r: r["memory"]["deliveries_lost"] + r["memory"]["burst_deliveries_lost"] + r["memory"]["connections_dropped"]),
        }

    def ratios(self):
        return []


def first(reports):
    return reports["memory"]["rss_waves_per_connection_kib"][0] or None


class Topics(Bench):
    names = ["floor", "Bongsu"]
    is_pinned = False
    connections, rate, topics = 18_000, 278.0, 100

    def runs(self):
        return {"rate": ["--rate-per-s", self.rate, "--publishers", self.publishers]}

    def title(self, key):
        return f"{key[0]}, {key[1]}, {key[2]} connections, {self.topics} topics"

    def columns(self):
        return {
            "deliveries/s": (0, lambda r: r["rate"]["deliveries_per_s"]),
            "p50, ms": (2, lambda r: r["rate"]["latency"]["p50_ms"]),
            "p99, ms": (2, lambda r: r["rate"]["latency"]["p99_ms"]),
            "lost": (0, lambda r: r["rate"]["deliveries_lost"] + r["rate"]["connections_dropped"]),
            "publishes": (0, lambda r: r["rate"]["publishes"]),
            "late": (0, lambda r: r["rate"]["publishes_late"]),
            "CPU, µs per delivery": (2, lambda r: r["rate"]["server_cpu_us_per_delivery"]),
            "generator's CPU, cores": (2, lambda r: r["rate"]["generator_cpu_share"]),
        }

    def ratios(self):
        for transport in ("sse", "websocket"):
            ours, base = ((name, transport, self.connections) for name in ("Bongsu", "floor"))
            yield (f"p99, Bongsu ÷ floor, {transport}", ours, base, lambda r: r["rate"]["latency"]["p99_ms"])


MODES = {"fanout": Bench, "memory": Memory, "growth": Growth, "topics": Topics}


def spread(values, digits):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        # nginx's worker is not root
        work.chmod(0o755)
        MODES[sys.argv[1]](work).run()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in MODES:
        sys.exit(__doc__)
    BONGSU, FLOOR = (str(Path(path).resolve()) for path in sys.argv[2:])
    main()
