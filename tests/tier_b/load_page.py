#!/usr/bin/env python3
"""The page of a load run, in a real browser: it parses as it was written, asks for nothing, and nothing complains.

Headless Chromium on a page that was made by source straight into sink.
"""

import re
import subprocess

import lab as tier

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=2000"]
PLOTS = ["Throughput over time", "Latency by percentile", "Latency over time"]
TABLES = ["Latency by phase", "Bounds", "Ledger", "Generator", "Sink", "Environment"]


def row(lab):
    browser = lab.program("chromium", "chromium")
    port, page = lab.port(), lab.directory / "page.html"
    run = lab.load(
        ["run", "--target", f"127.0.0.1:{port}", "--sink", f"127.0.0.1:{port}", "--rate", "poisson:300", "--duration", 3,
         "--bound", "errors<=0%", "--note", "durability=<none> & \"nothing\"", "--html", page])
    tier.same(run.wait(), 0, f"exit code of ringpost-load; it says: {lab.text('load.log')[-900:]}")
    command = [browser, *FLAGS, f"--user-data-dir={lab.directory / 'profile'}", "--dump-dom", f"file://{page}"]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    tier.same(seen.returncode, 0, f"exit code of the browser; it says: {seen.stderr[-600:]}")
    written, dom = page.read_text(), seen.stdout
    complaints = [line for line in seen.stderr.splitlines() if ":CONSOLE" in line]
    tier.same(complaints, [], "what the browser's console says")
    # A parser that repairs markup moves elements or adds some.
    for tag in ("section", "svg", "polyline", "rect", "text", "tr", "td"):
        tier.same(len(re.findall(f"<{tag}[ >]", dom)), len(re.findall(f"<{tag}[ >]", written)), f"<{tag}> in the browser's tree")
    for title in PLOTS + TABLES:
        tier.same(dom.count(f"<h2>{title}</h2>"), 1, f"sections with the title {title}")
    tier.same(re.findall(r"<script|https?:|src=|@import|url\(", dom), [], "scripts and references to elsewhere")
    tier.check("&lt;none&gt; &amp;" in dom, "a note is not shown as it was written")
    return f"{len(PLOTS)} plots and {len(TABLES)} tables as written, {len(written) // 1024} KiB, nothing fetched, no complaint"


if __name__ == "__main__":
    tier.run(row)
