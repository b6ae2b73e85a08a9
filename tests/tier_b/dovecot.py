#!/usr/bin/env python3
"""Debian's Dovecot behind the relay: mail goes in by SMTP, into Maildirs and by LMTP over a unix socket and TCP, and is read back by
POP3 and IMAP with Python's own clients. What comes out must be what went in, byte for byte, behind the headers that were added.

A private Dovecot with its own configuration, users and log, on loopback ports of its own. It reads Maildirs as an unprivileged user;
the relay runs as root here, so the row hands over what it has written. (Elsewhere both run as the user that owns the mail.)
"""

import imaplib
import os
import pathlib
import poplib
import pwd
import shutil
import smtplib
import tempfile

import lab as tier

OWNER = "nobody"
SECRET = "not-secret"
# Local part → domain, each with a way of its own from the relay to its mailbox.
USERS = {"alice": "maildir.invalid", "bob": "socket.invalid", "carol": "tcp.invalid"}

CONFIG = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = maildir:{directory}/mail/%n
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {directory}/users
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/mail/%n
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
"""

MAILBOXES = """\
alice@maildir.invalid   maildir:{directory}/mail/alice
team@maildir.invalid    alice@maildir.invalid, bob@socket.invalid
"""


class Dovecot:
    """The private instance."""

    def __init__(self, lab):
        # Its processes drop their rights, so the row's own directory will not do; and the path of a socket must be short.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-dovecot.", dir="/var/tmp"))
        lab.cleaners.append(lambda: shutil.rmtree(self.directory, ignore_errors=True))
        self.directory.chmod(0o755)
        self.owner = pwd.getpwnam(OWNER)
        self.imap, self.pop3, self.lmtp = lab.port(), lab.port(), lab.port()
        (self.directory / "mail").mkdir()
        self.hand_over()
        (self.directory / "users").write_text("".join(f"{name}@{domain}:{SECRET}\n" for name, domain in USERS.items()))
        config = self.directory / "dovecot.conf"
        config.write_text(CONFIG.format(
            directory=self.directory, uid=self.owner.pw_uid, gid=self.owner.pw_gid,
            imap=self.imap, pop3=self.pop3, lmtp=self.lmtp))
        self.process = lab.spawn([lab.program("dovecot", "dovecot-core"), "-F", "-c", config], "dovecot.out")
        lab.cleaners.append(self.stop)
        self.socket = self.directory / "run" / "lmtp"
        for name, package in (("imap", "dovecot-imapd"), ("pop3", "dovecot-pop3d"), ("lmtp", "dovecot-lmtpd")):
            if not pathlib.Path("/usr/lib/dovecot", name).exists():
                raise tier.Skip(f"{package} is not installed")
        tier.wait_for(lambda: self.is_up(lab), 30, "Dovecot takes connections")

    def is_up(self, lab):
        """Whether it is there; its own words if it will never be."""
        said = lab.text("dovecot.out")
        tier.check(self.process.poll() is None, f"Dovecot ended: {said[-300:]}")
        try:
            imaplib.IMAP4("127.0.0.1", self.imap, timeout=5).shutdown()
        except OSError:
            return False
        return self.socket.exists()

    def hand_over(self):
        """Gives all mail to the user that Dovecot reads it as."""
        mail = self.directory / "mail"
        for path in [mail, *mail.rglob("*")]:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def stop(self):
        """Its master ends its children."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()

    def by_imap(self, name):
        """All messages in the inbox of a user, as bytes."""
        client = imaplib.IMAP4("127.0.0.1", self.imap, timeout=30)
        client.login(f"{name}@{USERS[name]}", SECRET)
        client.select("INBOX", readonly=True)
        numbers = client.search(None, "ALL")[1][0].split()
        messages = [client.fetch(number, "(BODY.PEEK[])")[1][0][1] for number in numbers]
        client.logout()
        return messages

    def by_pop3(self, name):
        """Likewise."""
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=30)
        client.user(f"{name}@{USERS[name]}")
        client.pass_(SECRET)
        count = len(client.list()[1])
        messages = [b"".join(line + b"\r\n" for line in client.retr(nth + 1)[1]) for nth in range(count)]
        client.quit()
        return messages


