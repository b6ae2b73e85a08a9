#!/usr/bin/env python3
"""A real Postfix on both sides of the relay: relay → Postfix, and Postfix → relay.

A private instance with its own configuration, queue and log, on loopback ports of its own; it knows three domains and discards
all other mail, so nothing leaves the host, whatever happens. The packaged service is neither needed nor touched.
"""

import email
import email.policy
import pathlib
import re
import shutil
import smtplib
import tempfile

import lab as tier
from sink import Sink

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = /var, {directory}
multi_instance_enable = no
syslog_name = tier-b
myhostname = postfix.invalid
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtpd_relay_restrictions = check_recipient_access inline:{{refused@in.invalid=reject}}, permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
disable_dns_lookups = yes
smtp_host_lookup = native
smtputf8_enable = yes
local_recipient_maps =
alias_maps =
alias_database =
relayhost =
# Whatever is not named here goes nowhere.
default_transport = discard:
relay_transport = discard:
local_transport = discard:
virtual_transport = discard:
transport_maps = inline:{{content.invalid=smtp:[127.0.0.1]:{sink}, .load.invalid=smtp:[127.0.0.1]:{sink}, out.invalid=smtp:[127.0.0.1]:{relay}}}
message_size_limit = 20000000
smtp_tls_security_level = none
smtpd_tls_security_level = none
process_min = 1
"""

MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup  unix  n - n 60 1 pickup
cleanup unix  n - n - 0 cleanup
qmgr    unix  n - n 300 1 qmgr
rewrite unix  - - n - - trivial-rewrite
bounce  unix  - - n - 0 bounce
defer   unix  - - n - 0 bounce
trace   unix  - - n - 0 bounce
verify  unix  - - n - 1 verify
flush   unix  n - n 1000? 0 flush
tlsmgr  unix  - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
smtp    unix  - - n - - smtp
relay   unix  - - n - - smtp
showq   unix  n - n - - showq
error   unix  - - n - - error
retry   unix  - - n - - error
discard unix  - - n - - discard
anvil   unix  - - n - 1 anvil
scache  unix  - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """The private instance."""

    def __init__(self, lab, port, sink, relay, adapt=None):
        # Its processes drop their rights and its log must lie below /var, so the row's own directory will not do.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-postfix.", dir="/var/tmp"))
        lab.cleaners.append(lambda: shutil.rmtree(self.directory, ignore_errors=True))
        self.directory.chmod(0o755)
        for name in ("etc", "queue", "data"):
            (self.directory / name).mkdir()
        shutil.chown(self.directory / "data", "postfix")
        values = {"directory": self.directory, "port": port, "sink": sink, "relay": relay}
        main, master = MAIN.format(**values), MASTER.format(**values)
        if adapt:
            # Before the start: until its log service runs, a Postfix that is told too much at once waits for itself.
            main, master = adapt(self.directory / "etc", main, master)
        (self.directory / "etc" / "main.cf").write_text(main)
        (self.directory / "etc" / "master.cf").write_text(master)
        self.command = [lab.program("postfix", "postfix"), "-c", self.directory / "etc"]
        self.log = self.directory / "mail.log"
        started = tier.subprocess.run([*self.command, "start"], capture_output=True, text=True, check=False)
        tier.same(started.returncode, 0, f"postfix start: {started.stdout} {started.stderr} {self.text()}")
        lab.cleaners.append(self.stop)

    def text(self):
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self):
        """By its own command."""
        tier.subprocess.run([*self.command, "stop"], capture_output=True, check=False)

    def is_empty(self):
        """Whether its queue is."""
        return not any(
            path.is_file() for name in ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")
            for path in (self.directory / "queue" / name).rglob("*"))


def row(lab):
    lab.root()
    lab.program("postfix", "postfix")
    sink, port = Sink(lab.port()), lab.port()
    # Bounces of the relay go to content.invalid, and through Postfix as well.
    relay = lab.relay(routes={"out.invalid": f"smtp://127.0.0.1:{sink.port}", "*": f"smtp://127.0.0.1:{port}"})
    postfix = Postfix(lab, port, sink.port, relay.port)
    count = lab.size(1000, 10_000)
    bulk(lab, relay, postfix, count)
    content(relay, sink)
    refused(relay, sink)
    injected(lab, postfix, sink, port, lab.size(200, 2000))
    tier.wait_for(lambda: not relay.queued() and postfix.is_empty(), 30, "both queues empty")
    tier.same(sink.faults, [], "faults that the sink saw")
    complaints = [line for line in postfix.text().splitlines() if re.search(r"warning|fatal|panic|improper|error:", line)]
    tier.same([line for line in complaints if "reject" not in line], [], "complaints in Postfix's log")
    relay.stop()
    return f"{count} messages accepted by Postfix under the ids in our log; DSN, contents and the way back are right"


def bulk(lab, relay, postfix, count):
    """Postfix takes all, and each of its queue ids is quoted in the relay's log."""
    source = lab.program("smtp-source", "postfix")
    client = lab.spawn(
        [source, "-d", "-N", "-s", 16, "-m", count, "-l", 4096, "-f", "from@content.invalid", "-t", "to@in.invalid",
         f"127.0.0.1:{relay.port}"], "source.log")
    tier.same(client.wait(), 0, f"exit code of smtp-source: {lab.text('source.log')[-300:]}")
    tier.wait_for(lambda: not relay.queued(), 60, "an empty queue of the relay")
    tier.wait_for(lambda: len(discarded(postfix)) >= count, 60, "Postfix's discard log")
    quoted = wait_quoted(relay, count)
    queue_ids = discarded(postfix)
    tier.same(len(queue_ids), count, "messages that Postfix discarded")
    tier.same(len({recipient for recipient in queue_ids.values()}), count, "different recipients at Postfix")
    tier.same(sorted(quoted), sorted(queue_ids), "queue ids quoted in our log, and Postfix's own")


