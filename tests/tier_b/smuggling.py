#!/usr/bin/env python3
"""Smuggling through two servers: client → relay → a real Postfix → a sink that keeps each byte.

Each sequence of tests/smuggling/sequences.txt stands between a text and a second message that hides behind it. What comes out at the end is what the client sent in the messages that were answered 250, and nothing else.
"""

import random
import re
import socket

import lab as tier
from postfix import Postfix
from sink import Sink

FILE = tier.ROOT / "tests" / "smuggling" / "sequences.txt"
HIDDEN = (
    b"MAIL FROM:<evil@smuggled.invalid>\r\nRCPT TO:<victim@content.invalid>\r\nDATA\r\nSubject: hidden\r\n\r\nhidden")
ESCAPED = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}
ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")


def sequences():
    """Pairs of a sequence and whether it is a true end of data."""
    def byte(found):
        word = found.group(1)
        return bytes([int(word[1:], 16)]) if len(word) == 3 else ESCAPED[word]
    for line in FILE.read_bytes().splitlines():
        if line and not line.startswith(b"#"):
            is_end = line.startswith(b"end ")
            yield ESCAPE.sub(byte, line[4:] if is_end else line), is_end


class Client:
    """A socket that says what it is told, in whatever pieces."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")
        self.reply()
        self.say(b"EHLO client.invalid")

    def reply(self):
        """Code of the next reply."""
        while True:
            line = self.replies.readline()
            if line[3:4] != b"-":
                # Bytes of TLS, such as an alert to what was smuggled behind STARTTLS, are no reply.
                return int(line[:3]) if line[:3].isdigit() else 0

    def say(self, line):
        """The code that a line is answered."""
        self.socket.sendall(line + b"\r\n")
        return self.reply()

    def send(self, data, cuts):
        """`data` in as many writes as there are cuts, and one more."""
        for start, end in zip([0, *cuts], [*cuts, len(data)]):
            self.socket.sendall(data[start:end])

    def close(self):
        """Says goodbye and gives the codes that were still to come: a client in step sees one."""
        self.socket.sendall(b"QUIT\r\n")
        codes = []
        while (code := self.reply()) != 0:
            codes.append(code)
        self.socket.close()
        return codes


def row(lab):
    lab.root()
    lab.program("postfix", "postfix")
    sink, port = Sink(lab.port()), lab.port()
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{port}"})
    postfix = Postfix(lab, port, sink.port, relay.port)
    all_of_them = list(sequences())
    tier.check(len(all_of_them) >= 120, f"only {len(all_of_them)} sequences")
    wanted, refused, ends = {}, 0, 0
    for number, (sequence, is_end) in enumerate(all_of_them):
        for turn in range(lab.size(2, 20)):
            to = b"n%d-%d@content.invalid" % (number, turn)
            taken = one(relay, to, sequence, random.Random(number * 1000 + turn), whole=turn == 0)
            refused += taken is None
            ends += is_end
            if taken is not None:
                wanted[to.decode()] = taken
    tier.wait_for(lambda: not relay.queued() and postfix.is_empty(), 60, "both queues empty")
    tier.check(wanted and refused, f"{len(wanted)} taken and {refused} refused: the file lost its point")
    # A true end lets the second message be one: it was sent, and by the client's own word.
    mails = [mail for mail in sink.mails if mail.sender == "evil@smuggled.invalid"]
    tier.same(len(mails), ends, "messages of the hidden sender, and true ends of data")
    for to, body in wanted.items():
        found = sink.to(to)
        tier.same(len(found), 1, f"messages to {to}")
        tier.same(found[0].header_and_body()[1], body, f"body of the message to {to}")
    tier.same(len(sink.mails), len(wanted) + ends, "messages at the end of the way")
    tier.same(sink.faults, [], "faults that the sink saw")
    starttls(lab, sink)
    relay.stop()
    return f"{len(all_of_them)} sequences: {refused} messages refused, {len(wanted)} arrived as sent, none was smuggled"


def one(relay, to, sequence, dice, whole):
    """Sends one message; its body without stuffed dots, as it must arrive, or None if it was refused."""
    client = Client(relay.port)
    tier.same(client.say(b"MAIL FROM:<from@content.invalid>"), 250, "MAIL")
    tier.same(client.say(b"RCPT TO:<%s>" % to), 250, "RCPT")
    tier.same(client.say(b"DATA"), 354, "DATA")
    text = b"Subject: shown\r\n\r\nshown" + sequence + HIDDEN
    data = text + b"\r\n.\r\n"
    cuts = [] if whole else sorted(dice.sample(range(1, len(data)), 4))
    client.send(data, cuts)
    code = client.reply()
    codes = client.close()
    tier.check(code in (250, 550), f"{sequence!r}: answered {code}")
    shown, ended, _ = text.partition(b"\r\n.\r\n")
    tier.same(codes, [250, 250, 354, 250, 221] if ended else [221], f"{sequence!r}: codes behind that of the message")
    if code == 550:
        return None
    body = (shown + b"\r\n").partition(b"\r\n\r\n")[2]
    return unstuffed(body)


def unstuffed(body):
    """What dot-stuffing stands for; lines end in CR LF and nothing else."""
    lines = body.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


def starttls(lab, sink):
    """Commands in the clear behind STARTTLS are never run, in whatever pieces they come."""
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink.port}"}, name="tls", smtp=tier.with_tls(lab))
    before = sink.count()
    for cut in range(1, 40, 3):
        client = Client(relay.port)
        script = b"STARTTLS\r\nMAIL FROM:<evil@smuggled.invalid>\r\nRCPT TO:<victim@content.invalid>\r\nDATA\r\nx\r\n.\r\n"
        try:
            client.send(script, [cut])
            codes = client.close()
        except OSError:
            codes = []
        tier.check(codes in ([], [220]), f"answers to what was injected behind STARTTLS: {codes}")
    tier.same(sink.count(), before, "messages injected behind STARTTLS")
    relay.stop()


if __name__ == "__main__":
    tier.run(row)
