#!/usr/bin/env python3
"""Seeds of the simulation: the whole relay in virtual time, with crashes, power cuts, failing disks, networks and clocks.

Short: as many beyond those of `cargo test` as 20 seconds allow, 100 at most. Full: 5,000.
"""

import re
import subprocess
import time

import lab as tier

# Where the short run begins, how many it does at a time, and for how long, in seconds.
FIRST, PIECE, LIMIT = 200, 20, 20


def simulate(program, first, seeds):
    """Lets them happen; gives the counts of the last line, by name."""
    done = subprocess.run([program, "simulate", "--first", str(first), "--seeds", str(seeds)], capture_output=True, text=True, check=False)
    tier.check(done.returncode == 0, f"a seed breaks the law:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {name: int(count) for count, name in re.findall(r"(\d+) ([a-z][a-z ]*)", done.stdout.splitlines()[-1])}


def row(lab):
    program = lab.bin / "ringpost-simulation"
    if not program.exists():
        raise tier.Skip("ringpost-simulation is not built: cargo build --release --workspace")
    first, most, piece = (0, 5000, 500) if lab.full else (FIRST, 5 * PIECE, PIECE)
    until = time.monotonic() + LIMIT
    total = {}
    while total.get("seeds", 0) < most and (lab.full or time.monotonic() < until):
        for name, count in simulate(program, first + total.get("seeds", 0), piece).items():
            total[name] = total.get(name, 0) + count
    return ", ".join(f"{count} {name}" for name, count in total.items())


if __name__ == "__main__":
    tier.run(row)
