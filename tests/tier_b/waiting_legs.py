#!/usr/bin/env python3
"""Ten million waiting legs (full; else 200,000) in 1.6 GiB: one leg a message, and ten.

Half of them have had a first attempt and wait for the next. The spools are made by spool-maker; bodies are small, since only what
is in memory counts here.
"""

import shutil

import lab as tier

LEG_BYTES = 1.6 * 2**30 / 10_000_000
SHARDS = 2
SETTINGS = f"[threads]\nshards = {SHARDS}\nworkers = {SHARDS}\n"


def resident(lab, name, legs, legs_a_message):
    """Resident bytes of a relay with so many waiting legs."""
    if legs:
        lab.spool(
            name, messages=legs // legs_a_message, legs=legs_a_message, size=200, domains=10_000, deferred=50, parts=SHARDS)
    relay = lab.relay(routes={"*": "hold"}, settings=SETTINGS, name=name, patience=120)
    waiting = sum(value for key, value in relay.metrics().items() if key.startswith("ringpost_queue_legs"))
    tier.same(waiting, legs, "legs in the queue")
    bytes_now, peak = relay.memory("VmRSS"), relay.memory()
    relay.stop()
    shutil.rmtree(lab.directory / f"{name}-spool")
    return bytes_now, peak


def row(lab):
    legs = lab.size(200_000, 10_000_000)
    empty, _ = resident(lab, "empty", 0, 1)
    told = []
    for legs_a_message in (1, 10):
        now, peak = resident(lab, f"legs{legs_a_message}", legs, legs_a_message)
        each = (now - empty) / legs
        told.append(
            f"{legs_a_message} a message: {now / 2**20:.0f} MiB, {each:.0f} bytes each over an empty relay, "
            f"peak {peak / 2**20:.0f} MiB")
        if lab.full:
            tier.check(now <= LEG_BYTES * legs, f"{legs} legs, {legs_a_message} a message, take {now / 2**20:.0f} MiB")
    return f"{legs} waiting legs; " + "; ".join(told)


if __name__ == "__main__":
    tier.run(row)
