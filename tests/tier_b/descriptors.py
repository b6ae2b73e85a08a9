#!/usr/bin/env python3
"""Descriptors run out: a relay that may have 256 of them, and more clients than that.

It must not crash and not spin, and must accept connections within a second after the clients have gone. What came in before is
kept, and mail is taken again.
"""

import pathlib
import smtplib
import socket
import time

import lab as tier

DESCRIPTORS, CLIENTS = 256, 400
# Part of one CPU that waiting for descriptors may take; each listener looks again every 20 ms.
CPU = 0.3


class Limited(tier.Relay):
    """A relay with few descriptors."""

    def command(self):
        return ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$0" "$@"', *super().command()]

    def open(self):
        """Descriptors that it has open."""
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))


def send(relay, subject):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as client:
        client.sendmail("a@client.invalid", ["b@kept.invalid"], f"Subject: {subject}\r\n\r\nx\r\n")


def takes(relay, subject):
    try:
        send(relay, subject)
    except smtplib.SMTPDataError as refusal:
        tier.same(refusal.smtp_code, 452, "reply to the end of data")
        return False
    return True


def exhaust(lab, relay):
    """One round; the part of a CPU that was used meanwhile, and the time until there was a banner again."""
    clients = [socket.create_connection(("127.0.0.1", relay.port), timeout=10) for _ in range(CLIENTS)]
    tier.wait_for(lambda: relay.open() >= DESCRIPTORS - 2, 10, "the descriptors are used up")
    began, cpu = time.monotonic(), relay.cpu()
    time.sleep(lab.size(2, 10))
    used = (relay.cpu() - cpu) / (time.monotonic() - began)
    tier.check(relay.process.poll() is None, "the relay has ended")
    tier.check(used <= CPU, f"waiting for descriptors takes {used:.0%} of a CPU")
    for client in clients:
        client.close()
    released = time.monotonic()
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
        tier.check(client.recv(100).startswith(b"220"), "no banner after the descriptors were released")
    return used, time.monotonic() - released


def row(lab):
    relay = Limited(lab, routes={"*": "hold"}, settings="[threads]\nshards = 2\nworkers = 2\n")
    send(relay, "before")
    rounds = [exhaust(lab, relay) for _ in range(lab.size(2, 10))]
    # A segment that could not be prepared for want of a descriptor is tried again: until then clients are told 452.
    tier.wait_for(lambda: takes(relay, "after"), 10, "mail is taken again")
    tier.same(relay.queued(), 2, "messages kept")
    failed = relay.metrics()['ringpost_connections_total{listener="smtp",result="failed"}']
    tier.check(failed > 0, "no accept has failed: the row has tried nothing")
    relay.stop()
    slowest = max(wait for _, wait in rounds)
    tier.check(slowest <= 1, f"{slowest:.2f} s until connections were accepted again")
    return (
        f"{CLIENTS} clients and {DESCRIPTORS} descriptors, {len(rounds)} times: at most {max(used for used, _ in rounds):.1%} of a CPU "
        f"meanwhile, a banner {slowest * 1000:.0f} ms after the release")


if __name__ == "__main__":
    tier.run(row)
