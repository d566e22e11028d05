#!/usr/bin/env python3
"""A cluster over one PostgreSQL and one Redis on this machine, measured in interleaved rounds.

    cargo build --release --bin bongsu
    benches/cluster.py MODE [--redis KINDS] [--before BINARY] target/release/bongsu

MODE is what to measure:
    storm     all clients drop at once and resume, beside a reconnect without a cursor: over the nodes they were on, over
              WebSocket, and from one node to another one
    commands  from a reading of carbon intensity over HTTP on one node to clients of another one, beside an embedded server
              and beside one HTTP exchange and one message through Redis
    nodes     every node's deliveries; what the bus brings to one node while the others have no connections, and as many;
              commands and bytes of Redis for each event
    append    how many publishes a second a log takes: one tenant through one node, one tenant through all, a tenant for
              each node; with 1 to 512 publishers in all
    append --redis single,sentinel,cluster
              the same of one tenant and of 32, on each of these kinds of Redis in turns (or one of them): a server alone; a
              master with two replicas and three sentinels; three masters with a replica each; as ratios to the first one
    append --redis single --before BINARY
              beside another build of the program; one tenant

PostgreSQL (initdb must be there) and Redis are started for the run alone, in a temporary directory and on free ports.
Each server is ended by its process id, each run by its time limit. With storm the nodes have core 0 and the generator core
1; otherwise everything shares all cores. Settings by environment, with their defaults:

    ROUNDS=5  NODES=2 (nodes: 8, append: 4)  GROWTH=100,1000,10000 (storm: connections in all; commands: 10,100,1000;
    nodes: 20,200,2000 for each node)  SECONDS_PER_RUN=5  RATE=20 (events/s)  EVENTS=1000  MATCHING=10
    PUBLISHERS=1,8,64,512 (append)  TENANTS=32 (append --redis)  REST_S=0 (append --redis: how
    long each run waits at most until little else runs)  PAYLOAD_BYTES=128  PER_GENERATOR=15000 (connections that one generator holds: its open
    files)  RESULTS="" (directory that keeps every run's report)

Eight nodes with 12 000 connections each, where memory and open files allow: GROWTH=12000 RATE=2 SECONDS_PER_RUN=20
benches/cluster.py nodes …; each of several generators publishes to a topic of its own, so that an event goes to its listeners.
"""

import argparse, json, os, resource, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import servers
from peers import say, setting, spread
from servers import KINDS, UNLIMITED, Cluster, cpu_s, generate, make_key, numbers, serve


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
        keys = self.tenants if way == "a tenant for each node" else [self.tenants[0]] * self.nodes
        return self.append(self.cluster, list(zip(addresses, keys)), publishers)

    def append(self, cluster, through, publishers):
        """A generator for each pair of an address and a key."""
        own = publishers // len(through)
        # one listener for each topic and one topic for each publisher: every event is delivered once and checked
        commands = [["fanout", "--address", address, "--connections", own, "--topics", own, "--publishers", own, "--ahead", own, "--rate-per-s", 0,
                     "--topic", f"topic:append-{number}", "--seconds", self.seconds, "--payload-bytes", self.payload, "--api-key", key]
                    for number, (address, key) in enumerate(through)]
        counters = ("bongsu_log_commits_total", "bongsu_events_published_total")
        before = [cluster.counted(name) for name in counters]
        reports = generate(commands, 120 + 2 * self.seconds)
        commits, published = (cluster.counted(name) - value for name, value in zip(counters, before))
        latencies = [report["latency"] for report in reports if report["latency"]]
        return {"publishes_per_s": sum(report["publishes"] / report["window_s"] for report in reports), "published": published,
                "batch": published / max(commits, 1), "lost": sum(report["deliveries_lost"] + report["deliveries_duplicate"] for report in reports),
                **{rank: statistics.median(own[rank] for own in latencies) for rank in ("p50_ms", "p99_ms")},
                "generator": sum(report["generator_cpu_share"] for report in reports)}

    def columns(self):
        return {
            "publishes/s": (0, lambda r: r["publishes_per_s"]),
            "events per append": (1, lambda r: r["batch"]),
            "p50, ms": (2, lambda r: r["p50_ms"]),
            "p99, ms": (2, lambda r: r["p99_ms"]),
            "lost or twice": (0, lambda r: r["lost"]),
            "generators' CPU, cores": (2, lambda r: r["generator"]),
        }


