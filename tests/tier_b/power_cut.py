#!/usr/bin/env python3
"""Power cuts under load on a disk that tears what was not durable at 512-byte sectors: nothing that was acknowledged is lost.

The disk keeps what a completed O_DSYNC write or sync promised and, by a seed, any of the rest: each sector of the writes in
flight, each name that was not synced. Names and contents are lost independently.
"""

import random

import lab as tier
from disk import FaultyDisk


def row(lab):
    cuts = lab.size(8, 200)
    disk = FaultyDisk(lab)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=disk.mount / "spool", keeping='segment_bytes = "4MiB"\n',
        settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    # Long ones go to disk in chunks, short ones share batches.
    # A long run must not build up a backlog that takes longer to drain than it is waited for.
    load = tier.Load(lab, relay, sink, lab.size(16, 600), "--connections", 16, "--size", "2k=80,20k=15,150k=5",
                     "--timeout", 20, *lab.size([], ["--rate", "poisson:200"]))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    done, undone, sectors = 0, 0, 0
    while done < cuts and load.lasts(chance.uniform(0.1, 1.2)):
        # The first spares nothing: a spool is new only once, and what it forgot to sync is gone then.
        told = disk.cut(chance.randrange(1, 2**32) if done % 4 else 0, relay, freeze=chance.uniform(0, 0.02))
        done, undone, sectors = done + 1, undone + told["undone"], sectors + told["sectors"]
        disk.order("mend")
        relay.start()
    lab.enough(done, cuts, "cuts")
    report = load.judge(repeated=done * tier.IN_FLIGHT)
    relay.stop()
    tier.check(undone > 0, f"no cut took anything back ({sectors} sectors were open): nothing was tried")
    tier.check("was damaged" not in lab.text("relay.log"), "a cut was taken for rot")
    ledger = report["ledger"]
    return (f"{done} cuts, {undone} of {sectors} open sectors taken back; {ledger['accepted']} accepted, 0 lost, "
            f"{ledger['repeated']} repeated, {ledger['unknown']} without a reply")


if __name__ == "__main__":
    tier.run(row, mounts=True)
