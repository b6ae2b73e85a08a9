#!/usr/bin/env python3
"""Slow clients: thousands of connections that send a byte every ten seconds, and good clients beside them.

Good clients must keep nine tenths of their rate, and their 99th percentile must not double. Rates are compared in alternation,
without and with the slow ones, best turn against best turn; so is the CPU that the relay takes for a message, which other load on
the machine changes less. Half of the slow ones drip a command, half a message. Then connections are scarce: slow strangers may not
have the last tenth, and are sent away in time for one that behaves.
"""

import json
import resource
import smtplib
import socket
import threading
import time

import lab as tier

GOOD, PERIOD = 200, 10
PRELUDE = b"EHLO slow.invalid\r\nMAIL FROM:<a@slow.invalid>\r\nRCPT TO:<b@ours.invalid>\r\nDATA\r\n"
SETTINGS = """[limits]
connections_max = {connections}
[threads]
shards = 2
workers = 2
[log]
level = "warn"
"""


class Slow(threading.Thread):
    """Connections that drip, from forty strangers' addresses a network."""

    def __init__(self, port, count):
        super().__init__(daemon=True)
        self.stopping, self.lost = False, 0
        self.clients = [self.open(port, number) for number in range(count)]
        # Behind their banners, which none of them may speak before.
        time.sleep(0.2)
        for client in self.clients[::2]:
            self.push(client, PRELUDE)
        self.start()

    @staticmethod
    def open(port, number):
        client = socket.socket()
        client.bind((f"127.{1 + number // 160}.0.{1 + number % 4}", 0))
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        return client

    def push(self, client, data):
        try:
            client.send(data)
        except OSError:
            self.lost += 1

    def run(self):
        """Each connection's byte once in a period, all of them spread evenly."""
        ticks, turn = PERIOD * 10, 0
        while not self.stopping:
            for client in self.clients[turn % ticks::ticks]:
                self.push(client, b"x")
            turn += 1
            time.sleep(0.1)

    def end(self):
        self.stopping = True
        self.join()
        for client in self.clients:
            client.close()


def good(lab, relay, seconds):
    """Rate, 99th percentile from end of data to 250 (microseconds), and CPU of the relay a message (microseconds)."""
    report, cpu = lab.directory / "good.json", relay.cpu()
    process = lab.load(
        ["source", "--target", f"127.0.0.1:{relay.port}", "--connections", GOOD, "--size", 4096, "--duration", seconds,
         "--json", report])
    tier.same(process.wait(), 0, "exit code of ringpost-load")
    source = json.loads(report.read_text())["source"]
    accepted = source["accepted"]
    return accepted / source["seconds"], source["end_of_data"]["p99"], (relay.cpu() - cpu) / accepted * 1e6


def plenty(lab, count):
    """Good clients alone and beside slow ones that are all let in."""
    relay = tier.Relay(lab, name="plenty", routes={"*": "discard"}, settings=SETTINGS.format(connections=2 * count + GOOD), **DOOR)
    alone, beside = [], []
    good(lab, relay, 1)
    for _ in range(2):
        alone.append(good(lab, relay, lab.size(2, 10)))
        slow = Slow(relay.port, count)
        beside.append(good(lab, relay, lab.size(2, 10)))
        tier.check(relay.metric("ringpost_connections_open") >= count, "the slow clients are not there")
        tier.same(slow.lost, 0, "slow clients sent away while there is room")
        slow.end()
        tier.wait_for(lambda: relay.metric("ringpost_connections_open") == 0, 20, "the slow clients have gone")
    relay.stop()
    best = [[pick(turn[place] for turn in turns) for place, pick in enumerate((max, min, min))] for turns in (alone, beside)]
    rate, p99, cpu = (beside / alone for alone, beside in zip(*best))
    # Two seconds on a shared machine say little about percentiles.
    tier.check(rate >= lab.size(0.75, 0.9), f"good clients have {rate:.0%} of their rate")
    tier.check(p99 <= lab.size(4, 2), f"the 99th percentile is {p99:.1f} times as long")
    tier.check(cpu <= 1.25, f"a message takes {cpu:.2f} times the CPU")
    return f"rate {rate:.0%} of {best[0][0]:,.0f}/s, p99 {p99:.2f} times {best[0][1] / 1000:.1f} ms, CPU a message {cpu:.2f} times"


def scarce(lab, count):
    """Slow strangers have all that strangers may have; seconds until one that behaves gets in."""
    relay = tier.Relay(lab, name="scarce", routes={"*": "discard"}, settings=SETTINGS.format(connections=count), **DOOR)
    slow = Slow(relay.port, count)
    began = time.monotonic()
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=10) as trusted:
        trusted.sendmail("a@good.invalid", ["b@any.invalid"], "Subject: x\r\n\r\nx\r\n")

    def stranger():
        with socket.socket() as client:
            client.settimeout(10)
            client.bind(("127.200.0.1", 0))
            client.connect(("127.0.0.1", relay.port))
            try:
                return client.recv(100).startswith(b"220")
            except ConnectionError:
                return False

    tier.check(not stranger(), "there is room for a stranger: nothing is scarce")
    tier.wait_for(stranger, 30, "a stranger that behaves is let in")
    took = time.monotonic() - began
    cut = relay.metrics()['ringpost_limits_total{limit="stress"}']
    tier.check(cut > 0, "no slow client was sent away")
    slow.end()
    relay.stop()
    return f"{count} connections all used up by slow strangers: the next gets in after {took:.0f} s, a trusted client at once"


DOOR = {"smtp": 'relay_networks = ["127.0.0.1/32"]\nrelay_domains = ["ours.invalid"]\n'}


def row(lab):
    count = lab.size(1500, 10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 500:
        raise tier.Skip(f"needs {count + 500} descriptors, this host allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    return f"{count} slow and {GOOD} good: {plenty(lab, count)}; {scarce(lab, 200)}"


if __name__ == "__main__":
    tier.run(row)
