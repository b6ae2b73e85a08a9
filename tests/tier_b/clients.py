#!/usr/bin/env python3
"""Real clients over TLS: openssl s_client, swaks, Python's smtplib, nodemailer, msmtp, curl, and Postfix as a relaying client.

Each sends a short message, one of 1 MB, one with octets above 127, lines of dots, and one to several recipients; then the same
once more where it must log in, each by the strongest mechanism that it has. What arrives is what was sent, byte for byte, behind the
Received headers. A client that is not installed is left out and named.
"""

import base64
import json
import os
import pathlib
import shutil
import smtplib
import ssl
import subprocess

import lab as tier
from postfix import Postfix
from sink import Sink

SENDER = "from@source.invalid"
HEADER = b"From: <from@source.invalid>\r\nTo: <to@sink.invalid>\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\n"


def messages(lab):
    """Name → recipients and content."""
    line = b"0123456789abcdef" * 62 + b"\r\n"
    bodies = {
        "short": b"short\r\n",
        "long": line * lab.size(1_050, 10_500),
        "eightbit": "Grüße aus Köln, und 日本語\r\n".encode() * 30,
        "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n.\r\n. \r\n.\r\nend\r\n",
        "several": b"for three\r\n",
    }
    for name, body in bodies.items():
        message = HEADER + b"Message-ID: <%s@source.invalid>\r\nSubject: %s\r\n\r\n" % (name.encode(), name.encode()) + body
        yield name, message


def recipients(client, name):
    """Whom `client` sends the message to."""
    first = f"{client}-{name}@sink.invalid"
    return [first, f"second-{first}", f"third-{first}"] if name == "several" else [first]


class Door:
    """Where a client sends, and as whom: `login` is name and password, or None."""

    def __init__(self, port, login=None):
        self.port, self.login = port, login

    def __str__(self):
        return "login" if self.login else "open"


class Missing(Exception):
    """The client is not there, and why."""


def program(name, package):
    """Its path."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{name} is not installed ({package})")
    return path


def ran(arguments, data=None, **more):
    """Runs a client that must succeed."""
    done = subprocess.run([str(word) for word in arguments], input=data, capture_output=True, timeout=60, check=False, **more)
    said = (done.stdout + done.stderr).decode(errors="replace")[-600:]
    tier.same(done.returncode, 0, f"exit code of {arguments[0]}: {said}")
    return said


def openssl(lab, door):
    """By hand, over `s_client -starttls smtp`: each line of the session is ours."""
    path = program("openssl", "Debian package openssl")
    certificate, _ = tier.certificate(lab)

    def send(to, message):
        stuffed = b"".join((b"." if line.startswith(b".") else b"") + line for line in message.splitlines(keepends=True))
        # s_client reads the EHLO reply of the clear itself; over TLS we begin again.
        lines = [(b"EHLO openssl.invalid", b"250")]
        if door.login:
            lines.append((b"AUTH PLAIN " + base64.b64encode("\0{}\0{}".format(*door.login).encode()), b"235"))
        lines.append((b"MAIL FROM:<%s> BODY=8BITMIME" % SENDER.encode(), b"250"))
        lines += [(b"RCPT TO:<%s>" % address.encode(), b"250") for address in to]
        process = subprocess.Popen(
            [path, "s_client", "-quiet", "-starttls", "smtp", "-connect", f"127.0.0.1:{door.port}",
             "-CAfile", str(certificate), "-verify_return_error", "-verify_hostname", "localhost"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            def say(data, code):
                process.stdin.write(data)
                process.stdin.flush()
                while (line := process.stdout.readline())[3:4] == b"-":
                    pass
                tier.same(line[:3], code, f"reply to {data[:60]!r}: {line!r}")
            for text, code in lines:
                say(text + b"\r\n", code)
            say(b"DATA\r\n", b"354")
            say(stuffed + b".\r\n", b"250")
            say(b"QUIT\r\n", b"221")
        finally:
            process.kill()
            process.communicate()
    return send


def swaks(lab, door):
    """STARTTLS, with the envelope in one write where offered."""
    path = program("swaks", "Debian package swaks")
    if subprocess.run(["perl", "-MNet::SSLeay", "-e", "1"], check=False, capture_output=True).returncode:
        raise Missing("swaks without Net::SSLeay (Debian package libnet-ssleay-perl)")
    file = lab.directory / "swaks.eml"

    def send(to, message):
        # swaks stuffs dots, ends lines and adds one more line end itself.
        file.write_bytes(message.replace(b"\r\n", b"\n"))
        login = ["--auth", "LOGIN", "--auth-user", door.login[0], "--auth-password", door.login[1]] if door.login else []
        ran([path, "--server", f"127.0.0.1:{door.port}", "--tls", "--pipeline", "--from", SENDER, "--to", ",".join(to),
             "--data", f"@{file}", *login])
    return send


def smtplib_tls(lab, door):
    """Python's own."""
    certificate, _ = tier.certificate(lab)
    context = ssl.create_default_context(cafile=certificate)

    def send(to, message):
        with smtplib.SMTP("localhost", door.port, timeout=60) as client:
            client.starttls(context=context)
            if door.login:
                client.login(*door.login)
            client.sendmail(SENDER, to, message, mail_options=["BODY=8BITMIME"])
    return send


