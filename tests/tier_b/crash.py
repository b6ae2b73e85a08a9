#!/usr/bin/env python3
"""kill -9 at random times under load, then a restart, again and again (`ringpost-load crash`): nothing that was acknowledged is lost.

Repeats are allowed after a kill (a message whose 250 from the remote was not yet on disk), but no more than were in flight.
kill -9 keeps the page cache: this says nothing about syncs; power_cut does.
"""

import json
import re
import shlex

import lab as tier


def row(lab):
    kills = lab.size(6, 200)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    # The campaign starts its own, which finds the spool and the configuration of this one.
    relay.stop()
    report = lab.directory / "load.json"
    code = lab.load(
        ["crash", "--kills", kills, "--life-min", 700, "--life-max", 2000, "--target", f"127.0.0.1:{relay.port}",
         "--sink", f"127.0.0.1:{sink}", "--relay", shlex.join(map(str, relay.command())), "--relay-log", lab.directory / relay.log,
         "--connections", 64, "--size", "2k=90,150k=10", "--timeout", 20, "--json", report]).wait()
    tier.same(code, 0, f"exit code of ringpost-load; it says: {lab.text('load.log')[-700:]}")
    report = json.loads(report.read_text())
    ledger = report["ledger"]
    tier.same(ledger["lost"], 0, "lost")
    tier.check(report["source"]["connections_lost"] >= kills, "the kills hit no connections: nothing was tried")
    waiting = [int(found) for found in re.findall(r"(\d+) messages waiting", lab.text(relay.log))]
    # A kill may also come before a start has said that it is ready.
    tier.check(len(waiting) > kills / 2, f"only {len(waiting)} of {kills} starts were ready before the next kill")
    tier.check(any(waiting), "no start found messages waiting: the kills came at idle times")
    tier.check(ledger["repeated"] <= kills * tier.IN_FLIGHT, f"{ledger['repeated']} repeated, more than were in flight")
    return (f"{kills} kills, {ledger['accepted']} accepted, 0 lost, {ledger['repeated']} repeated, "
            f"{ledger['unknown']} without a reply; up to {max(waiting)} found waiting at a start")


if __name__ == "__main__":
    tier.run(row)