class AppendBeside(Append):
    """Clusters beside each other: of other kinds of Redis, or of another build."""

    def __init__(self, clusters):
        self.clusters, self.counts = clusters, numbers("PUBLISHERS", "1,8,64,512")
        self.most = setting("TENANTS", 32)
        self.ways = ["one tenant", f"{self.most} tenants"] if len({own.binary for own in clusters.values()}) == 1 else ["one tenant"]
        self.names = [f"tenant-{number}" for number in range(self.most)]
        self.tenants = {kind: [own.make_key(name) for name in self.names] for kind, own in clusters.items()}
        Bench.__init__(self, next(iter(clusters.values())))

    def keys(self):
        # those that are compared are neighbours
        return [(kind, way, count) for count in self.counts for way in self.ways for kind in self.clusters if count >= self.most or way == "one tenant"]

    def title(self, key):
        return f"{key[0]}, {key[1]}, {key[2]} publishers"

    def measure(self, key):
        kind, way, publishers = key
        rest(setting("REST_S", 0.0))
        cluster, keys = self.clusters[kind], self.tenants[kind]
        addresses = cluster.addresses()
        # as many generators whether they have a tenant each or not
        through = [(addresses[number % self.nodes], keys[0 if way == "one tenant" else number]) for number in range(min(self.most, publishers))]
        roles = {"masters": cluster.redis.masters, "replicas": cluster.redis.replicas + cluster.redis.sentinels, "nodes": cluster.nodes}
        load, before, began = os.getloadavg()[0], {role: cpu_s(own) for role, own in roles.items()}, (busy_s(), own_cpu_s(self.clusters))
        at = time.monotonic()
        report = self.append(cluster, through, publishers)
        took_s = time.monotonic() - at
        spent = {role: (cpu_s(own) - before[role]) * 1e6 / report["published"] for role, own in roles.items()}
        busy, own = busy_s() - began[0], own_cpu_s(self.clusters) - began[1]
        return {**report, **{f"{role}_us": value for role, value in spent.items()}, "load": load, "others": (busy - own) / took_s}

    def columns(self):
        return {**super().columns(),
                "CPU, µs per event: nodes": (1, lambda r: r["nodes_us"]),
                "Redis masters": (1, lambda r: r["masters_us"]),
                "replicas and sentinels": (1, lambda r: r["replicas_us"]),
                "what else ran, cores": (2, lambda r: max(r["others"], 0))}

    def print(self, took_s):
        super().print(took_s)
        first, *others = self.clusters
        figures = {"publishes/s": "publishes_per_s", "p50": "p50_ms", "p99": "p99_ms", "nodes' CPU per event": "nodes_us"}
        if others:
            print(f"\n| round by round, ÷ {first} | " + " | ".join(figures) + " |\n|---|" + "---|" * len(figures))
        for key, reports in self.reports.items():
            if key[0] in others:
                beside = self.reports[first, *key[1:]]
                cells = [spread((own[name] / other[name] for own, other in zip(reports, beside)), 2) for name in figures.values()]
                print(f"| {self.title(key)} | " + " | ".join(cells) + " |")
        loads = [report["load"] for reports in self.reports.values() for report in reports]
        print(f"\nLoad before each run: {spread(loads, 1)}.")
        for kind, cluster in self.clusters.items():
            fell = [cluster.redis.master_of(name) for name in self.names]
            print(f"{kind}: tenants on each master: {', '.join(str(fell.count(number)) for number in range(len(cluster.redis.masters)))}.")


def busy_s():
    """Seconds of processor time that anything on this machine has had."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def rest(seconds):
    """Waits until most of this machine has nothing to do, or for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = busy_s()
        time.sleep(0.5)
        if busy_s() - before < 0.2:
            return


def own_cpu_s(clusters):
    """The same of what was started here: servers and generators, but for what PostgreSQL's workers do."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = sum(cpu_s([*own.redis.masters, *own.redis.replicas, *own.redis.sentinels, *own.nodes]) for own in clusters.values())
    return own + ended.ru_utime + ended.ru_stime


MODES = {"storm": Storm, "commands": Commands, "nodes": Nodes, "append": Append}


def start(work, mode, kinds, before):
    """The clusters that are compared, by name; or the one there is."""
    count = setting("NODES", mode.nodes)
    if not kinds:
        yield "", Cluster(work, count, mode.cores)
    if before:
        yield "before", Cluster(work / "before", count, kind=kinds[0], binary=before)
    for kind in kinds:
        yield kind, Cluster(work / kind, count, kind=kind)


def main(mode, kinds, before):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))
    for name in ("DATABASE_URL", "REDIS_URL", "SERVER_ID", "BONGSU_ENV"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        # PostgreSQL is not root
        Path(work).chmod(0o755)
        clusters = {}
        try:
            for name, cluster in start(Path(work), mode, kinds, before):
                clusters[name] = cluster
            (AppendBeside(clusters) if kinds else mode(clusters[""])).run()
        finally:
            for cluster in clusters.values():
                cluster.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("binary", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("--redis", type=lambda text: text.split(","), default=[])
    parser.add_argument("--before", type=lambda path: str(Path(path).resolve()))
    asked = parser.parse_args()
    if not set(asked.redis) <= set(KINDS) or (asked.redis and asked.mode != "append") or (asked.before and len(asked.redis) != 1):
        sys.exit(__doc__)
    servers.BONGSU = asked.binary
    main(MODES[asked.mode], asked.redis, asked.before)