def messages(lab):
    """Bodies that tempt a mailbox to change them, by subject."""
    lines = b"".join(b"line %d of many, and some more of it\r\n" % nth for nth in range(lab.size(8_000, 400_000)))
    bodies = {
        "plain": b"a line\r\n",
        "dots": b".\r\n..\r\n.a dot in front\r\n",
        "from": b"From nobody Thu Jan  1 00:00:00 1970\r\n>From another\r\n",
        "blanks": b"\r\n\r\ntrailing blanks  \t \r\n\r\n\r\n",
        "wide": "Grüße, 世界\r\n".encode(),
        "latin": b"octets \xe4\xf6\xfc of no encoding\r\n",
        "long": b"x" * 990 + b"\r\n",
        "empty": b"",
        "large": lines,
    }
    head = b"From: me@source.invalid\r\nTo: you@example.invalid\r\nSubject: %s\r\nMIME-Version: 1.0\r\n\r\n"
    return {subject: head % subject.encode() + body for subject, body in bodies.items()}


def is_added(head):
    """Whether a head holds nothing but headers that deliveries add."""
    names = [line.split(b":")[0] for line in head.splitlines() if line[:1] not in (b" ", b"\t")]
    return names and set(names) <= {b"Return-Path", b"Delivered-To", b"Received"}


def compare(got, sent, where):
    """Each message once, whole, behind nothing but headers that were added."""
    tier.same(len(got), len(sent), f"messages {where}")
    for subject, content in sent.items():
        mark = b"From: me@source.invalid\r\nTo: you@example.invalid\r\nSubject: %s\r\n" % subject.encode()
        matching = [message for message in got if mark in message]
        tier.same(len(matching), 1, f"messages with subject {subject} {where}")
        head, rest = matching[0][:matching[0].index(mark)], matching[0][matching[0].index(mark):]
        tier.check(is_added(head), f"{subject} {where}: in front stands {head!r}")
        tier.check(b"Return-Path: <me@source.invalid>\r\n" in head, f"{subject} {where}: no Return-Path in {head!r}")
        tier.check(rest == content, f"{subject} {where}: {len(rest)} bytes of {len(content)}, or others")


def row(lab):
    """Sends to each user and an alias, and reads everything back twice."""
    lab.root()
    dovecot = Dovecot(lab)
    file = lab.directory / "mailboxes"
    file.write_text(MAILBOXES.format(directory=dovecot.directory))
    relay = lab.relay(
        routes={
            "maildir.invalid": "maildir", "socket.invalid": f"lmtp:{dovecot.socket}",
            "tcp.invalid": f"lmtp://127.0.0.1:{dovecot.lmtp}", "*": "hold",
        },
        settings=f'[mailboxes]\nfile = "{file}"\n')
    sent = messages(lab)
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
        for content in sent.values():
            client.sendmail("me@source.invalid", [f"{name}@{domain}" for name, domain in USERS.items()], content)
        # An alias with a Maildir and an agent behind it, and a user that the agent does not know beside one that it does.
        refused = client.sendmail(
            "me@source.invalid", ["team@maildir.invalid", "nobody@socket.invalid", "nobody@maildir.invalid"],
            b"From: me@source.invalid\r\nTo: you@example.invalid\r\nSubject: alias\r\n\r\nan alias\r\n")
    tier.same({who: code for who, (code, _) in refused.items()}, {"nobody@maildir.invalid": 550}, "refused at RCPT")
    expected = 3 * len(sent) + 2
    tier.wait_for(lambda: relay.metrics().get('ringpost_deliveries_total{result="delivered"}') == expected, 60,
                  f"{expected} deliveries: {lab.text(relay.log)[-500:]}")
    tier.wait_for(lambda: any("5.1.1" in line and "socket.invalid" in line for line in relay.lines("failed")), 30,
                  "Dovecot's refusal of a user it does not know")
    relay.stop()
    dovecot.hand_over()
    alias = {"alias": b"From: me@source.invalid\r\nTo: you@example.invalid\r\nSubject: alias\r\n\r\nan alias\r\n"}
    for name in USERS:
        wanted = sent if name == "carol" else {**sent, **alias}
        compare(dovecot.by_imap(name), wanted, f"of {name} by IMAP")
        compare(dovecot.by_pop3(name), wanted, f"of {name} by POP3")
    return f"{expected} messages into Maildirs and by LMTP, each read back whole by IMAP and POP3"


if __name__ == "__main__":
    tier.run(row)
