#!/usr/bin/env python3
"""The load generator on a relay that is not ours: source → Postfix → sink, and the ledger accounts for every message.

The instance is the private one of the row `postfix`. Open loop, then refusals by the sink, whose bounces Postfix must write.
"""

import json

import lab as tier
from postfix import Postfix


def row(lab):
    lab.root()
    lab.program("postfix", "postfix")
    sink, port = lab.port(), lab.port()
    postfix = Postfix(lab, port, sink, relay=sink)
    master = (postfix.directory / "queue" / "pid" / "master.pid").read_text().strip()
    steady = load(lab, port, sink, ["--rate", "poisson:100", "--duration", lab.size(4, 20), "--size", "1k=9,60k=1", "--pid", master])
    source, ledger = steady["source"], steady["ledger"]
    tier.same(source["accepted"], ledger["arrived"], "messages accepted, and recipients that got one")
    tier.check(steady["relay"]["cpu_seconds"] > 0, "no CPU time of Postfix's processes was read")
    rules = ["--local", "load", "--local", "gone", "--expect-bounces",
             "--refuse", "gone*=550 5.1.1 no such user@rcpt"]
    count = 90
    refused = load(lab, port, sink, ["--messages", count, "--connections", 4, *rules])["ledger"]
    tier.same(refused["accepted"], count, "recipients accepted in the second run")
    tier.check(refused["bounced_messages"] == refused["failed_at_sink"] > 0, f"bounces and refusals: {refused}")
    return (f"{source['accepted']} messages at {source['accepted_per_second']:.0f}/s, "
            f"{steady['relay']['cpu_micros_per_message'] / 1000:.1f} ms of Postfix's CPU each, none lost or repeated; "
            f"{refused['bounced_messages']} of {count} bounced as they should")


def load(lab, port, sink, arguments):
    """One run, which must pass; its report."""
    report = lab.directory / "load.json"
    run = lab.load(
        ["run", "--target", f"127.0.0.1:{port}", "--sink", f"127.0.0.1:{sink}", "--connections", 8, "--domains", 5,
         "--drain-timeout", 30, "--note", "relay=Postfix", "--json", report, *arguments])
    tier.same(run.wait(), 0, f"exit code of ringpost-load; it says: {lab.text('load.log')[-900:]}")
    return json.loads(report.read_text())


if __name__ == "__main__":
    tier.run(row)
