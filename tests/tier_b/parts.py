#!/usr/bin/env python3
"""Restarts with fewer and with more shards, under load: nothing is lost; clean stops repeat nothing; drained parts disappear.

A part that no shard is for any more is drained by the others. Its directory goes at the next clean stop at which it is empty:
also if its last message leaves only after another restart, and if a kill -9 came between.
"""

import lab as tier

SHARDS = [2, 3, 1, 2, 4, 1, 3, 2]


def row(lab):
    plan = lab.size(SHARDS[:4], SHARDS * 10)
    clean = campaign(lab, "clean", plan, lambda nth: False)
    mixed = campaign(lab, "mixed", plan, lambda nth: nth % 2 == 1)
    leftover(lab)
    return f"{clean}; {mixed}; a part that was emptied after a restart and a kill is gone"


def campaign(lab, name, plan, kills):
    """Load over restarts with other numbers of shards."""
    sink = lab.port()
    # The remote puts one in ten off for a second, so that parts hold mail when they lose their shard.
    settings = '[threads]\nworkers = 2\n[log]\nlevel = "warn"\n[delivery]\nretry_first = "1s"\n'
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings=settings, flags=shards(1), name=name)
    load = tier.Load(lab, relay, sink, 2 * len(plan), "--connections", 16, "--domains", 3, "--local", "now=9",
                     "--local", "later=1", "--refuse", "later*=450 4.2.0 not yet@rcpt:first=1")
    done, killed = 0, 0
    for nth, count in enumerate(plan):
        if not load.lasts(0.5):
            break
        if kills(nth):
            relay.kill()
            killed += 1
        else:
            relay.stop()
        relay.flags = shards(count)
        relay.start()
        done += 1
    report = load.judge(repeated=killed * tier.IN_FLIGHT)
    lab.enough(done, len(plan), "restarts")
    # Some of those without a reply may be left. A start tries them at once.
    relay.stop()
    lab.load(["sink", "--listen", f"127.0.0.1:{sink}"], f"{name}-sink.log")
    relay.start()
    tier.wait_for(lambda: not relay.queued(), 30, "an empty queue")
    # Everything is delivered: with one shard, only its own part may be left.
    relay.stop()
    relay.flags = shards(1)
    relay.start()
    relay.stop()
    tier.same(len(parts(relay)), 1, f"parts that are left of {name}: {parts(relay)}")
    ledger = report["ledger"]
    return f"{name}: {done} restarts, {killed} of them kills, {ledger['accepted']} accepted, 0 lost, {ledger['repeated']} repeated"


def leftover(lab):
    """Mail is held in three parts; one shard delivers it, is killed, and started again: the other parts go at its stop."""
    sink, held = lab.port(), 60
    relay = lab.relay(routes={"*": "hold"}, settings='[threads]\nworkers = 1\n[log]\nlevel = "warn"\n', flags=shards(3), name="leftover")
    for _ in range(held):
        tier.same(tier.send_one(relay), 250, "the reply to a message")
    relay.stop()
    tier.same(len(parts(relay)), 3, "parts of three shards")
    relay.flags = shards(1)
    relay.start()
    tier.same(relay.queued(), held, "messages found by one shard")
    relay.stop()
    tier.same(len(parts(relay)), 3, "parts that still hold mail")
    lab.load(["sink", "--listen", f"127.0.0.1:{sink}"], "leftover-sink.log")
    relay.flags = [*shards(1), "--route", f"smtp://127.0.0.1:{sink}"]
    relay.start()
    tier.wait_for(lambda: not relay.queued(), 30, "an empty queue")
    # Outcomes are on disk a moment later.
    tier.wait_for(lambda: not relay.metric("ringpost_outcomes_not_durable"), 10, "durable outcomes")
    relay.kill()
    tier.same(len(parts(relay)), 3, "parts go at a stop, not while the relay runs")
    relay.start()
    tier.same(relay.queued(), 0, "messages that came back")
    relay.stop()
    tier.same(len(parts(relay)), 1, f"parts after the stop: {parts(relay)}")


def shards(count):
    """Flags for so many shards."""
    return ["--shards", count]


def parts(relay):
    """Names in the spool that are parts, or were."""
    return sorted(path.name for path in relay.spool.iterdir() if path.name not in ("format", "lock", "damaged"))


if __name__ == "__main__":
    tier.run(row)
