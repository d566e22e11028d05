"""What a cluster is made of: PostgreSQL, Redis of every kind, nodes; and what counts in them."""

import json, os, shutil, socket, subprocess, sys, time
from binascii import crc_hqx
from pathlib import Path

from peers import Served, free_port, setting

BONGSU = None
START_S = 60
UNLIMITED = {f"BONGSU__LIMITS__{name}": "0"
             for name in ("KEY_CONNECTS_PER_MIN", "KEY_PUBLISHES_PER_S", "TOPIC_PUBLISHES_PER_S", "KEY_COMMANDS_PER_S",
                          "CONNECTIONS_PER_NODE")}


def numbers(name, default):
    return [int(text) for text in setting(name, default).split(",")]


def until(what, holds):
    """Waits for something that servers come to by themselves."""
    deadline = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it never came: {what}")
        time.sleep(0.1)


def cpu_s(servers):
    """Seconds of processor time that these processes have had."""
    fields = [Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split() for server in servers]
    return sum(int(own[11]) + int(own[12]) for own in fields) / os.sysconf("SC_CLK_TCK")


class Redis:
    """A server of the run's own, and what it counts."""

    SLOTS = 16_384

    def __init__(self, work):
        self.masters, self.replicas, self.sentinels = [], [], []
        try:
            self.start(work)
        except BaseException:
            self.end()
            raise
        self.address = self.masters[0].address
        self.url = self.reached_at()
        self.told_bytes = 0

    def start(self, work):
        self.launch(self.masters, work)

    def reached_at(self):
        return f"redis://{self.address}"

    def launch(self, those, work, *options, port=None):
        port = port or free_port()
        work.mkdir(exist_ok=True)
        command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", work, "--save", "", "--appendonly", "no",
                   "--maxmemory-policy", "noeviction", "--loglevel", "warning", *options]
        those.append(Served([], command, address=f"127.0.0.1:{port}"))
        return those[-1].address

    def master_of(self, _tenant):
        """The number of the master that keeps a tenant's log."""
        return 0

    def info(self, *sections, address=None):
        with socket.create_connection((address or self.address).split(":"), 10) as connection:
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

    def end(self):
        for server in (*self.sentinels, *self.replicas, *self.masters):
            server.end()


# as docs/operations.md wants them where there are replicas
REPLICATED = ("--repl-backlog-ttl", 0, "--min-replicas-to-write", 1, "--repl-diskless-sync-delay", 0)


class Sentinel(Redis):
    """A master and two replicas, watched by three sentinels."""

    def start(self, work):
        address = self.launch(self.masters, work / "redis-0", *REPLICATED)
        host, port = address.split(":")
        for number in (1, 2):
            self.launch(self.replicas, work / f"redis-{number}", *REPLICATED, "--replicaof", host, port)
        until("replicas that are linked", lambda: self.has(address, "replication", "state=online", 2))
        for number in range(3):
            own, file = free_port(), work / f"sentinel-{number}.conf"
            file.write_text(f"port {own}\nbind 127.0.0.1\ndir {work}\nsentinel monitor bongsu {host} {port} 2\n")
            self.sentinels.append(Served([], ["redis-server", file, "--sentinel"], address=f"127.0.0.1:{own}"))
        for sentinel in self.sentinels:
            until("sentinels that know each other", lambda: self.has(sentinel.address, "sentinel", "slaves=2,sentinels=3", 1))

    def has(self, address, section, text, count):
        return sum(text in value for value in self.info(section, address=address)[0].values()) == count

    def reached_at(self):
        return f"redis+sentinel://{','.join(server.address for server in self.sentinels)}/bongsu"


