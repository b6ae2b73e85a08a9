#!/usr/bin/env python3
"""The Nth call to the disk fails, with EIO and ENOSPC, once and from then on: nothing that was acknowledged is lost.

A failed write of the log must raise the fence (421 and 451, /readyz 503, no more mail until a restart); one that only prepares a
segment may be tried again. A failed write with EIO leaves half of its sectors, with ENOSPC nothing.
"""

import random

import lab as tier
from disk import FaultyDisk

CONNECTIONS = 16
KINDS = [(errno, how) for errno in ("eio", "enospc") for how in ("once", "sticky")]


def row(lab):
    disk = FaultyDisk(lab)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=disk.mount / "spool", keeping='segment_bytes = "4MiB"\n',
        settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    numbers = list(range(1, 201)) if lab.full else sorted(chance.sample(range(1, 201), 3))
    cases = [(nth, *kind) for nth in numbers for kind in KINDS]
    load = tier.Load(lab, relay, sink, lab.size(20, 700), "--connections", CONNECTIONS, "--size", "2k=90,150k=10",
                     "--timeout", 20)
    fenced, refused, done = 0, 0, 0
    for done, (nth, errno, how) in enumerate(cases, 1):
        if not load.lasts(chance.uniform(0.1, 0.4)):
            raise tier.Fault(f"the load ended before case {done} of {len(cases)}")
        # Every third begins with the fault, which hits recovery if it comes soon.
        at_start = done % 3 == 0
        if at_start:
            relay.kill()
            nth = nth if lab.full else nth % 20 + 1
        before = disk.order("fail", errno, nth, how)["calls"]
        if at_start and not relay.start(may_fail=True):
            refused += 1
        elif fails(disk, relay, before + nth, how):
            fenced += 1
            tier.check(disk.order("stats")["calls"] >= before + nth, "the fence stood before the fault")
        disk.order("mend")
        again(relay, done)
    report = load.judge(repeated=done * tier.IN_FLIGHT, ambiguous=fenced * CONNECTIONS)
    relay.stop()
    tier.check(fenced >= len(cases) / 3, f"only {fenced} of {len(cases)} faults raised the fence: nothing was tried")
    tier.check(tier.replies(report, 421, 451) > 0, "no client was told 421 or 451")
    ledger = report["ledger"]
    return (f"{len(cases)} faults, {fenced} fenced, {refused} at the start; {ledger['accepted']} accepted, 0 lost, "
            f"{ledger['repeated']} repeated, {ledger['refused_but_delivered']} refused and yet on disk")


def fails(disk, relay, call, how):
    """Waits until the fault has struck, and what it leads to; says whether that is the fence."""
    tier.wait_for(lambda: disk.order("stats")["calls"] >= call, 10, "the fault")
    # One failure may have hit a segment in preparation: then the relay goes on by itself. All of them end at the log.
    limit = tier.time.monotonic() + (0.3 if how == "once" else 10)
    while relay.readiness() != 503:
        if tier.time.monotonic() > limit:
            tier.same(how, "once", "a disk that fails for good raised no fence")
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
    if done % 2:
        relay.kill()
    else:
        relay.stop()
    relay.start()


if __name__ == "__main__":
    tier.run(row, mounts=True)
