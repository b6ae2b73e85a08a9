#!/usr/bin/env python3
"""A disk that takes 0.1 s and 1.5 s (full: 0.1 s, 5 s, 35 s) for each call: every end of data is answered within 60 s, and memory stays flat.

A commit that outlasts its deadline of 30 s is answered 451 and never delivered, and the relay takes mail again by itself
once the disk is back. FUSE makes two calls of a write through to the disk, so a commit takes twice as long.
"""

import re

import lab as tier
from disk import FaultyDisk

CONNECTIONS = 64
# What the relay may grow by: bodies that wait and its buffers, far below what an unbounded queue would take.
GROWTH_MIB_MAX = 64
ANSWER_SECONDS_MAX = 60


def row(lab):
    disk = FaultyDisk(lab)
    told = []
    for milliseconds, seconds in lab.size([(100, 3), (1500, 4)], [(100, 20), (5000, 40), (35000, 100)]):
        disk.order("mend")
        told.append(point(lab, disk, milliseconds, seconds))
    return "; ".join(told)


def point(lab, disk, milliseconds, seconds):
    """One delay."""
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=disk.mount / f"spool-{milliseconds}", keeping='segment_bytes = "4MiB"\n',
        settings='[threads]\nshards = 1\nworkers = 1\n[log]\nlevel = "warn"\n', name=f"relay-{milliseconds}")
    load = tier.Load(lab, relay, sink, seconds, "--connections", CONNECTIONS, "--timeout", 90)
    tier.wait_for(lambda: relay.metric("ringpost_messages_accepted_total") > 0, 10, "the first message")
    before, peak = resident(relay), 0
    disk.order("delay", milliseconds)
    while load.lasts(0.2):
        peak = max(peak, resident(relay))
        # The last transactions are answered while the disk is slow; then it recovers, and what is left can be delivered.
        if relay.metric("ringpost_connections_open") == 0:
            break
    disk.order("mend")
    report = load.judge()
    tier.wait_for(lambda: not relay.queued(), 30, "an empty queue")
    tier.same(tier.send_one(relay), 250, "the reply to a message once the disk is well")
    relay.stop()
    slowest = report["source"]["end_of_data"]["max"] / 1e6
    tier.check(slowest <= ANSWER_SECONDS_MAX, f"an end of data was answered after {slowest:.1f} s")
    tier.check(peak - before <= GROWTH_MIB_MAX, f"the relay grew from {before} to {peak} MiB")
    tier.check(slowest >= milliseconds / 1000 / 2, "the delay was not felt: nothing was tried")
    late = tier.replies(report, 451)
    if 2 * milliseconds > 30_000:
        tier.check(late > 0, "no commit outlasted its deadline: nothing was tried")
    return f"{milliseconds / 1000} s: {report['ledger']['accepted']} accepted, slowest answer {slowest:.1f} s, {late} × 451, +{peak - before} MiB"


def resident(relay):
    """Resident memory, MiB."""
    status = open(f"/proc/{relay.process.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024


if __name__ == "__main__":
    tier.run(row, mounts=True)