def discarded(postfix):
    """Queue id → recipient of what its discard service took."""
    return dict(re.findall(r"/discard\[\d+\]: (\w+): to=<([^>]*@in\.invalid)>.* status=sent", postfix.text()))


def wait_quoted(relay, count):
    """Queue ids of Postfix in the relay's log lines."""
    def find():
        return re.findall(r'reply="Ok: (?:\d+ bytes )?queued as (\w+)"', "\n".join(relay.lines("delivered")))
    tier.wait_for(lambda: len(find()) >= count, 10, "a delivered line for each message in our log")
    return find()


def content(relay, sink):
    """relay → Postfix → sink: what Postfix understood is what was sent; UTF-8 addresses and dots included."""
    cases = {
        "plain@content.invalid": b"Subject: plain\r\n\r\n.\r\n..\r\n.x\r\nend\r\n",
        "eight@content.invalid": b"Subject: 8bit\r\n\r\n" + b"\xc3\xa4" * 400 + b"\r\n",
        "big@content.invalid": b"Subject: big\r\n\r\n" + b"".join(b"%d %s\r\n" % (n, b"y" * (n % 900)) for n in range(9000)),
    }
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        for to, message in cases.items():
            client.sendmail("from@content.invalid", [to], message, mail_options=["BODY=8BITMIME"])
        client.sendmail(
            "käthe@content.invalid", ["jürgen@content.invalid"], "Subject: Grüße\r\n\r\nutf8\r\n".encode(),
            mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    for to, message in cases.items():
        tier.wait_for(lambda: sink.to(to), 20, f"the message to {to}, through Postfix")
        # Postfix puts its Received header before ours, and may add missing headers at the end of the header block.
        header, body = sink.to(to)[0].header_and_body()
        tier.same(body, message.partition(b"\r\n\r\n")[2], f"body of the message to {to}")
        tier.check(b"by relay.invalid" in header, "our Received header is gone")
    tier.wait_for(lambda: sink.to("jürgen@content.invalid"), 20, "the SMTPUTF8 message, through Postfix")


def refused(relay, sink):
    """Postfix's refusal becomes a DSN that Postfix itself carries to the sender."""
    sender = "dsn@content.invalid"
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.sendmail(sender, ["refused@in.invalid"], b"Subject: refused\r\n\r\ntext\r\n")
    tier.wait_for(lambda: sink.to(sender), 20, "the DSN, through Postfix")
    mail = sink.to(sender)[0]
    message = email.message_from_bytes(mail.raw, policy=email.policy.default)
    tier.same((mail.sender, message.get_content_type()), ("", "multipart/report"), "the DSN's sender and type")
    fields = list(message.iter_parts())[1].get_payload()[1]
    tier.same((fields["Action"], fields["Status"]), ("failed", "5.7.1"), "Action and Status")
    tier.check("Access denied" in fields["Diagnostic-Code"], f"Diagnostic-Code {fields['Diagnostic-Code']!r}")


def injected(lab, postfix, sink, port, count):
    """Postfix → relay → sink: Postfix's client gets on with our server, also with many messages over one connection."""
    before = sink.count()
    client = lab.spawn(
        [lab.program("smtp-source", "postfix"), "-d", "-N", "-s", 4, "-m", count, "-l", 4096, "-f", "from@content.invalid",
         "-t", "to@out.invalid", f"127.0.0.1:{port}"], "source.log")
    tier.same(client.wait(), 0, f"exit code of smtp-source: {lab.text('source.log')[-300:]}")
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as session:
        session.sendmail("from@content.invalid", ["big@out.invalid"], b"Subject: big\r\n\r\n" + b"z" * 500 + b"\r\n" * 20_000)
    tier.wait_for(lambda: sink.count() >= before + count + 1, 60, f"{count} messages of Postfix through the relay")
    tier.same(sink.count(), before + count + 1, "messages of Postfix through the relay")
    tier.check(b"by postfix.invalid (Postfix)" in sink.to("1to@out.invalid")[0].raw, "Postfix's Received header")
    # Postfix may log a delivery after the sink has counted it.
    ours = r"relay=127\.0\.0\.1\[127\.0\.0\.1\]:\d+,.* status=sent \(250 .*\b[0-9a-z]{13}\b"
    tier.wait_for(lambda: len(re.findall(ours, postfix.text())) > count, 10, "our id in Postfix's log for each message")


if __name__ == "__main__":
    tier.run(row)
