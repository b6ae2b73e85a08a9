#!/usr/bin/env python3
"""kill -9 at random times under load, then a restart, again and again: nothing that was acknowledged is lost.

Repeats are allowed after a kill (a message whose 250 from the remote was not yet on disk), but no more than were in flight.
kill -9 keeps the page cache: this says nothing about syncs, which other tests do.
"""

import json
import random
import re

import lab as tier

CONNECTIONS = 32
# Most messages that one shard may have at the workers for the only path (delivery.window), of both shards.
IN_FLIGHT = 2 * 1024


def row(lab):
    kills = lab.size(5, 20)
    sink = lab.port()
    settings = '[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n'
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings=settings)
    load = lab.load(
        ["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--connections", CONNECTIONS,
         "--size", 4096, "--reconnect", "--repeats-allowed", "--duration", 2 * kills + 2, "--timeout", 20,
         "--drain-timeout", 60, "--json", lab.directory / "load.json"])
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    for _ in range(kills):
        pause(load, moments.uniform(0.1, 1.5))
        relay.kill()
        relay.start()
    tier.same(load.wait(), 0, f"with seed {seed}, exit code of ringpost-load; it says: {lab.text('load.log')[-700:]}")
    tier.wait_for(lambda: not relay.queued(), 30, "an empty queue")
    relay.stop()
    return judge(lab, kills)


def judge(lab, kills):
    """The ledger has passed; was it a trial at all, and did not too much come twice?"""
    report = json.loads((lab.directory / "load.json").read_text())
    ledger = report["ledger"]
    tier.same(ledger["lost"], 0, "lost")
    tier.check(report["source"]["connections_lost"] >= kills, "the kills hit no connections: nothing was tried")
    waiting = [int(found) for found in re.findall(r"(\d+) messages waiting", lab.text("relay.log"))]
    tier.same(len(waiting), kills + 1, "starts of the relay")
    tier.check(any(waiting), "no start found messages waiting: the kills came at idle times")
    tier.check(ledger["repeated"] <= kills * IN_FLIGHT, f"{ledger['repeated']} repeated, more than were in flight")
    return (
        f"{kills} kills, {ledger['accepted']} accepted, 0 lost, {ledger['repeated']} repeated, "
        f"{ledger['unknown']} without a reply; up to {max(waiting)} found waiting at a start")


def pause(load, seconds):
    """The time under load; the load must still run after it."""
    try:
        load.wait(timeout=seconds)
    except tier.subprocess.TimeoutExpired:
        return
    raise tier.Fault("ringpost-load ended by itself")


if __name__ == "__main__":
    tier.run(row)
