#!/usr/bin/env python3
"""A cluster over one PostgreSQL and one Redis on this machine, measured in interleaved rounds.

    cargo build --release --bin bongsu
    benches/cluster.py MODE target/release/bongsu

MODE is what to measure:
    storm     all clients drop at once and resume, beside a reconnect without a cursor: over the nodes they were on, over
              WebSocket, and from one node to another one
    commands  from a reading of carbon intensity over HTTP on one node to clients of another one, beside an embedded server
              and beside one HTTP exchange and one message through Redis
    nodes     every node's deliveries; what the bus brings to one node while the others have no connections, and as many;
              commands and bytes of Redis for each event
    append    how many publishes a second a log takes: one tenant through one node, one tenant through all, a tenant for
              each node; with 1 to 512 publishers in all

PostgreSQL (initdb must be there) and Redis are started for the run alone, in a temporary directory and on free ports.
Each server is ended by its process id, each run by its time limit. With storm the nodes have core 0 and the generator core
1; otherwise everything shares all cores. Settings by environment, with their defaults:

    ROUNDS=5  NODES=2 (nodes: 8, append: 4)  GROWTH=100,1000,10000 (storm: connections in all; commands: 10,100,1000;
    nodes: 20,200,2000 for each node)  SECONDS_PER_RUN=5  RATE=20 (events/s)  EVENTS=1000  MATCHING=10
    PUBLISHERS=1,8,64,512 (append)  PAYLOAD_BYTES=128  PER_GENERATOR=15000 (connections that one generator holds: its open
    files)  RESULTS="" (directory that keeps every run's report)

Eight nodes with 12 000 connections each, where memory and open files allow: GROWTH=12000 RATE=2 SECONDS_PER_RUN=20
benches/cluster.py nodes …; each of several generators publishes to a topic of its own, so that an event goes to its listeners.
"""

import json, os, resource, shutil, signal, socket, statistics, subprocess, sys, tempfile, time
from pathlib import Path

from peers import Served, free_port, say, setting, spread

BONGSU = None
START_S = 60
UNLIMITED = {f"BONGSU__LIMITS__{name}": "0"
             for name in ("KEY_CONNECTS_PER_MIN", "KEY_PUBLISHES_PER_S", "TOPIC_PUBLISHES_PER_S", "KEY_COMMANDS_PER_S",
                          "CONNECTIONS_PER_NODE")}


def numbers(name, default):
    return [int(text) for text in setting(name, default).split(",")]


class Redis:
    """A server of the run's own, and what it counts."""

    def __init__(self, work):
        self.port = free_port()
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", work, "--save", "", "--appendonly", "no",
                   "--maxmemory-policy", "noeviction", "--loglevel", "warning"]
        self.served = Served([], command, address=f"127.0.0.1:{self.port}")
        self.address = self.served.address

        self.told_bytes = 0

    def info(self, *sections):
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(f"INFO {' '.join(sections)}\r\n".encode())
            answer = connection.makefile("rb")
            length = int(answer.readline()[1:])
            lines = answer.read(length).decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line), length

    def counts(self):
        """Calls by command, those of scripts included; bytes in and out. Without what this asks itself."""
        found, length = self.info("commandstats", "stats")
        calls = {name.removeprefix("cmdstat_"): int(text.split("calls=")[1].split(",")[0]) for name, text in found.items() if name.startswith("cmdstat_")}
        calls.pop("info", None)
        out = int(found["total_net_output_bytes"]) - self.told_bytes
        self.told_bytes += length
        return {**calls, "in": int(found["total_net_input_bytes"]), "out": out}


