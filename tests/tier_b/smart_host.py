#!/usr/bin/env python3
"""A real Postfix as smart host: TLS it insists on, logins that Dovecot checks, each mechanism, and submissions from the first byte.

Postfix is the private instance of the row `postfix` with four more doors; Dovecot is a private one that has nothing but its
auth service. Certificates are made by openssl.
"""

import os
import re
import shutil
import smtplib
import subprocess

import lab as tier
from postfix import Postfix
from sink import Sink

USER, PASSWORD = "anna@smart.invalid", "correct horse"

MAIN = """
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_loglevel = 1
smtpd_tls_auth_only = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_auth_enable = yes
smtpd_sasl_security_options = noanonymous
smtpd_client_auth_rate_limit = 0
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""

MASTER = """\
127.0.0.1:{scram} inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=scram-sha-256,plain
127.0.0.1:{plain} inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=plain,login
127.0.0.1:{login} inet n - n - - smtpd -o smtpd_sasl_mechanism_filter=login
127.0.0.1:{smtps} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
"""

DOVECOT = """\
base_dir = {directory}/run
state_dir = {directory}/run
log_path = {directory}/log
auth_verbose = yes
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login scram-sha-256
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {directory}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {socket} {{
    mode = 0666
  }}
}}
"""


class Dovecot:
    """An auth service of its own."""

    def __init__(self, lab, postfix):
        self.directory = postfix.directory / "dovecot"
        self.directory.mkdir()
        (self.directory / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        socket = postfix.directory / "queue" / "private" / "auth"
        config = self.directory / "dovecot.conf"
        config.write_text(DOVECOT.format(directory=self.directory, socket=socket))
        lab.spawn([lab.program("dovecot", "dovecot-core"), "-F", "-c", config], "dovecot.log")
        tier.wait_for(socket.exists, 20, f"Dovecot's socket; it says: {lab.text('dovecot.log')} {self.text()}")

    def text(self):
        """Its log."""
        log = self.directory / "log"
        return log.read_text(errors="replace") if log.exists() else ""


def authority(lab):
    """A certificate authority and a certificate of it for 127.0.0.1, by openssl: authority, certificate, key."""
    openssl, place = lab.program("openssl", "openssl"), lab.directory
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for arguments in (
        ["req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *key, "-subj", "/CN=smart host", "-keyout", "smart.key", "-out", "smart.csr"],
        ["x509", "-req", "-in", "smart.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "names", "-out", "smart.pem"],
    ):
        done = subprocess.run([openssl, *arguments], cwd=place, capture_output=True, text=True, check=False)
        tier.same(done.returncode, 0, f"openssl {arguments[0]}: {done.stderr[-300:]}")
    return place / "ca.pem", place / "smart.pem", place / "smart.key"


def smart_host(lab, sink):
    """Postfix with its doors, and Dovecot behind them: the ports by name, and the instance."""
    ca, certificate, key = authority(lab)
    ports = {name: lab.port() for name in ("scram", "plain", "login", "smtps")}

    def adapt(etc, main, master):
        for file in (certificate, key):
            shutil.copy(file, etc / file.name)
        # A line that stands twice is complained of.
        kept = [line for line in main.splitlines() if not line.startswith(("smtpd_tls_security_level", "smtpd_relay_restr"))]
        more = MAIN.format(certificate=etc / certificate.name, key=etc / key.name)
        return "\n".join(kept) + more, master + MASTER.format(**ports)

    postfix = Postfix(lab, lab.port(), sink.port, sink.port, adapt)
    dovecot = Dovecot(lab, postfix)
    return ports, postfix, dovecot, ca


def site(lab, name, password):
    """A site that logs in for one domain."""
    file = lab.directory / f"password-{name}"
    file.write_text(password + "\n")
    return (f'[[site]]\nname = "{name}"\ndomains = ["{name}.invalid"]\ntls = "verified"\n'
            f'auth_user = "{USER}"\nauth_password_file = "{file}"\n')


def row(lab):
    lab.root()
    lab.program("postfix", "postfix")
    sink = Sink(lab.port())
    ports, postfix, dovecot, ca = smart_host(lab, sink)
    os.environ["SSL_CERT_FILE"] = str(ca)
    routes = {f"{name}.invalid": f"smtp{'s' if name == 'smtps' else ''}://127.0.0.1:{port}" for name, port in ports.items()}
    routes["wrong.invalid"] = routes["scram.invalid"]
    sites = "".join(site(lab, name, PASSWORD) for name in ports) + site(lab, "wrong", "horse, correct")
    relay = lab.relay(routes=routes | {"*": f"smtp://127.0.0.1:{sink.port}"},
                      settings=f'[delivery]\nexpire_after = "{lab.size(8, 30)}s"\n{sites}')
    count = lab.size(50, 1000)
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        for nth in range(count):
            for name in ports:
                client.sendmail("from@content.invalid", [f"to{nth}@{name}.invalid"], b"Subject: smart\r\n\r\n.\r\ntext\r\n")
        client.sendmail("from@content.invalid", ["to@wrong.invalid"], b"Subject: wrong\r\n\r\ntext\r\n")
    tier.wait_for(lambda: not relay.queued(), 60, "an empty queue of the relay")
    log = postfix.text()
    # Both offered SCRAM, and nothing less was used; where it is not, the next best.
    wanted = {"scram": "SCRAM-SHA-256", "plain": "PLAIN", "login": "LOGIN", "smtps": "SCRAM-SHA-256"}
    for name, mechanism in wanted.items():
        took = set(re.findall(r"(\w+): to=<to\d+@%s\.invalid>.* status=sent" % name, log))
        tier.same(len(took), count, f"messages that Postfix took at {name}; it says {log[-2000:]}; {dovecot.text()[-500:]}")
        by = dict(re.findall(r"(\w+): client=.*sasl_method=([\w-]+), sasl_username=%s" % re.escape(USER), log))
        tier.same({by.get(identity) for identity in took}, {mechanism}, f"mechanisms at {name}")
    tier.wait_for(lambda: sink.to("from@content.invalid"), 20, "the bounce of what a wrong password could not send")
    # 535, or 454 when Dovecot made Postfix wait for too long.
    said = re.search(rb"(535|454) .*authentication fail", sink.to("from@content.invalid")[0].raw)
    tier.check(said, "the bounce does not say what Postfix said")
    tier.check("to@wrong.invalid" not in log, "Postfix took a message of somebody with a wrong password")
    for text in (lab.text(relay.log), lab.text("dovecot.log")):
        tier.check("horse" not in text, "a password in a log")
    relay.stop()
    return f"{count} messages each by SCRAM-SHA-256, PLAIN, LOGIN and over smtps, certificates verified; a wrong password bounced"


if __name__ == "__main__":
    tier.run(row)
