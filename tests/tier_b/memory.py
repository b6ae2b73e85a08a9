#!/usr/bin/env python3
"""Bounded memory: a relay that may have 256 MiB, and clients that want more.

Thousands of connections send messages of 25 MB, some as chunks of one byte, some as a header that never ends. What the relay has
resident stays within what its budgets add up to, and a tenth more; the kernel kills nothing; and mail is taken again afterwards.
Needs root and a memory cgroup (version 2, or 1) that it may make a group in.
"""

import os
import pathlib
import selectors
import smtplib
import socket
import time

import lab as tier

LIMIT = 256 * 2**20
IN_FLIGHT, RESIDENT = 25 * 2**20, 16 * 2**20
# Of a session: its task, its buffers of replies, its envelope.
SESSION = 4096
# Receive buffers that both executors keep for reuse.
KEPT = 2 * 4 * 2**20
LARGE = 25_000_000
SETTINGS = f"""[limits]
in_flight_bytes_max = {IN_FLIGHT}
resident_bytes_max = {RESIDENT}
[threads]
shards = 2
workers = 2
[log]
level = "warn"
"""
LINE = b"x" * 76 + b"\r\n"
KINDS = {
    "large": (b"DATA\r\n", b"Subject: large\r\n\r\n", LINE * 400),
    "chunks": (b"", b"", b"BDAT 1\r\nx" * 1000),
    "header": (b"DATA\r\n", b"", b"X-Endless: " + LINE),
}


class Group:
    """A memory cgroup."""

    def __init__(self, lab):
        name = f"ringpost-tier-b-{os.getpid()}"
        second, first = pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/memory")
        is_second = (second / "cgroup.controllers").exists()
        self.path = (second if is_second else first) / name
        self.kills = self.path / ("memory.events" if is_second else "memory.oom_control")
        try:
            self.path.mkdir()
            lab.cleaners.append(self.remove)
            (self.path / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(LIMIT))
        except OSError as error:
            raise tier.Skip(f"no memory cgroup can be made: {error}") from None

    def remove(self):
        """Its processes have ended, or end now."""
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)

    def killed(self):
        """How often the kernel killed something in it."""
        lines = (line.split() for line in self.kills.read_text().splitlines())
        return sum(int(words[1]) for words in lines if words[0] == "oom_kill")


class Confined(tier.Relay):
    """A relay in a memory cgroup."""

    group = None

    def command(self):
        return ["sh", "-c", f'echo $$ > {self.group.path}/cgroup.procs; exec "$0" "$@"', *super().command()]


class Client:
    """One connection that sends without end, and anew when it is answered."""

    def __init__(self, port, kind):
        self.start, self.head, self.piece = KINDS[kind]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setblocking(False)
        self.sent, self.rest = 0, b""
        self.envelope()

    def envelope(self):
        self.left = LARGE
        self.rest += b"EHLO a.invalid\r\nMAIL FROM:<a@a.invalid>\r\nRCPT TO:<b@b.invalid>\r\n" + self.start + self.head

    def go_on(self):
        """Sends what the socket takes; a client whose message is whole begins another."""
        if not self.rest:
            self.rest, self.left = self.piece, self.left - len(self.piece)
            if self.left <= 0 and self.start and self.head:
                self.rest += b".\r\n"
                self.envelope()
        sent = self.socket.send(self.rest)
        self.rest, self.sent = self.rest[sent:], self.sent + sent

    def listen(self):
        """Reads replies away; `False` when the relay has closed."""
        try:
            return bool(self.socket.recv(65536))
        except BlockingIOError:
            return True


def push(clients, seconds):
    """All of them send for so long; bytes sent."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as ready:
        for client in clients:
            ready.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        while time.monotonic() < deadline:
            for key, events in ready.select(0.1):
                client = key.data
                try:
                    if events & selectors.EVENT_READ and not client.listen():
                        raise ConnectionResetError
                    client.go_on()
                except BlockingIOError:
                    pass
                except ConnectionError:
                    ready.unregister(client.socket)
    return sum(client.sent for client in clients)


def send(relay):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.sendmail("a@client.invalid", ["b@any.invalid"], "Subject: x\r\n\r\nx\r\n")


def row(lab):
    lab.root()
    Confined.group = Group(lab)
    count = lab.size(600, 2000)
    relay = Confined(lab, routes={"*": "discard"}, settings=SETTINGS, smtp=f"message_bytes_max = {IN_FLIGHT}\n")
    send(relay)
    idle = relay.memory()
    kinds = ["large"] * (count - count // 5) + ["chunks", "header"] * (count // 10)
    clients = [Client(relay.port, kind) for kind in kinds]
    sent = push(clients, lab.size(8, 60))
    peak = relay.memory()
    for client in clients:
        client.socket.close()
    budget = idle + IN_FLIGHT + RESIDENT + KEPT + count * SESSION
    tier.check(peak <= budget * 1.1, f"{peak / 2**20:.0f} MiB resident, the budgets make {budget / 2**20:.0f} MiB")
    tier.same(Confined.group.killed(), 0, "processes killed by the kernel for want of memory")
    # While all of them sent, a shard may have been too late for a scrape.
    tier.wait_for(lambda: relay.metric("ringpost_connections_open") == 0 == relay.metric("ringpost_scrape_incomplete"), 30, "all are gone")
    tier.same(relay.metric("ringpost_in_flight_bytes"), 0, "bytes in flight that were not given back")
    refused = relay.metric("ringpost_rejects_total")
    tier.check(refused > 0, f"no budget was met with {peak / 2**20:.0f} MiB resident: the row has tried nothing")
    send(relay)
    relay.stop()
    return (
        f"{count} clients in {LIMIT >> 20} MiB sent {sent / 2**20:,.0f} MiB: peak resident {peak / 2**20:.0f} MiB of "
        f"{budget / 2**20:.0f} MiB that the budgets make, {refused:,.0f} refusals, nothing killed")


if __name__ == "__main__":
    tier.run(row)