class Postgres:
    def __init__(self, work):
        initdb = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)
        if not initdb:
            sys.exit("PostgreSQL's initdb is not on this machine")
        binaries, home, port = Path(initdb).resolve().parent, work / "postgres", free_port()
        home.mkdir()
        # PostgreSQL refuses to run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if user:
            shutil.chown(home, "postgres", "postgres")
        subprocess.run([binaries / "initdb", "-D", home / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"],
                       check=True, capture_output=True, timeout=START_S, cwd=home, **user)
        command = [binaries / "postgres", "-D", home / "data", "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300",
                   "-c", f"unix_socket_directories={home}"]
        self.served = Served([], command, address=f"127.0.0.1:{port}", cwd=home, **user)
        self.url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        deadline = time.monotonic() + START_S
        # it listens before it answers
        while subprocess.run([binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], timeout=START_S).returncode:
            if time.monotonic() > deadline:
                self.served.end()
                raise RuntimeError("PostgreSQL does not answer")
            time.sleep(0.1)


class Cluster:
    """Nodes over one PostgreSQL and one Redis."""

    def __init__(self, work, count, cores=()):
        self.started = []
        try:
            postgres = self.keep(Postgres(work))
            self.redis = self.keep(Redis(work))
            self.env = {**UNLIMITED, "DATABASE_URL": postgres.url, "REDIS_URL": f"redis://{self.redis.address}",
                        "BONGSU__METRICS__BIND": "127.0.0.1:0", "BONGSU__LOGGING__LEVEL": "warn", "BONGSU__SERVER__WORKERS": "1"}
            self.work, self.postgres_url = work, postgres.url
            self.key = self.make_key("default")
            self.nodes = [self.keep(serve(cores, work / f"node-{number}", self.env)) for number in range(count)]
        except BaseException:
            self.end()
            raise

    def keep(self, server):
        self.started.append(server)
        return server

    def make_key(self, tenant):
        return make_key(self.work / "keys", {"DATABASE_URL": self.postgres_url}, tenant)

    def addresses(self):
        return [node.address for node in self.nodes]

    def metrics(self):
        return [node.told["metrics_address"] for node in self.nodes]

    def counted(self, name, nodes=None):
        """A counter of all nodes together, or of some."""
        return sum(metric(address, name) for address in (nodes or self.metrics()))

    def end(self):
        for server in reversed(self.started):
            getattr(server, "served", server).end()


def serve(cores, data_dir, env):
    return Served(cores, [BONGSU, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", data_dir], env)


def make_key(data_dir, env, tenant, scopes="publish,subscribe"):
    command = [BONGSU, "key", "create", "--tenant", tenant, "--scopes", scopes, "--json", "--data-dir", data_dir]
    made = subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=START_S, env={**os.environ, **env})
    return json.loads(made.stdout)["key"]


def metric(address, name):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")
        body = connection.makefile("rb").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.split("{")[0].split(" ")[0] == name)


def generate(commands, limit_s, cores=()):
    """Runs generators side by side; their reports."""
    running = [subprocess.Popen([*cores, *map(str, [BONGSU, "bench", *command, "--json"])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for command in commands]
    deadline, reports = time.monotonic() + limit_s, []
    try:
        for own in running:
            out, err = own.communicate(timeout=max(1, deadline - time.monotonic()))
            if own.returncode:
                raise RuntimeError(err.strip()[-500:])
            reports.append(json.loads(out))
    finally:
        for own in running:
            if own.poll() is None:
                own.kill()
                own.wait()
    return reports


class Bench:
    """What one mode runs and prints: rows by key, a list of rounds each."""

    nodes, growth = 2, "100,1000,10000"
    cores = generator_cores = ()

    def __init__(self, cluster):
        self.cluster = cluster
        self.rounds, self.seconds, self.rate = setting("ROUNDS", 5), setting("SECONDS_PER_RUN", 5.0), setting("RATE", 20.0)
        self.nodes, self.growth = len(cluster.nodes), numbers("GROWTH", self.growth)
        self.payload, self.per_generator = setting("PAYLOAD_BYTES", 128), setting("PER_GENERATOR", 15_000)
        self.reports = {key: [] for key in self.keys()}

    def run(self):
        began = time.monotonic()
        for number in range(1, self.rounds + 1):
            # the order alternates, so that what drifts on the machine does not favour one of them
            for key in list(self.reports)[:: 1 if number % 2 else -1]:
                say(f"round {number} of {self.rounds}: {self.title(key)}")
                report = self.measure(key)
                if results := os.environ.get("RESULTS"):
                    Path(results).mkdir(parents=True, exist_ok=True)
                    name = "-".join(map(str, key)).replace(" ", "-")
                    (Path(results) / f"{type(self).__name__}-{name}-{number}.json").write_text(json.dumps(report))
                self.reports[key].append(report)
        self.print(time.monotonic() - began)

    def print(self, took_s):
        print(f"{self.nodes} nodes, {self.rounds} rounds, {self.payload} bytes of padding; Linux {os.uname().release}, {os.cpu_count()} cores, "
              f"load {os.getloadavg()[0]:.1f} at the end, {took_s / 60:.0f} minutes. Median (min–max).")
        columns = self.columns()
        print("\n| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for key, reports in self.reports.items():
            cells = [spread(map(pick, reports), digits) for digits, pick in columns.values()]
            print(f"| {self.title(key)} | " + " | ".join(cells) + " |", flush=True)

    def title(self, key):
        return ", ".join(map(str, key))


class Storm(Bench):
    cores, generator_cores = ("taskset", "-c", "0"), ("taskset", "-c", "1")

    def keys(self):
        ways = [("sse", "same nodes"), ("websocket", "same nodes"), ("sse", "from one node to another")]
        return [(*way, count) for count in self.growth for way in ways]

    def title(self, key):
        return f"{key[0]}, {key[1]}, {key[2]} connections"

    def measure(self, key):
        transport, way, connections = key
        addresses, metrics = self.cluster.addresses(), self.cluster.metrics()
        # a client listens to one topic, and there must not be more of these than clients
        events, matching = setting("EVENTS", 1000), setting("MATCHING", 10)
        there = ["--address", ",".join(addresses)] if way == "same nodes" else ["--address", addresses[0], "--to", addresses[1]]
        command = ["storm", *there, "--metrics", ",".join(metrics), "--transport", transport, "--connections", connections, "--events", events,
                   "--matching", matching, "--rounds", 2, "--api-key", self.cluster.key, "--payload-bytes", self.payload]
        (report,) = generate([command], 300 + connections / 20, self.generator_cores)
        return report

    def columns(self):
        return {
            "plain, s": (3, lambda r: r["plain_s"]["median"]),
            "storm, s": (3, lambda r: r["storm_s"]["median"]),
            "storm ÷ plain": (2, lambda r: r["ratio"]["median"]),
            "gaps": (0, lambda r: r["gaps"]),
            "duplicates": (0, lambda r: r["duplicates"]),
            "not recovered": (0, lambda r: r["unrecovered"]),
            "store reads": (0, lambda r: r["store_reads"]),
            "Redis commands/s, idle": (1, lambda r: r["redis_commands_per_s_idle"]),
            "plain": (1, lambda r: r["redis_commands_per_s_plain"]["median"]),
            "storm": (1, lambda r: r["redis_commands_per_s_storm"]["median"]),
            "generator's core, plain": (2, lambda r: r["generator_cpu_share_plain"]["median"]),
            "storm ": (2, lambda r: r["generator_cpu_share_storm"]["median"]),
        }


class Commands(Bench):
    growth = "10,100,1000"

    def __init__(self, cluster):
        super().__init__(cluster)
        alone = cluster.work / "embedded"
        self.alone_key = make_key(alone, {}, "default")
        self.alone = cluster.keep(serve((), alone, {**UNLIMITED, "BONGSU__LOGGING__LEVEL": "warn", "BONGSU__SERVER__WORKERS": "1"}))

    def keys(self):
        return [(count,) for count in self.growth]

    def title(self, key):
        return f"{key[0]} clients, {self.rate:g} commands/s"

    def measure(self, key):
        addresses = self.cluster.addresses()
        command = ["commands", "--address", addresses[0], "--listen-address", addresses[1], "--beside", self.alone.address, "--redis",
                   self.cluster.redis.address, "--connections", key[0], "--rate-per-s", self.rate, "--seconds", self.seconds, "--rounds", 2,
                   "--api-key", self.cluster.key, "--beside-api-key", self.alone_key]
        (report,) = generate([command], 120 + 12 * self.seconds)
        return {way["name"]: way for way in report["ways"]}

    def columns(self):
        def pick(way, rank):
            return lambda r: statistics.median(own[rank] for own in r[way]["rounds"])
        ranks = [("p50", "p50_ms"), ("p99", "p99_ms")]
        figures = {f"{way} {name}, ms": (2, pick(way, rank)) for way in ("nodes", "beside", "floor") for name, rank in ranks}
        ratios = {f"{name}, nodes ÷ floor": (1, lambda r, rank=rank: pick("nodes", rank)(r) / pick("floor", rank)(r)) for name, rank in ranks}
        return {**figures, **ratios,
                "lost": (0, lambda r: sum(way["deliveries_lost"] + way["deliveries_duplicate"] for way in r.values())),
                "late": (0, lambda r: sum(way["commands_late"] for way in r.values()))}


class Nodes(Bench):
    nodes, growth = 8, "20,200,2000"

    def keys(self):
        return [(count, others) for count in self.growth for others in ("others have none", "others have as many")]

    def title(self, key):
        return f"{key[0]} on a node, {key[1]}"

    def measure(self, key):
        count, others = key
        addresses, first = self.cluster.addresses(), self.cluster.metrics()[:1]
        listened = addresses[:1] if others == "others have none" else addresses
        total = count * len(listened)
        generators = -(-total // self.per_generator)
        commands = [["fanout", "--address", ",".join(listened), "--publish-address", addresses[-1], "--connections", total // generators,
                     "--topic", f"topic:bench-{number}", "--rate-per-s", self.rate / generators, "--seconds", self.seconds,
                     "--payload-bytes", self.payload, "--api-key", self.cluster.key] for number in range(generators)]
        redis, bus, began = self.cluster.redis.counts(), self.cluster.counted("bongsu_bus_bytes_total", first), time.monotonic()
        reports = generate(commands, 180 + self.seconds + total / 100)
        took_s = time.monotonic() - began
        bus = self.cluster.counted("bongsu_bus_bytes_total", first) - bus
        redis = difference(self.cluster.redis.counts(), redis)
        # the nodes still follow the log, so that this is what they do with it while nothing is published
        idle = self.idle(3.0)
        events, received = (sum(report[name] for report in reports) for name in ("publishes", "deliveries_received"))
        nodes = [{name: sum(report["nodes"][at][name] for report in reports) for name in ("deliveries_expected", "deliveries_lost", "deliveries_duplicate")}
                 for at in range(len(listened))]
        own = {name: value - idle.get(name, 0) * took_s for name, value in redis.items()}
        # what scripts call is counted beside the call of the script
        calls = sum(value for name, value in own.items() if name not in ("in", "out"))
        return {"events": events, "deliveries": received, "nodes": nodes, "bus_bytes_per_event": bus / events,
                "incomplete_nodes": sum(node["deliveries_lost"] + node["deliveries_duplicate"] > 0 for node in nodes),
                "dropped": sum(report["connections_dropped"] for report in reports), "functions_per_event": own.get("evalsha", 0) / events, "commands_per_event": calls / events,
                "commands_per_delivery": calls / received, "in_per_event": own["in"] / events, "out_per_event": own["out"] / events,
                "redis_bytes_per_delivery": (own["in"] + own["out"]) / received, "calls": redis, "idle_per_s": idle,
                "p50_ms": statistics.median(report["latency"]["p50_ms"] for report in reports),
                "p99_ms": max(report["latency"]["p99_ms"] for report in reports)}

    def idle(self, seconds):
        before = self.cluster.redis.counts()
        time.sleep(seconds)
        return {name: value / seconds for name, value in difference(self.cluster.redis.counts(), before).items()}

    def columns(self):
        return {
            "events": (0, lambda r: r["events"]),
            "deliveries": (0, lambda r: r["deliveries"]),
            "nodes with a delivery missing or twice": (0, lambda r: r["incomplete_nodes"]),
            "dropped": (0, lambda r: r["dropped"]),
            "bus bytes to the first node, per event": (1, lambda r: r["bus_bytes_per_event"]),
            "Redis function calls per event": (2, lambda r: r["functions_per_event"]),
            "Redis commands per event": (2, lambda r: r["commands_per_event"]),
            "per delivery": (4, lambda r: r["commands_per_delivery"]),
            "Redis bytes in per event": (0, lambda r: r["in_per_event"]),
            "out": (0, lambda r: r["out_per_event"]),
            "both per delivery": (1, lambda r: r["redis_bytes_per_delivery"]),
            "p50, ms": (2, lambda r: r["p50_ms"]),
            "p99, ms": (2, lambda r: r["p99_ms"]),
        }


def difference(after, before):
    return {name: value - before.get(name, 0) for name, value in after.items()}


class Append(Bench):
    nodes = 4

    def __init__(self, cluster):
        super().__init__(cluster)
        self.tenants = [cluster.make_key(f"tenant-{number}") for number in range(self.nodes)]

    def keys(self):
        counts = numbers("PUBLISHERS", "1,8,64,512")
        return [(way, count) for way in ("one tenant, one node", "one tenant, all nodes", "a tenant for each node") for count in counts
                if count >= self.nodes or way == "one tenant, one node"]

    def title(self, key):
        return f"{key[0]}, {key[1]} publishers"

    def measure(self, key):
        way, publishers = key
        addresses = self.cluster.addresses()[: 1 if way == "one tenant, one node" else self.nodes]
        own = publishers // len(addresses)
        keys = self.tenants if way == "a tenant for each node" else [self.tenants[0]] * self.nodes
        # one listener for each topic and one topic for each publisher: every event is delivered once and checked
        commands = [["fanout", "--address", address, "--connections", own, "--topics", own, "--publishers", own, "--ahead", own, "--rate-per-s", 0,
                     "--topic", f"topic:append-{number}", "--seconds", self.seconds, "--payload-bytes", self.payload, "--api-key", key]
                    for number, (address, key) in enumerate(zip(addresses, keys))]
        counters = ("bongsu_log_commits_total", "bongsu_events_published_total")
        before = [self.cluster.counted(name) for name in counters]
        reports = generate(commands, 120 + 2 * self.seconds)
        commits, published = (self.cluster.counted(name) - value for name, value in zip(counters, before))
        return {"publishes_per_s": sum(report["publishes"] / report["window_s"] for report in reports),
                "batch": published / max(commits, 1), "lost": sum(report["deliveries_lost"] + report["deliveries_duplicate"] for report in reports),
                "p50_ms": statistics.median(report["latency"]["p50_ms"] for report in reports if report["latency"]),
                "generator": sum(report["generator_cpu_share"] for report in reports)}

    def columns(self):
        return {
            "publishes/s": (0, lambda r: r["publishes_per_s"]),
            "events per append": (1, lambda r: r["batch"]),
            "p50, ms": (2, lambda r: r["p50_ms"]),
            "lost or twice": (0, lambda r: r["lost"]),
            "generators' CPU, cores": (2, lambda r: r["generator"]),
        }


MODES = {"storm": Storm, "commands": Commands, "nodes": Nodes, "append": Append}


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))
    for name in ("DATABASE_URL", "REDIS_URL", "SERVER_ID", "BONGSU_ENV"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        # PostgreSQL is not root
        Path(work).chmod(0o755)
        mode = MODES[sys.argv[1]]
        cluster = Cluster(Path(work), setting("NODES", mode.nodes), mode.cores)
        try:
            mode(cluster).run()
        finally:
            cluster.end()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MODES:
        sys.exit(__doc__)
    BONGSU = str(Path(sys.argv[2]).resolve())
    main()
