#!/usr/bin/env python3
"""`ringpost-tune sweep` on this host: what it recommends is within 10 % of the best point that is measured exhaustively.

By the messages/s that the relay's CPU for each message would allow (`--by cpu`): generator and neighbours share the CPUs, so messages/s tell of them as well. CPU is noisy too (a busy
machine shows twice the cost of a quiet one), and runs that were made minutes apart met different neighbours. So the sweep and the
exhaustive one only name a point each; if they differ, the two are measured in alternation, and the median of the ratios counts. The
tolerance is 10 % and twice the standard error of that median: strict on a quiet machine, weak on a busy one, and the line says how strict.
The short run keeps threads.pin out of the space.
"""

import csv
import json
import math
import os
import shutil
import statistics
import subprocess

import lab as tier

TOLERANCE = 0.10
# Programs that want a CPU, for each CPU, from which on a run of two seconds says nothing about a layout.
BUSY = 5


def sweep(lab, out, *more):
    """Runs it, and gives its runs as rows."""
    command = [lab.bin / "ringpost-tune", "sweep", "--relay", lab.bin / "ringpost", "--load", lab.bin / "ringpost-load",
               "--out", out, "--by", "cpu", "--p99", 60000, "--connections", 32, "--seconds", lab.size(2, 5),
               "--warmup", lab.size(0, 1), *lab.size(["--keep-pin"], []), *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    tier.check(done.returncode == 0, f"sweep ended with {done.returncode}: {done.stderr[-400:]}")
    with open(out / "runs.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["purpose"] == "search"]


def layout(row):
    """What a run was of."""
    return row["wiring"], int(row["shards"]), int(row["workers"]), row["pin"]


def name(point):
    """For people."""
    wiring, shards, workers, pin = point
    return f"{wiring} {shards}×{workers}{'' if pin == 'true' else ' free'}"


def recommended(text):
    """The layout of a recommended.toml; keys that it leaves out are at their defaults."""
    keys = dict(line.split(" = ") for line in text.splitlines() if " = " in line and not line.startswith("#"))
    return keys.get("wiring", '"shared"').strip('"'), int(keys["shards"]), int(keys["workers"]), keys.get("pin", "true")


def cpu(lab, point):
    """The relay's CPU for each message with this layout, in microseconds: a run of its own, without `ringpost-tune`."""
    wiring, shards, workers, pin = point
    sink = lab.port()
    settings = (f'[log]\nlevel = "warn"\n[threads]\nwiring = "{wiring}"\nshards = {shards}\nworkers = {workers}\npin = {pin}\n')
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings=settings)
    report = lab.directory / "pair.json"
    load = lab.load(["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--connections", 32,
                     "--messages", lab.size(3000, 60000), "--pid", relay.process.pid, "--json", report])
    tier.check(load.wait() == 0, f"ringpost-load: {lab.text('load.log')[-600:]}")
    relay.stop()
    shutil.rmtree(lab.directory / "relay-spool")
    return json.loads(report.read_text())["relay"]["cpu_micros_per_message"]


def row(lab):
    if not os.access(lab.bin / "ringpost-tune", os.X_OK):
        raise tier.Skip("ringpost-tune is not built: cargo build --workspace")
    load, cpus = os.getloadavg()[0], os.cpu_count()
    if load > BUSY * cpus:
        raise tier.Skip(f"{load:.0f} programs want the {cpus} CPUs of this machine: layouts cannot be compared")
    # A relay that cannot start here is a reason to skip, which this finds out.
    lab.relay(routes={"*": "discard"}).stop()
    repeats = lab.size(1, 3)
    all_runs = sweep(lab, lab.directory / "all", "--exhaustive", "--repeats", repeats)
    found_runs = sweep(lab, lab.directory / "found", "--runs", lab.size(7, 30), "--repeats", 2)
    scores, allowed = {}, {}
    for run in all_runs:
        scores.setdefault(layout(run), []).append(float(run["score"]))
        # How many CPUs the layout can fill, in messages/s for each µs that a message costs.
        allowed[layout(run)] = float(run["score"]) * float(run["cpu_micros"])
    file = lab.directory / "found" / "recommended.toml"
    check = subprocess.run([str(lab.bin / "ringpost"), "check", "--config", str(file)], capture_output=True, text=True, check=False)
    tier.same(check.returncode, 0, f"ringpost check of recommended.toml: {check.stderr}")
    point = recommended(file.read_text())
    tier.check(point in scores, f"{point} is none of the {len(scores)} points")
    best = max(scores, key=lambda layout: statistics.mean(scores[layout]))
    told = (f"recommended {name(point)} after {len(found_runs)} runs; of {len(scores)} points measured {repeats} times each, the best "
            f"is {name(best)}")
    if point == best:
        return told
    # The first pair warms up whatever there is to warm.
    share = allowed[best] / allowed[point]
    ratios = [share * cpu(lab, point) / cpu(lab, best) for _ in range(1 + lab.size(3, 9))][1:]
    over = statistics.median(ratios) - 1
    error = 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    told += f"; in alternation the best does {100 * over:+.1f} % ± {200 * error:.0f} more messages/s by CPU"
    tier.check(over <= TOLERANCE + 2 * error, told)
    return told


if __name__ == "__main__":
    tier.run(row)
