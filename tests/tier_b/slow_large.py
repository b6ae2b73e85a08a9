#!/usr/bin/env python3
"""Messages of 50 MB that arrive slowly on 100 connections: what they cost in memory, and small messages in latency.

Small messages are sent at a steady rate, in alternation while the large ones go to the same relay and while as many go to a sink
that throws them away: the difference is what they cost the relay's disk and threads, not the machine. Short: the large ones are cut
off after a while. Full: they arrive whole, each is answered 250, and memory stays within the budget of bytes in flight all the same.
"""

import json
import selectors
import socket
import time

import lab as tier

CONNECTIONS, LARGE = 100, 50_000_000
BUDGET = 64 * 2**20
# Besides the budget: buffers of the logs, of io_uring and of the allocator.
AROUND = 64 * 2**20
PIECE = (b"x" * 76 + b"\r\n") * 840
# Turns of each kind, in alternation. The best pair counts: others work on the machine too.
TURNS = 3
# How much slower small messages may be beside the large ones, the median and the 99th percentile. They share the disk.
RATIOS = {"p50": 3, "p99": 4}
SETTINGS = f"[limits]\nin_flight_bytes_max = {BUDGET}\nresident_bytes_max = 16777216\n"


class Trickle:
    """Sessions that send one large message each, a piece at a time."""

    def __init__(self, port):
        self.left = {}
        for _ in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", port), timeout=10)
            lines = client.makefile("rb")
            for command in (b"EHLO large.invalid", b"MAIL FROM:<a@large.invalid>", b"RCPT TO:<b@large.invalid>", b"DATA"):
                self.reply(lines)
                client.sendall(command + b"\r\n")
            tier.check(self.reply(lines).startswith(b"354"), "a large message is not wanted")
            client.sendall(b"Subject: large\r\n\r\n")
            self.left[client] = LARGE
        self.replies = 0

    @staticmethod
    def reply(lines):
        while (line := lines.readline())[3:4] == b"-":
            pass
        return line

    def run(self, seconds, pause):
        """Sends for so long, a piece on each connection between pauses; less when a socket takes no more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.left:
            with selectors.DefaultSelector() as ready:
                for client in self.left:
                    ready.register(client, selectors.EVENT_WRITE)
                for key, _ in ready.select(0.1):
                    self.send(key.fileobj)
            time.sleep(pause)

    def send(self, client):
        client.sendall(PIECE)
        self.left[client] -= len(PIECE)
        if self.left[client] <= 0:
            client.sendall(b".\r\n")
            client.settimeout(60)
            tier.check(client.recv(512).startswith(b"250"), "a large message is not accepted")
            client.close()
            del self.left[client]
            self.replies += 1

    def close(self):
        for client in self.left:
            client.close()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def small(lab, relay, turn, seconds):
    """Latency of small messages, end of data to 250, percentiles, microseconds."""
    report = lab.directory / f"small{turn}.json"
    process = lab.load(
        ["source", "--target", f"127.0.0.1:{relay.port}", "--connections", 4, "--rate", 200, "--size", 4096,
         "--duration", seconds, "--json", report])
    return process, lambda: json.loads(report.read_text())["source"]["end_of_data"]


def row(lab):
    seconds, pause = lab.size(3, 10), lab.size(0.5, 0.05)
    relay = lab.relay(routes={"*": "discard"}, settings=SETTINGS)
    other = lab.port()
    lab.load(["sink", "--listen", f"127.0.0.1:{other}"], "sink.log")
    tier.wait_for(lambda: is_open(other), 10, "the sink listens")
    elsewhere, large = Trickle(other), Trickle(relay.port)
    pairs = []
    for turn in range(TURNS):
        pair = []
        for name, trickle in (("alone", elsewhere), ("beside", large)):
            process, latency = small(lab, relay, f"{name}{turn}", seconds)
            while process.poll() is None:
                trickle.run(0.5, pause)
            tier.same(process.wait(), 0, "exit code of ringpost-load")
            pair.append(latency())
        pairs.append(pair)
    elsewhere.close()
    if lab.full:
        large.run(600, 0)
        tier.same(large.replies, CONNECTIONS, "large messages accepted")
    sent = CONNECTIONS * LARGE - sum(large.left.values())
    large.close()
    peak = relay.memory()
    tier.check(peak <= BUDGET + AROUND, f"{peak / 2**20:.0f} MiB resident with a budget of {BUDGET / 2**20:.0f} MiB")
    relay.stop()
    told = []
    for name, most in RATIOS.items():
        ratio, alone, beside = min((beside[name] / alone[name], alone[name], beside[name]) for alone, beside in pairs)
        tier.check(ratio <= most, f"small messages, {name}: {ratio:.1f} times as long beside large ones in every turn")
        told.append(f"{name} {alone / 1000:.2f} and {beside / 1000:.2f} ms")
    return (
        f"{sent / 2**20:.0f} MiB on {CONNECTIONS} connections: peak resident {peak / 2**20:.0f} MiB; small messages, end of data "
        f"to 250, while the large ones go elsewhere and here, best pair: {', '.join(told)}")


if __name__ == "__main__":
    tier.run(row)
