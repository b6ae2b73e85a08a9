#!/usr/bin/env python3
"""Draining a backlog: CPU of the relay per message, against that of fresh mail in the same setting.

200,000 messages of 4 KiB (full; else 20,000) wait in a spool made by spool-maker; the relay is started on it with a route to
ringpost-load's sink, and its CPU counted until the queue is empty, recovery included. Fresh mail is accepted and delivered.
"""

import json

import lab as tier

RATIO = 1.5
SETTINGS = '[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n'


def fresh(lab, turn, messages):
    """Microseconds of CPU for each message that comes and goes."""
    sink, report = lab.port(), lab.directory / f"load{turn}.json"
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings=SETTINGS, name=f"fresh{turn}")
    code = lab.load(
        ["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--connections", 32, "--size", 4096,
         "--messages", messages, "--pid", relay.process.pid, "--json", report]).wait()
    tier.same(code, 0, "exit code of ringpost-load")
    relay.stop()
    return json.loads(report.read_text())["relay"]["cpu_micros_per_message"]


def drained(lab, turn, messages):
    """Microseconds of CPU for each message that was there at the start."""
    name, address = f"backlog{turn}", f"127.0.0.1:{lab.port()}"
    lab.spool(name, messages=messages, size=4096, domains=1, parts=2)
    sink = lab.load(["sink", "--listen", address], "sink.log")
    relay = lab.relay(routes={"*": f"smtp://{address}"}, settings=SETTINGS, name=name)
    tier.wait_for(lambda: relay.queued() == 0, 300, "the backlog has been delivered")
    micros = relay.cpu() * 1e6 / messages
    delivered = sum(
        value for key, value in relay.metrics().items()
        if key.startswith("ringpost_deliveries_total") and "delivered" in key)
    tier.same(delivered, messages, "deliveries")
    relay.stop()
    sink.terminate()
    sink.wait()
    return micros


def row(lab):
    messages, turns = lab.size(20_000, 200_000), lab.size(1, 3)
    pairs = [(fresh(lab, turn, messages), drained(lab, turn, messages)) for turn in range(turns)]
    ratio = sorted(old / new for new, old in pairs)[turns // 2]
    told = ", ".join(f"{new:.0f} and {old:.0f} µs" for new, old in pairs)
    if lab.full:
        tier.check(ratio <= RATIO, f"a backlog costs {ratio:.2f} times what fresh mail does: {told}")
    return f"{messages} messages of 4 KiB, CPU a message fresh and from a backlog: {told}; ratio {ratio:.2f}"


if __name__ == "__main__":
    tier.run(row)