def nodemailer(lab, door):
    """The client of many web applications."""
    node, npm = program("node", "Debian package nodejs"), program("npm", "Debian package npm")
    directory = pathlib.Path(os.environ.get("RINGPOST_NODEMAILER", lab.directory / "node"))
    directory.mkdir(exist_ok=True)
    if not (directory / "node_modules" / "nodemailer").exists():
        done = subprocess.run(
            [npm, "install", "--silent", "--no-fund", "--no-audit", "nodemailer@6"], cwd=directory, capture_output=True, text=True,
            timeout=60, check=False)
        if done.returncode:
            raise Missing(f"npm cannot install nodemailer: {done.stderr.strip()[-100:]}")
    certificate, _ = tier.certificate(lab)
    login = f"auth: {json.dumps(dict(zip(('user', 'pass'), door.login)))}," if door.login else ""
    script = directory / f"send-{door}.js"
    script.write_text(f"""
const fs = require("fs");
const ask = JSON.parse(fs.readFileSync(0));
const transport = require("nodemailer").createTransport({{
    host: "localhost", port: {door.port}, requireTLS: true, {login} tls: {{ ca: fs.readFileSync({json.dumps(str(certificate))}) }} }});
transport.sendMail({{ envelope: {{ from: ask.from, to: ask.to, use8BitMime: true }}, raw: fs.readFileSync(ask.file) }})
    .then(() => process.exit(0), (error) => {{ console.error(error); process.exit(1); }});
""")
    file = lab.directory / "node.eml"

    def send(to, message):
        file.write_bytes(message)
        ran([node, script], json.dumps({"from": SENDER, "to": to, "file": str(file)}).encode(), cwd=directory)
    return send


def msmtp(lab, door):
    """As a sendmail for scripts."""
    path = program("msmtp", "Debian package msmtp")
    certificate, _ = tier.certificate(lab)
    login = []
    if door.login:
        mechanism = "scram-sha-256" if "scram-sha-256" in ran([path, "--version"]) else "plain"
        login = [f"--auth={mechanism}", f"--user={door.login[0]}", f"--passwordeval=echo {door.login[1]}"]

    def send(to, message):
        ran([path, *login, "--host=localhost", f"--port={door.port}", "--tls=on", "--tls-starttls=on", f"--tls-trust-file={certificate}",
             f"--from={SENDER}", "--auto-from=off", "--undisclosed-recipients=off", "--set-date-header=off",
             "--set-from-header=off", "--set-msgid-header=off", "--remove-bcc-headers=off", "--", *to],
            message.replace(b"\r\n", b"\n"))
    return send


def curl(lab, door):
    """smtp:// with a file."""
    path = program("curl", "Debian package curl")
    certificate, _ = tier.certificate(lab)
    file = lab.directory / "curl.eml"
    login = []
    if door.login:
        login = ["--user", ":".join(door.login)]

    def send(to, message):
        file.write_bytes(message)
        words = [word for address in to for word in ("--mail-rcpt", address)]
        ran([path, "--silent", "--show-error", "--ssl-reqd", *login, "--cacert", certificate,
             "--url", f"smtp://localhost:{door.port}/curl.invalid", "--mail-from", SENDER, *words, "--upload-file", file])
    return send


