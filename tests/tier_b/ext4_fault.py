#!/usr/bin/env python3
"""A real ext4 on a disk whose FLUSH fails, or whose power fails: nothing that was acknowledged is lost.

One failed FLUSH turns ext4 read-only as a whole: the fence must rise, and after a repair and a restart everything is there. A power
cut leaves an image with torn sectors below ext4, which its journal mends at the next mount.
"""

import random

import lab as tier
from disk import Ext4, FaultyDisk

CONNECTIONS = 16


def row(lab):
    disk = FaultyDisk(lab)
    ext4 = Ext4(lab, disk.mount / "image", 192)
    (ext4.mount / "spool").mkdir(mode=0o700)
    rounds = lab.size(4, 60)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=ext4.mount / "spool",
        keeping='segment_bytes = "4MiB"\nreserve_bytes = "16MiB"\n',
        settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    load = tier.Load(lab, relay, sink, lab.size(12, 360), "--connections", CONNECTIONS, "--size", "2k=90,150k=10", "--timeout", 20)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    undone, done = 0, 0
    for nth in range(rounds):
        if not load.lasts(chance.uniform(0.3, 1.0)):
            break
        done += 1
        if nth % 2:
            undone += disk.cut(chance.randrange(1, 2**32), relay, freeze=chance.uniform(0, 0.02))["undone"]
        else:
            disk.order("fail", "eio", chance.randrange(1, 30), "sticky", "sync")
            tier.wait_for(lambda: relay.readiness() == 503 or not load.lasts(0), 20, "the fence over an ext4 that failed")
            tier.check(relay.metric("ringpost_spool_fenced") > 0 or not load.lasts(0), "ringpost_spool_fenced does not show the fence")
            relay.kill()
        ext4.close()
        disk.order("mend")
        ext4.check()
        ext4.open()
        relay.start()
    report = load.judge(repeated=done * tier.IN_FLIGHT, ambiguous=done * CONNECTIONS)
    lab.enough(done, rounds, "faults")
    relay.stop()
    tier.check("was damaged" not in lab.text("relay.log"), "a fault was taken for rot")
    tier.check(tier.replies(report, 421, 451) > 0, "no client was told 421 or 451")
    ledger = report["ledger"]
    return (f"{(done + 1) // 2} failed FLUSHes, {done // 2} power cuts with {undone} sectors taken back; {ledger['accepted']} accepted, "
            f"0 lost, {ledger['repeated']} repeated, {ledger['refused_but_delivered']} refused and yet on disk")


if __name__ == "__main__":
    tier.run(row, mounts=True)
