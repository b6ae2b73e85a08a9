#!/usr/bin/env python3
"""swaks → relay → a sink that keeps each byte: plain, pipelined, with attachments, odd headers, through CHUNKING and without.

What arrives must be what was sent, behind one Received header of the relay.
"""

import email
import email.policy
import os

import lab as tier
from sink import EXTENSIONS, Sink


def row(lab):
    swaks = lab.program("swaks", "swaks")
    chunking, plain = Sink(lab.port()), Sink(lab.port(), [word for word in EXTENSIONS if word != "CHUNKING"])
    relay = lab.relay(routes={
        "chunking.invalid": f"smtp://127.0.0.1:{chunking.port}", "*": f"smtp://127.0.0.1:{plain.port}"})
    sent = 0
    for domain, sink in (("chunking.invalid", chunking), ("plain.invalid", plain)):
        for case in (simple, pipelined, several_recipients, attachment, odd_lines):
            to = f"{case.__name__}@{domain}"
            case(lab, [swaks, "--server", f"127.0.0.1:{relay.port}", "--from", "from@source.invalid"], to, sink)
            sent += 1
        tier.same(sink.faults, [], f"faults that the sink of {domain} saw")
    refusal(lab, swaks, relay)
    relay.stop()
    return f"{sent} messages byte for byte as sent, by BDAT and by DATA"


def send(lab, command, *arguments):
    """Runs swaks; returns its transcript."""
    process = tier.subprocess.run(
        [*command, *(str(argument) for argument in arguments)], capture_output=True, text=True, errors="replace", timeout=30,
        check=False)
    tier.same(process.returncode, 0, f"exit code of swaks: {process.stdout[-600:]} {process.stderr[-300:]}")
    return process.stdout


def arrived(sink, to):
    """The one message for `to`."""
    tier.wait_for(lambda: sink.to(to), 10, f"the message to {to}")
    mails = sink.to(to)
    tier.same(len(mails), 1, f"messages to {to}")
    tier.same(mails[0].sender, "from@source.invalid", "sender")
    return mails[0]


def simple(lab, command, to, sink):
    """What swaks sends by itself."""
    transcript = send(lab, command, "--to", to, "--body", "one line", "--header", "Subject: simple")
    mail = arrived(sink, to)
    parsed = email.message_from_bytes(mail.raw, policy=email.policy.default)
    tier.same(parsed["Subject"], "simple", "subject")
    tier.same(parsed.get_content().strip(), "one line", "body")
    # The id of the 250 is that of the Received header, by which anybody can follow a message.
    received = " ".join(parsed.get_all("Received")[0].split())
    number = received.split(" id ")[1].split()[0].rstrip(";")
    tier.check(number in transcript, f"the id {number} of the Received header is not in the reply to the final dot")


def pipelined(lab, command, to, sink):
    """The envelope in one write."""
    transcript = send(lab, command, "--to", to, "--pipeline", "--body", "pipelined")
    tier.check("250-PIPELINING" in transcript, "PIPELINING is not offered")
    tier.check(b"pipelined" in arrived(sink, to).raw, "the body is missing")


def several_recipients(lab, command, to, sink):
    """Three recipients, of one transaction at the sink as well."""
    others = [f"second.{to}", f"third.{to}"]
    send(lab, command, "--to", ",".join([to, *others]), "--body", "for three")
    tier.same(arrived(sink, to).recipients, [to, *others], "recipients of the transaction")


def attachment(lab, command, to, sink):
    """A binary attachment of 300 kB comes out as it went in."""
    file = lab.directory / "attachment.bin"
    file.write_bytes(os.urandom(300_000))
    send(lab, command, "--to", to, "--attach", f"@{file}", "--body", "see attachment")
    parsed = email.message_from_bytes(arrived(sink, to).raw, policy=email.policy.default)
    parts = [part.get_content() for part in parsed.iter_attachments()]
    contents = [part.encode() if isinstance(part, str) else part for part in parts]
    tier.check(file.read_bytes() in contents, "the attachment is not what was attached")


def odd_lines(lab, command, to, sink):
    """Headers and lines at the edge of what is allowed, byte for byte."""
    data = (
        b"Subject: odd\r\nX-8bit: \xc3\xa4\xff\xfe\r\nX-Tabs:\tfolded\r\n\t over\r\n   lines\r\nX-Empty:\r\n"
        b"X-Controls: \x01\x07\x1b[31m\x7f\r\nReceived: from nowhere by elsewhere; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
        b"x-very-long: " + b"w" * 980 + b"\r\n\r\n"
        b".\x20\r\n..\r\n.leading dot\r\n...three\r\n\r\n\r\nFrom the start\r\n trailing blanks  \t\r\n" + b"8\xe4" * 490 + b"\r\n")
    file = lab.directory / "odd.eml"
    # swaks stuffs dots and ends lines itself.
    file.write_bytes(data.replace(b"\r\n", b"\n"))
    send(lab, command, "--to", to, "--data", f"@{file}")
    # swaks puts line ends of its own behind the last line.
    tier.same(arrived(sink, to).without_trace().rstrip(b"\r\n"), data.rstrip(b"\r\n"), "message without our Received header")


def refusal(lab, swaks, relay):
    """A refused command is told with a code that swaks knows, and no message."""
    command = [swaks, "--server", f"127.0.0.1:{relay.port}", "--from", "from@source.invalid", "--to", "no at sign"]
    process = tier.subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30,
        check=False)
    tier.check("<** 5" in process.stdout, f"no 5xx for a recipient that is no address: {process.stdout[-300:]}")
    tier.check(process.returncode != 0, "swaks takes the refusal for success")


if __name__ == "__main__":
    tier.run(row)
