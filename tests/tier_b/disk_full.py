#!/usr/bin/env python3
"""A file system of 64 MB fills with mail that the remote defers: 452, deliveries go on, and mail is taken again by itself.

On a real ext4. Nothing that was accepted is lost, and nothing comes twice.
"""

import lab as tier
from disk import Ext4

# From the moment at which the queue has been delivered, seconds.
RECOVERY_SECONDS_MAX = 5


def row(lab):
    rounds = lab.size(1, 20)
    disk = Ext4(lab, lab.directory / "disk.img", 64)
    (disk.mount / "spool").mkdir(mode=0o700)
    told = [fill(lab, disk, nth) for nth in range(rounds)]
    return f"{rounds} times: {told[-1]}"


def fill(lab, disk, nth):
    """Fills it, and lets it drain."""
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, spool=disk.mount / "spool", name=f"relay-{nth}",
        keeping='segment_bytes = "4MiB"\nreserve_bytes = "16MiB"\n',
        settings='[threads]\nshards = 1\nworkers = 1\n[log]\nlevel = "warn"\n'
                 '[delivery]\nretry_first = "6s"\nretry_factor = 1.0\nretry_max = "6s"\nretry_jitter = 0.0\n')
    # Nine in ten are deferred once, for six seconds; the others are delivered meanwhile.
    load = tier.Load(lab, relay, sink, 15, "--connections", 16, "--size", 20_000, "--local", "later=9", "--local", "now=1",
                     "--refuse", "later*=450 4.2.0 not yet@rcpt:first=1")
    is_full = lambda: relay.metric("ringpost_spool_full") > 0
    tier.wait_for(is_full, 12, "a full disk")
    tier.same(tier.send_one(relay), 452, "the reply to a message while the disk is full")
    full, delivered = relay.queued(), relay.metric("ringpost_deliveries_total")
    tier.wait_for(lambda: relay.queued() < full / 10, 30, "a full disk that delivers what it has")
    began = tier.time.monotonic()
    tier.wait_for(lambda: not is_full() and tier.send_one(relay) == 250, RECOVERY_SECONDS_MAX, "mail taken again")
    took = tier.time.monotonic() - began
    tier.check(relay.metric("ringpost_deliveries_total") > delivered, "no deliveries while it was full")
    report = load.judge()
    relay.stop()
    tier.check("panicked" not in lab.text(relay.log), "a panic")
    refused = tier.replies(report, 452)
    return f"{report['ledger']['accepted']} accepted, {full:.0f} held when full, {refused} × 452, taken again after {took:.1f} s, 0 lost"


if __name__ == "__main__":
    tier.run(row, mounts=True)
