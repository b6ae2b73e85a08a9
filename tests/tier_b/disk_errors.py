#!/usr/bin/env python3
"""The Nth call to the disk fails, with EIO and ENOSPC, once and from then on: nothing that was acknowledged is lost.

A failed write of the log must raise the fence (421 and 451, /readyz 503, no more mail until a restart); one that only prepares a
segment may be tried again. A failed write with EIO leaves half of its sectors, with ENOSPC nothing.
"""

import random

import lab as tier
from disk import FaultyDisk

CONNECTIONS = 16
ERRORS = ("eio", "enospc")
HOW = ("once", "sticky")


def row(lab):
    disk = FaultyDisk(lab)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=disk.mount / "spool", keeping='segment_bytes = "4MiB"\n',
        settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    numbers = range(1, 201) if lab.full else sorted(chance.sample(range(1, 201), 6))
    # Each number with both errors, of which one is once and the other sticky, in turns.
    cases = [(nth, errno, HOW[(nth + place) % 2]) for nth in numbers for place, errno in enumerate(ERRORS)]
    # A long run must not build up a backlog that takes longer to drain than it is waited for.
    load = tier.Load(lab, relay, sink, lab.size(15, 1000), "--connections", CONNECTIONS, "--size", "2k=90,150k=10",
                     "--timeout", 20, *lab.size([], ["--rate", "poisson:200"]))
    fenced, refused, done = 0, 0, 0
    for nth, errno, how in cases:
        if not load.lasts(chance.uniform(0.1, 0.4)):
            break
        done += 1
        # Every third begins with the fault, which hits recovery if it comes soon.
        at_start = done % 3 == 0
        if at_start:
            relay.kill()
            nth = nth if lab.full else nth % 20 + 1
        before = disk.order("fail", errno, nth, how)["calls"]
        if at_start and not relay.start(may_fail=True):
            refused += 1
        elif strikes(disk, load, before + nth):
            fenced += fences(disk, relay, how)
        disk.order("mend")
        again(relay, done)
    report = load.judge(repeated=done * tier.IN_FLIGHT, ambiguous=fenced * CONNECTIONS)
    relay.stop()
    lab.enough(done, len(cases), "faults")
    tier.check(fenced > 0, f"none of {done} faults raised the fence: nothing was tried")
    tier.check(tier.replies(report, 421, 451) > 0, "no client was told 421 or 451")
    tier.check("was damaged" not in lab.text("relay.log"), "what a failed write left was taken for rot")
    ledger = report["ledger"]
    return (f"{done} of {len(cases)} faults, {fenced} fenced, {refused} at the start; {ledger['accepted']} accepted, 0 lost, "
            f"{ledger['repeated']} repeated, {ledger['refused_but_delivered']} refused and yet on disk")


def strikes(disk, load, call):
    """Waits until the faulty call has come; it will not if the load ends before."""
    has_struck = lambda: disk.order("stats")["calls"] >= call
    tier.wait_for(lambda: has_struck() or not load.lasts(0), 20, "the fault")
    return has_struck()


def fences(disk, relay, how):
    """Waits for what the fault leads to; says whether that is the fence."""
    limit = tier.time.monotonic() + (0.3 if how == "once" else 10)
    while relay.readiness() != 503:
        if how == "sticky" and relay.metric("ringpost_spool_full") > 0 and tier.send_one(relay) == 452:
            # Both shards lack a segment to write to before the log had to write: mail is refused until the disk is well.
            disk.order("mend")
            tier.wait_for(lambda: tier.send_one(relay) == 250, 10, "mail taken again by itself")
            return False
        if tier.time.monotonic() > limit:
            tier.same(how, "once", "a disk that fails for good neither raised the fence nor stopped the mail")
            return False
        tier.time.sleep(0.02)
    # The fence stays: a disk that is well again proves nothing about what it had failed to keep.
    disk.order("mend")
    tier.check(relay.metric("ringpost_spool_fenced") > 0, "ringpost_spool_fenced does not show the fence")
    tier.same(relay.readiness(), 503, "readiness behind the fence")
    return True


def again(relay, done):
    """Ends it, one way or the other, and starts it."""
    if relay.process.poll() is not None:
        relay.start()
        return
    # Behind the fence its stop has nothing left to do well.
    if done % 2 or relay.readiness() == 503:
        relay.kill()
    else:
        relay.stop()
    relay.start()


if __name__ == "__main__":
    tier.run(row, mounts=True)
