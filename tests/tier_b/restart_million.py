#!/usr/bin/env python3
"""Restart with a million queued messages of 4 KiB (full; else 100,000): how long until mail is taken, and with how much memory.

The spool is made by spool-maker, not by sending. Asserted are counts and memory; the time is the disk's as well, and is told.
"""

import smtplib
import time

import lab as tier

# What a restart may hold with the million, and what it reads: header and meta of each record, and the open tails.
RESIDENT, READ_A_MESSAGE, READ_A_SHARD = 400 * 2**20, 256, 80 * 2**20
SHARDS = 2


def row(lab):
    messages = lab.size(100_000, 1_000_000)
    lab.spool(messages=messages, size=4096, parts=SHARDS)
    began = time.monotonic()
    relay = lab.relay(routes={"*": "hold"}, settings=f"[threads]\nshards = {SHARDS}\nworkers = {SHARDS}\n")
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as client:
        client.sendmail("a@source.invalid", ["b@domain.invalid"], "Subject: after the restart\r\n\r\n.\r\n")
    seconds = time.monotonic() - began
    cpu, read, resident = relay.cpu(), relay.bytes_read(), relay.memory()
    tier.same(relay.queued(), messages + 1, "messages queued")
    tier.check(resident <= RESIDENT, f"{resident / 2**20:.0f} MiB resident")
    tier.check(read <= READ_A_MESSAGE * messages + READ_A_SHARD * SHARDS, f"{read} bytes read for {messages} messages")
    relay.stop()
    return (
        f"{messages} queued messages of 4 KiB: a new one accepted {seconds:.2f} s after the start, {cpu:.2f} s of CPU, "
        f"{read / 2**20:.0f} MiB read, peak resident {resident / 2**20:.0f} MiB")


if __name__ == "__main__":
    tier.run(row)
