#!/usr/bin/env python3
"""Reads a tenant's event log as a consumer group of a plain Redis Stream, and writes every event to a file.

    consumer_group.py --out events.jsonl [--url redis://127.0.0.1:6379] [--prefix bongsu:] [--tenant default]
                      [--group reports] [--consumer one]

Every event is in the file once and in order, whenever this program is killed and however often it is started: what
was read and not acknowledged comes again, and what the file holds already is passed over. Several consumers of one
group share the events; then each has a file of its own, and a name that it keeps. Needs the package `redis`
(Debian: python3-redis).
"""

import argparse
import json
import os
import time

import redis


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--url", default="redis://127.0.0.1:6379")
    parser.add_argument("--prefix", default="bongsu:")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--group", default="reports")
    parser.add_argument("--consumer", default="one")
    return parser.parse_args()


def tell(**what):
    print(json.dumps(what), flush=True)


def split(position):
    """A position is <epoch>-<seq>; numbers of one epoch alone can be compared."""
    epoch, seq = position.rsplit("-", 1)
    return epoch, int(seq)


class Output:
    """What has been done so far: its last line says how far it got, so that work and progress cannot differ."""

    def __init__(self, path):
        self.file = open(path, "a+b")
        self.file.seek(0)
        text = self.file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.file.truncate(len(whole))  # a line that was being written when the power went
        self.epoch, self.seq = None, 0
        if whole:
            self.epoch, self.seq = split(json.loads(whole.splitlines()[-1])["id"])

    def add(self, event):
        epoch, seq = split(event["id"])
        if epoch == self.epoch and seq <= self.seq:
            return  # done before the crash that kept it from being acknowledged
        if epoch != self.epoch:
            tell(epoch=epoch)
        self.file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.epoch, self.seq = epoch, seq


class Consumer:
    def __init__(self, options):
        self.redis = redis.Redis.from_url(options.url)
        self.stream = f"{options.prefix}{{{options.tenant}}}:log"
        self.group, self.name = options.group, options.consumer
        self.output = Output(options.out)

    def make_group(self):
        """From 0: what the log holds was published before anybody knew of this group."""
        try:
            self.redis.xgroup_create(self.stream, self.group, id="0", mkstream=True)
            tell(group="created")
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def handle(self, entries):
        for entry, fields in entries:
            if fields:  # else it was trimmed before it was handled
                # by its name: later releases may add fields
                event = json.loads(fields[b"data"])
                if split(event["id"])[0] != self.output.epoch:
                    self.make_group()  # the log has started afresh
                if event["event"] != "entity.created":  # which is for nodes alone
                    self.output.add(event)
            self.redis.xack(self.stream, self.group, entry)

    def read(self, after):
        answer = self.redis.xreadgroup(self.group, self.name, {self.stream: after}, count=100, block=1000)
        return answer[0][1] if answer else []

    def run(self):
        self.make_group()
        while entries := self.read("0"):  # what a former run was given and did not acknowledge
            self.handle(entries)
        tell(reading=os.getpid())
        while True:
            self.handle(self.read(">"))


def main():
    consumer = Consumer(arguments())
    while True:
        try:
            consumer.run()
        except redis.ResponseError as error:
            # NOGROUP, UNBLOCKED: the log has started afresh and the group went with it; others pass as well
            tell(again=str(error))
        except (redis.ConnectionError, redis.TimeoutError) as error:
            tell(away=str(error))
        time.sleep(0.2)


if __name__ == "__main__":
    main()
