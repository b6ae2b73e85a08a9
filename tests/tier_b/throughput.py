#!/usr/bin/env python3
"""Sustained durable rate: `ringpost-load run`, 32 connections, messages of 4 KiB, source and sink on this host.

Nothing lost, nothing repeated. The rate is printed; only the full run asserts one, since CI shares its machine.
"""

import json

import lab as tier

# Below this something waits that must not wait, on any machine with a disk.
FLOOR, FLOOR_FULL = 100, 5000


def row(lab):
    seconds = lab.size(10, 60)
    sink = lab.port()
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings='[log]\nlevel = "warn"\n')
    load = lab.load(
        ["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--connections", 32,
         "--size", 4096, "--duration", seconds, "--pid", relay.process.pid, "--json", lab.directory / "load.json"])
    code = load.wait()
    report = json.loads((lab.directory / "load.json").read_text()) if code in (0, 1) else {}
    tier.check(code == 0, f"ringpost-load: {lab.text('load.log')[-600:]}")
    relay.stop()
    ledger, source, used = report["ledger"], report["source"], report["relay"]
    for name in ("lost", "repeated", "refused", "unknown", "corrupted", "misdelivered"):
        tier.same(ledger[name], 0, name)
    rate, floor = source["accepted_per_second"], lab.size(FLOOR, FLOOR_FULL)
    tier.check(rate >= floor, f"{rate:.0f} messages/s, and {floor} are wanted")
    # The generator adds CPU of its own on the same cores: its share is told, since it bounds the rate.
    generator = report["generator"]
    micros = (generator["source_cpu_seconds"] + generator["sink_cpu_seconds"]) * 1e6 / ledger["accepted"]
    return (
        f"{ledger['accepted']} messages in {source['seconds']:.1f} s: {rate:.0f}/s, 0 lost, 0 repeated; "
        f"{used['cpu_micros_per_message']:.0f} µs CPU per message (generator {micros:.0f} µs), "
        f"end of data to 250 p50 {source['end_of_data']['p50'] / 1000:.1f} ms, "
        f"p99 {source['end_of_data']['p99'] / 1000:.1f} ms; "
        f"peak resident {used['resident_peak'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    tier.run(row)