class RedisCluster(Redis):
    """Three masters with a third of the slots and a replica each."""

    def start(self, work):
        ports = [(free_port(), free_port()) for _ in range(6)]
        for number, (port, bus) in enumerate(ports):
            own = work / f"redis-{number}"
            own.mkdir()
            # what it remembers of a cluster that it has been in: so nobody has to be introduced
            lines = [self.line(other, "myself," if other == number else "", *at) for other, at in enumerate(ports)]
            (own / "nodes.conf").write_text("\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""]))
            self.launch(self.masters if number < 3 else self.replicas, own, *REPLICATED, "--cluster-enabled", "yes", "--cluster-config-file",
                        "nodes.conf", "--cluster-port", bus, port=port)
        for server in self.masters:
            until("replicas that are linked", lambda: "state=online" in self.info("replication", address=server.address)[0].get("slave0", ""))
        for server in (*self.masters, *self.replicas):
            until("a cluster that is whole", lambda: self.is_ok(server.address))

    def line(self, number, myself, port, bus):
        name, master = f"{number:040x}", number % 3
        slots = f"{master * self.SLOTS // 3}-{(master + 1) * self.SLOTS // 3 - 1}"
        role = f"master - 0 0 {number + 1} connected {slots}" if number < 3 else f"slave {master:040x} 0 0 {master + 1} connected"
        return f"{name} 127.0.0.1:{port}@{bus} {myself}{role}"

    def is_ok(self, address):
        with socket.create_connection(address.split(":"), 10) as connection:
            connection.sendall(b"CLUSTER INFO\r\n")
            answer = connection.makefile("rb")
            return b"cluster_state:ok" in answer.read(int(answer.readline()[1:]))

    def reached_at(self):
        return f"redis+cluster://{','.join(server.address for server in (*self.masters, *self.replicas))}"

    def master_of(self, tenant):
        # a tenant's keys are in the slot of its name (Redis Cluster's CRC16 is XMODEM's)
        return (crc_hqx(tenant.encode(), 0) % self.SLOTS * 3 + 2) // self.SLOTS


KINDS = {"single": Redis, "sentinel": Sentinel, "cluster": RedisCluster}


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
        # it listens before it answers
        ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        try:
            until("an answer of PostgreSQL", lambda: subprocess.run(ready, timeout=START_S).returncode == 0)
        except BaseException:
            self.end()
            raise

    def end(self):
        self.served.end()


class Cluster:
    """Nodes over one PostgreSQL and one Redis, of whichever kind."""

    def __init__(self, work, count, cores=(), kind="single", binary=None):
        self.started = []
        work.mkdir(exist_ok=True)
        # PostgreSQL is not root
        work.chmod(0o755)
        try:
            postgres = self.keep(Postgres(work))
            self.redis = self.keep(KINDS[kind](work))
            self.env = {**UNLIMITED, "DATABASE_URL": postgres.url, "REDIS_URL": self.redis.url,
                        "BONGSU__METRICS__BIND": "127.0.0.1:0", "BONGSU__LOGGING__LEVEL": "warn", "BONGSU__SERVER__WORKERS": "1"}
            self.work, self.postgres_url, self.binary = work, postgres.url, binary or BONGSU
            self.key = self.make_key("default")
            self.nodes = [self.keep(serve(cores, work / f"node-{number}", self.env, self.binary)) for number in range(count)]
        except BaseException:
            self.end()
            raise

    def keep(self, server):
        self.started.append(server)
        return server

    def make_key(self, tenant):
        return make_key(self.work / "keys", {"DATABASE_URL": self.postgres_url}, tenant, binary=self.binary)

    def addresses(self):
        return [node.address for node in self.nodes]

    def metrics(self):
        return [node.told["metrics_address"] for node in self.nodes]

    def counted(self, name, nodes=None):
        """A counter of all nodes together, or of some."""
        return sum(metric(address, name) for address in (nodes or self.metrics()))

    def end(self):
        for server in reversed(self.started):
            server.end()


def serve(cores, data_dir, env, binary=None):
    return Served(cores, [binary or BONGSU, "serve", "--json", "--bind", "127.0.0.1:0", "--data-dir", data_dir], env)


def make_key(data_dir, env, tenant, scopes="publish,subscribe", binary=None):
    command = [binary or BONGSU, "key", "create", "--tenant", tenant, "--scopes", scopes, "--json", "--data-dir", data_dir]
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
