#!/usr/bin/env python3
"""What keeping the proposals of a bid in order costs, in process and as commands, measured in interleaved rounds.

    cargo build --release --bin bongsu
    benches/ranking.py target/release/bongsu

In process: one proposal ranked anew among 100 to 100 000, beside sorting the whole list (kept in order but for what has
changed, the best case for a sort) and beside a sorted set of Redis over loopback (ZADD and ZREVRANK in one round trip).

As commands: proposals over HTTP into one bid, from 1 to 512 clients that each propose again when they are answered, to a
server over PostgreSQL and Redis, beside the same server where each request has a transaction of its own (ranking.batch = 1).
Both stand on one PostgreSQL, each with a database of its own. Every answer's rank and the whole ranking at the end are
compared with sorting; what is wrong is counted, and ends the run as a failure.

PostgreSQL (initdb must be there) and Redis are started for the run alone, in a temporary directory and on free ports. Each
server is ended by its process id, each run by its time limit. Everything shares all cores. Settings by environment, with
their defaults:

    SIZES=100,1000,10000,100000  SHORT_ROUNDS=41  CHANGES=200 (in process: a round takes a few ms, so that most are not
    interrupted by what else runs)  ROUNDS=5  CLIENTS=1,8,64,512  SECONDS_PER_RUN=3 (as commands)
    RESULTS="" (directory that keeps every report)
"""

import json, os, resource, signal, subprocess, sys, tempfile, time
from pathlib import Path

import servers as shared
from peers import say, setting, spread
from servers import START_S, UNLIMITED, Postgres, Redis, generate, make_key, numbers, serve


def told(spread, digits):
    if spread is None:
        return "–"
    median, least, most = (f"{spread[name]:.{digits}f}" for name in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}–{most})"


def table(columns, rows):
    print("\n| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def run(name, command, limit_s):
    (report,) = generate([["ranking", *command]], limit_s)
    if results := os.environ.get("RESULTS"):
        Path(results).mkdir(parents=True, exist_ok=True)
        (Path(results) / f"Ranking-{name}.json").write_text(json.dumps(report))
    if report["ranks_wrong"]:
        raise RuntimeError(f"{report['ranks_wrong']} ranks are wrong")
    return report


def in_process(redis):
    sizes, changes, rounds = numbers("SIZES", "100,1000,10000,100000"), setting("CHANGES", 200), setting("SHORT_ROUNDS", 41)
    say(f"in process: {sizes} proposals")
    command = ["--sizes", ",".join(map(str, sizes)), "--changes", changes, "--rounds", rounds, "--redis", redis.address]
    report = run("in-process", command, 120 + rounds * changes * sum(sizes) / 1e6)
    table(["ranking, µs a change", "sorting, µs", "Redis, µs", "sorting ÷ ranking", "Redis ÷ ranking"],
          [[f"{own['proposals']} proposals", told(own["ranking_us"], 2), told(own["sorting_us"], 1), told(own["redis_us"], 1),
            told(own["sorting_ratio"], 1), told(own["redis_ratio"], 1)] for own in report["in_process"]])


class Servers:
    """The server, and the same with a transaction for each request, each on a database of its own."""

    def __init__(self, work, postgres, redis):
        self.started, self.keys = [], []
        try:
            for name, own in (("shared", {}), ("alone", {"BONGSU__RANKING__BATCH": "1"})):
                subprocess.run(["psql", postgres.url, "-Xqc", f"CREATE DATABASE {name}"], check=True, capture_output=True, timeout=START_S)
                env = {**UNLIMITED, **own, "DATABASE_URL": postgres.url.rsplit("/", 1)[0] + f"/{name}", "REDIS_URL": f"redis://{redis.address}",
                       "BONGSU__REDIS__PREFIX": f"{name}:", "BONGSU__LOGGING__LEVEL": "warn", "BONGSU__SERVER__WORKERS": "1"}
                self.keys.append(make_key(work / f"{name}-keys", env, "default", "manage"))
                self.started.append(serve((), work / name, env))
        except BaseException:
            self.end()
            raise

    def end(self):
        for server in self.started:
            server.end()


def as_commands(servers):
    clients, seconds, rounds = numbers("CLIENTS", "1,8,64,512"), setting("SECONDS_PER_RUN", 3.0), setting("ROUNDS", 5)
    say(f"as commands: {clients} clients")
    command = ["--address", servers.started[0].address, "--beside", servers.started[1].address, "--clients", ",".join(map(str, clients)),
               "--seconds", seconds, "--rounds", rounds, "--api-key", servers.keys[0], "--beside-api-key", servers.keys[1]]
    report = run("commands", command, 120 + rounds * len(clients) * 2 * (seconds + 30))
    rows = []
    for own in report["served"]:
        latencies = [spread((taken["latency"][rank] for taken in own[name]), 1) for rank in ("p50_ms", "p99_ms") for name in ("server", "beside")]
        rows.append([f"{own['clients']} clients", told(own["accepted_per_s"], 0), told(own["beside_accepted_per_s"], 0), told(own["ratio"], 2), *latencies])
    table(["accepted/s", "one transaction each", "ratio", "p50, ms", "one each", "p99, ms", "one each "], rows)


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, lambda number, _: sys.exit(128 + number))
    for name in ("DATABASE_URL", "REDIS_URL", "SERVER_ID", "BONGSU_ENV"):
        os.environ.pop(name, None)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        # PostgreSQL is not root
        Path(work).chmod(0o755)
        started = []
        try:
            redis = Redis(Path(work))
            started.append(redis)
            in_process(redis)
            postgres = Postgres(Path(work))
            started.append(postgres)
            servers = Servers(Path(work), postgres, redis)
            started.append(servers)
            as_commands(servers)
        finally:
            for server in reversed(started):
                server.end()
    print(f"\nLinux {os.uname().release}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, "
          f"{(time.monotonic() - began) / 60:.0f} minutes. Median (min–max).")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shared.BONGSU = str(Path(sys.argv[1]).resolve())
    main()
