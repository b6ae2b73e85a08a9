#!/usr/bin/env python3
"""Postfix's smtp-source → relay → Postfix's smtp-sink: each message at the sink exactly once, with the body that was sent.

smtp-source numbers the recipients (-N), smtp-sink writes each message to a file of its own (-d), and the relay's Received
header names the id under which it was accepted: so both sides can be counted, and the relay's log as well.
"""

import collections
import pathlib
import re
import time

import lab as tier

BODY_BYTES = 4096
SESSIONS = 32


def row(lab):
    source = lab.program("smtp-source", "postfix")
    sink = lab.program("smtp-sink", "postfix")
    count = lab.size(10_000, 100_000)
    sink_port = lab.port()
    arguments = [sink, "-c", "-d", lab.directory / "dump" / "%H%M" / "m.", "-m", "400"]
    if not tier.os.geteuid():
        # As root it insists on being told which user to be; the directory is ours alone.
        arguments += ["-u", "root"]
    lab.spawn([*arguments, f"127.0.0.1:{sink_port}", "256"], "sink.log")
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink_port}"})
    began = time.monotonic()
    client = lab.spawn(
        [source, "-d", "-N", "-s", SESSIONS, "-m", count, "-l", BODY_BYTES, "-f", "from@source.invalid",
         "-t", "to@sink.invalid", f"127.0.0.1:{relay.port}"], "source.log")
    tier.same(client.wait(), 0, f"exit code of smtp-source ({lab.text('source.log')[-300:].strip()})")
    accepted_in = time.monotonic() - began
    tier.wait_for(lambda: not relay.queued(), 60, f"an empty queue (smtp-sink: {lab.text('sink.log')[-80:]!r})")
    relay.stop()
    recipients, ids = read_dump(lab.directory / "dump")
    judge(recipients, ids, count)
    accepted = {re.search(r" id=(\w+)", line)[1] for line in relay.lines("accepted")}
    # The log may drop lines when it cannot keep up, but it must not name what does not exist.
    tier.check(accepted <= set(ids), "the log tells of accepted ids that are not at the sink")
    return f"{count} messages of {BODY_BYTES} B accepted in {accepted_in:.1f} s, each at the sink exactly once"


def read_dump(directory):
    """How often each recipient and each of our ids is in the files of smtp-sink."""
    recipients, ids, bodies = collections.Counter(), collections.Counter(), collections.Counter()
    for path in pathlib.Path(directory).glob("*/m.*"):
        # smtp-sink writes lines with LF.
        header, _, body = path.read_bytes().partition(b"\n\n")
        header = header.decode()
        recipients[re.search(r"^X-Rcpt-Args: <(.*?)>", header, re.MULTILINE)[1]] += 1
        ids[re.search(r"by relay\.invalid with E?SMTP\s+id (\w{13})\b", header)[1]] += 1
        bodies[body] += 1
    tier.same(len(bodies), 1, "different bodies at the sink (smtp-source sends one)")
    size = len(next(iter(bodies)))
    tier.check(size >= BODY_BYTES * 0.98, f"the body at the sink has only {size} bytes")
    return recipients, ids


def judge(recipients, ids, count):
    """Each recipient number from 1 to `count` once, under ids that are all different."""
    wanted = {f"{number}to@sink.invalid" for number in range(1, count + 1)}
    missing = wanted - set(recipients)
    tier.check(not missing, f"{len(missing)} of {count} are not at the sink, such as {sorted(missing)[:3]}")
    tier.check(set(recipients) == wanted, f"unknown recipients {sorted(set(recipients) - wanted)[:3]}")
    twice = [name for name, times in recipients.items() if times > 1]
    tier.check(not twice, f"{len(twice)} are at the sink more than once, such as {twice[:3]}")
    tier.same(len(ids), count, "different ids in Received headers")


if __name__ == "__main__":
    tier.run(row)