def postfix(lab, door):
    """Postfix takes the message in the clear and relays it to us over TLS, which it must have."""
    program("postfix", "Debian package postfix")
    if os.geteuid() != 0:
        raise Missing("a private Postfix needs root")
    port = lab.port()
    instance = Postfix(lab, port, door.port, door.port)
    main = instance.directory / "etc" / "main.cf"
    text = main.read_text().replace("smtp_tls_security_level = none", "smtp_tls_security_level = encrypt")
    text = text.replace("inline:{content.invalid=", "inline:{sink.invalid=smtp:[127.0.0.1]:%d, content.invalid=" % door.port)
    if door.login:
        if not any(pathlib.Path(place).glob("**/sasl2/libplain.so*") for place in ("/usr/lib", "/usr/local/lib")):
            raise Missing("Postfix without PLAIN (Debian package libsasl2-modules)")
        text += "smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n"
        text += "smtp_sasl_password_maps = inline:{[127.0.0.1]:%d=%s:%s}\n" % (door.port, *door.login)
    main.write_text(text)
    tier.same(subprocess.run([*instance.command, "reload"], capture_output=True, check=False).returncode, 0, "postfix reload")

    def send(to, message):
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.sendmail(SENDER, to, message, mail_options=["BODY=8BITMIME"])
    return send


CLIENTS = (openssl, swaks, smtplib_tls, nodemailer, msmtp, curl, postfix)
# The others take SCRAM where they can, which needs the key of the first user; these check that of the second.
WITHOUT_SCRAM = (swaks, smtplib_tls, nodemailer)
USERS = (("scrambled", "pencil", ["--scram"]), ("hashed", "brush", []))


def users_file(lab):
    """As `ringpost user add` makes it."""
    file = lab.directory / "users"
    for name, password, flags in USERS:
        ran([lab.bin / "ringpost", "user", "add", "--file", file, *flags, name], f"{password}\n".encode())
    return file


def row(lab):
    sink, submission = Sink(lab.port()), lab.port()
    relay = lab.relay(
        routes={"*": f"smtp://127.0.0.1:{sink.port}"}, smtp=tier.with_tls(lab),
        settings=f'[auth]\nusers_file = "{users_file(lab)}"\n'
        f'[[listener]]\naddress = "127.0.0.1:{submission}"\nkind = "submission"\n')
    doors = [Door(relay.port)] + [Door(submission, (name, password)) for name, password, _ in USERS]
    able, missing = {}, []
    for client in CLIENTS:
        for door in (doors[0], doors[2 if client in WITHOUT_SCRAM else 1]):
            name = f"{client.__name__}-{door}"
            try:
                send = client(lab, door)
            except Missing as reason:
                missing.append(f"{name}: {reason}")
                continue
            able.setdefault(str(door), []).append(client.__name__)
            for subject, message in messages(lab):
                to = recipients(name, subject)
                send(to, message)
                arrived(sink, client.__name__, door, to, message)
    tier.same(sink.faults, [], "faults that the sink saw")
    counts = [relay.metrics()[f'ringpost_logins_total{{result="{result}"}}'] for result in ("granted", "refused")]
    tier.same(counts, [len(able.get("login", [])) * len(list(messages(lab))), 0], "logins granted and refused")
    relay.stop()
    for reason in missing:
        print(f"SKIP clients: {reason}")
    if not able:
        raise tier.Skip("; ".join(missing))
    said = [f"{', '.join(names)}{' logged in' if door == 'login' else ''}" for door, names in able.items()]
    return f"{'; '.join(said)}: {len(list(messages(lab)))} messages each, byte for byte as sent, over TLS"


def arrived(sink, client, door, to, message):
    """One copy for all of `to`, with the bytes that were sent."""
    tier.wait_for(lambda: sink.to(to[0]), 30, f"the message to {to[0]}")
    found = sink.to(to[0])
    tier.same(len(found), 1, f"messages to {to[0]}")
    tier.same((found[0].sender, sorted(found[0].recipients)), (SENDER, sorted(to)), f"envelope of the message to {to[0]}")
    # Ours, and that of Postfix before it.
    got = found[0].without_trace(2 if client == "postfix" else 1)
    trace = b" ".join(found[0].raw[:400].split())
    word = b" with ESMTPSA " if door.login else b" with ESMTPS "
    tier.check(word in trace, f"the message to {to[0]} came another way: {trace!r}")
    if client == "swaks":
        # It puts a line end of its own behind the last line.
        got, message = got.rstrip(b"\r\n"), message.rstrip(b"\r\n")
    if got != message:
        at = next((n for n, (a, b) in enumerate(zip(got, message)) if a != b), min(len(got), len(message)))
        near = slice(max(at - 20, 0), at + 60)
        raise tier.Fault(f"{to[0]}: differs at byte {at}: {got[near]!r} instead of {message[near]!r}")


if __name__ == "__main__":
    tier.run(row)
