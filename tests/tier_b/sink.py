"""A small SMTP sink with a script, for the rows that look at each byte: it keeps what it is given exactly as it came."""

import dataclasses
import re
import socket
import threading

ADDRESS = re.compile(r"<([^>]*)>(.*)", re.DOTALL)
EXTENSIONS = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING")


@dataclasses.dataclass
class Mail:
    """One message as it arrived."""

    sender: str
    sender_parameters: str
    recipients: list
    recipient_parameters: list
    raw: bytes  # without dot-stuffing, with its CRLFs
    commands: list  # of its transaction
    hello: str

    def header_and_body(self):
        """Split at the first empty line."""
        header, _, body = self.raw.partition(b"\r\n\r\n")
        return header + b"\r\n", body

    def without_trace(self, count=1):
        """The message without its topmost `count` Received headers."""
        raw = self.raw
        for _ in range(count):
            if not raw.startswith(b"Received:"):
                raise ValueError(f"no Received header in front of {raw[:80]!r}")
            # The header ends before the first line that does not begin with a blank.
            end = re.compile(rb"\r\n(?![ \t])").search(raw).end()
            raw = raw[end:]
        return raw


class Sink:
    """Listens on 127.0.0.1:`port`. `refuse` maps a recipient's local part to the reply it gets."""

    def __init__(self, port, extensions=EXTENSIONS, refuse=None):
        self.port, self.extensions, self.refuse = port, extensions, refuse or {}
        self.lock = threading.Lock()
        self.mails, self.faults = [], []
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
                # Replies are small: without this each waits for the relay's delayed ACK of the one before.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            try:
                _Session(self, connection, lines).run()
            except (OSError, EOFError):
                pass
            except ValueError as fault:
                with self.lock:
                    self.faults.append(str(fault))

    def to(self, recipient):
        """What arrived for `recipient`."""
        with self.lock:
            return [mail for mail in self.mails if recipient in mail.recipients]

    def count(self):
        """How many arrived."""
        with self.lock:
            return len(self.mails)

    def close(self):
        """Stops listening."""
        self.listener.close()


class _Session:
    def __init__(self, sink, connection, lines):
        self.sink, self.connection, self.lines = sink, connection, lines
        self.hello, self.commands = "", []
        self.reset()

    def reset(self):
        self.sender, self.recipients, self.chunks, self.started = None, [], b"", len(self.commands)

    def say(self, text):
        self.connection.sendall(text.encode() + b"\r\n")

    def line(self):
        line = self.lines.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        if not line.endswith(b"\r\n"):
            raise ValueError(f"a line that ends with a bare LF: {line[:80]!r}")
        return line[:-2]

    def run(self):
        self.say("220 sink.invalid ESMTP")
        while True:
            command = self.line().decode("utf-8")
            self.commands.append(command)
            verb, _, rest = command.partition(" ")
            handler = getattr(self, "do_" + verb.lower(), None)
            if handler is None:
                self.say("500 5.5.1 unknown")
            elif handler(rest) == "quit":
                return

    def do_ehlo(self, name):
        self.hello = name
        lines = ("sink.invalid", *self.sink.extensions)
        self.say("\r\n".join(f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines))

    def do_helo(self, name):
        self.hello = name
        self.say("250 sink.invalid")

    def do_mail(self, rest):
        found = ADDRESS.fullmatch(rest[len("FROM:"):])
        if not found or self.sender is not None:
            raise ValueError(f"MAIL {rest!r} out of place or not understood")
        self.sender = found.groups()
        self.started = len(self.commands) - 1
        self.say("250 2.1.0 ok")

    def do_rcpt(self, rest):
        found = ADDRESS.fullmatch(rest[len("TO:"):])
        if not found or self.sender is None:
            raise ValueError(f"RCPT {rest!r} out of place or not understood")
        refusal = self.sink.refuse.get(found.group(1).partition("@")[0])
        if refusal is None:
            self.recipients.append(found.groups())
        self.say(refusal or "250 2.1.5 ok")

    def do_data(self, _):
        if not self.recipients:
            self.say("554 5.5.1 no valid recipients")
            return
        self.say("354 go on")
        text = []
        while (line := self.line()) != b".":
            if b"\r" in line:
                raise ValueError(f"a bare CR in {line[:80]!r}")
            text.append(line[1:] if line.startswith(b".") else line)
        self.finish(b"".join(line + b"\r\n" for line in text))

    def do_bdat(self, rest):
        size, _, last = rest.partition(" ")
        chunk = self.lines.read(int(size))
        if len(chunk) < int(size):
            raise EOFError
        self.chunks += chunk
        if not self.recipients:
            self.say("554 5.5.1 no valid recipients")
        elif last.upper() == "LAST":
            self.finish(self.chunks)
        else:
            self.say("250 2.0.0 ok")

    def finish(self, raw):
        mail = Mail(
            sender=self.sender[0], sender_parameters=self.sender[1].strip(),
            recipients=[address for address, _ in self.recipients],
            recipient_parameters=[parameters.strip() for _, parameters in self.recipients],
            raw=raw, commands=self.commands[self.started:], hello=self.hello)
        with self.sink.lock:
            self.sink.mails.append(mail)
            number = len(self.sink.mails)
        self.reset()
        self.say(f"250 2.0.0 kept as sink{number:06}")

    def do_rset(self, _):
        self.reset()
        self.say("250 2.0.0 ok")

    def do_noop(self, _):
        self.say("250 2.0.0 ok")

    def do_quit(self, _):
        self.say("221 2.0.0 bye")
        return "quit"
