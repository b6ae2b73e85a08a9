#!/usr/bin/env python3
"""SIGTERM under load, then a start, again and again: nothing is lost, nothing is repeated, every end of data gets its reply."""

import lab as tier


def row(lab):
    stops = lab.size(5, 50)
    sink = lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink}"}, settings='[threads]\nshards = 2\nworkers = 2\n[log]\nlevel = "warn"\n')
    load = tier.Load(lab, relay, sink, 3 * stops, "--connections", 32, "--size", "2k=90,150k=10")
    done = 0
    while load.lasts(0.7) and done < stops:
        relay.stop()
        done += 1
        relay.start()
    report = load.judge()
    tier.wait_for(lambda: not relay.queued(), 30, "an empty queue")
    relay.stop()
    lab.enough(done, stops, "stops")
    tier.same(report["ledger"]["unknown"], 0, "ends of data without a reply")
    tier.check(report["source"]["connections_lost"] >= done, "the stops hit no connections: nothing was tried")
    return f"{done} stops, {report['ledger']['accepted']} accepted, 0 lost, 0 repeated, 0 without a reply"


if __name__ == "__main__":
    tier.run(row)
