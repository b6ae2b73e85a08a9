"""What the rows of tests/tier-b share: directories, ports, the relay under test, a scripted sink.

Python 3.9, standard library only. A row is a script with a function that is given to `run`; it returns a line that says what was
measured, raises `Skip` with the reason when the machine lacks something, and anything else is a failure.
"""

import argparse
import atexit
import json
import os
import pathlib
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
PORTS = range(24000, 25000)
# Most messages that two shards may have at the workers for one path (delivery.window): as many a fault may repeat.
IN_FLIGHT = 2 * 1024
# What `serve` names when the host, not the relay, is at fault.
HOST_FAULTS = ("io_uring", "memlock", "RLIMIT_MEMLOCK", "Cannot allocate memory")


class Skip(Exception):
    """The machine cannot run this row."""


class Fault(Exception):
    """The row has failed."""


def check(holds, text):
    """Like assert, but never compiled out."""
    if not holds:
        raise Fault(text)


def same(got, wanted, what):
    """`check` for equality."""
    check(got == wanted, f"{what}: {got!r} instead of {wanted!r}")


class Lab:
    """A directory, ports and processes that end with the row."""

    def __init__(self, options, directory):
        self.full = options.full
        self.bin = pathlib.Path(options.bin)
        self.directory = directory
        self.processes = []
        self.cleaners = []
        # Rows may run side by side: each begins somewhere else in the range.
        self.next_port = PORTS.start + os.getpid() * 7 % len(PORTS)

    def size(self, short, full):
        """A number for CI, another for the full run."""
        return full if self.full else short

    def enough(self, done, planned, what):
        """Checks that what was planned was done; on a slow machine, short of the full size, that at least two were."""
        check(done >= min(planned, self.size(2, planned)), f"only {done} of {planned} {what} before the load ended")

    def port(self):
        """A loopback port of the range that nobody listens on."""
        for _ in PORTS:
            port = self.next_port
            self.next_port = PORTS.start + (port + 1 - PORTS.start) % len(PORTS)
            with socket.socket() as probe:
                try:
                    # Without SO_REUSEPORT this also fails where a relay of another row shares its port.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
                    return port
                except OSError:
                    continue
        raise Skip(f"no free port in {PORTS.start}..{PORTS.stop}")

    def program(self, name, package):
        """The path of an installed program."""
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path is None:
            raise Skip(f"{name} is not installed (Debian package {package})")
        return path

    def root(self):
        """Skips unless run by root."""
        if os.geteuid() != 0:
            raise Skip("needs root")

    def spawn(self, arguments, log, **more):
        """Starts a program whose output goes to the file `log` of the row's directory."""
        output = open(self.directory / log, "ab")
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **more)
        output.close()
        self.processes.append(process)
        return process

    def text(self, log):
        """What is in the file `log` now."""
        return (self.directory / log).read_text(errors="replace")

    def relay(self, **options):
        """A running relay."""
        return Relay(self, **options)

    def spool(self, name="relay", **options):
        """A spool full of mail for the relay `name`, which must be started later; options are spool-maker's."""
        program = self.bin / "spool-maker"
        if not os.access(program, os.X_OK):
            raise Skip(f"no {program}; build it: cargo build --release --workspace")
        words = [word for option, value in options.items() for word in (f"--{option}", value)]
        code = self.spawn([program, self.directory / f"{name}-spool", *words], "maker.log").wait()
        check(code == 0, f"spool-maker: {self.text('maker.log')[-300:]}")

    def load(self, arguments, log="load.log"):
        """`ringpost-load`, started."""
        return self.spawn([self.bin / "ringpost-load", *arguments], log)

    def close(self):
        """Ends what is still running."""
        for cleaner in reversed(self.cleaners):
            cleaner()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


class Relay:
    """`ringpost serve` with a configuration of its own. `routes` are lines of that table, `settings` whole sections, `keeping`
    lines about the spool, `smtp` about the listening side, `spool` its directory and `flags` what `serve` is given besides.

    Within `patience` seconds it must be ready: that is a limit for a busy machine, not a measurement.
    """

    def __init__(self, lab, routes, settings="", keeping="", smtp="", spool=None, flags=(), name="relay", patience=30):
        self.lab, self.name, self.patience = lab, name, patience
        self.spool = spool or lab.directory / f"{name}-spool"
        self.flags = list(flags)
        self.log = f"{name}.log"
        self.port, self.admin = lab.port(), lab.port()
        self.config = lab.directory / f"{name}.toml"
        lines = "".join(f'"{pattern}" = "{target}"\n' for pattern, target in routes.items())
        self.config.write_text(
            f'[smtp]\nhostname = "relay.invalid"\nlisten = ["127.0.0.1:{self.port}"]\n{smtp}'
            f'[spool]\ndirectory = "{self.spool}"\n{keeping}'
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"\n[routes]\n{lines}{settings}')
        self.process = None
        self.start()

    def command(self):
        """What starts it."""
        return [self.lab.bin / "ringpost", "serve", "--config", self.config, *self.flags]

    def start(self, may_fail=False):
        """Starts it and waits until it is ready; says whether it is. Where it may fail it must have ended then, with a reason."""
        environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
        self.process = self.lab.spawn(self.command(), self.log, env=environment, cwd=self.lab.directory)
        deadline = time.monotonic() + self.patience
        while self.readiness() != 200:
            if self.process.poll() is not None:
                said = self.lab.text(self.log).strip().splitlines()[-3:]
                if any(fault in line for line in said for fault in HOST_FAULTS):
                    raise Skip(f"this host cannot run the relay: {said[0]}")
                if may_fail and self.process.returncode == 1 and said[-1].startswith("ringpost: "):
                    return False
                raise Fault(f"the relay exited with {self.process.returncode} at the start: {said}")
            if may_fail and self.readiness() == 503:
                return False
            check(time.monotonic() < deadline, f"the relay was not ready within {self.patience} s")
            time.sleep(0.02)
        return True

    def readiness(self):
        """Status of `/readyz`; None if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1) as answer:
                return answer.status
        except urllib.error.HTTPError as answer:
            return answer.code
        except OSError:
            return None

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; it must end within 10 s, with 0 and without a panic."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            raise Fault("the relay did not stop within 10 s of SIGTERM") from None
        same(code, 0, "exit code of the relay after SIGTERM")
        check("panicked" not in self.lab.text(self.log), "the relay's log tells of a panic")

    def metrics(self):
        """`/metrics` as {line without value: value}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def memory(self, field="VmHWM"):
        """Resident bytes: the peak, or with VmRSS those of now."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

    def cpu(self):
        """Seconds of CPU, user and system, of all threads so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def bytes_read(self):
        """Bytes that it has had the disk read."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))

    def metric(self, name):
        """The sum of a metric's lines."""
        return sum(value for line, value in self.metrics().items() if line.split("{")[0] == name)

    def queued(self):
        """Messages that the relay holds, in any state."""
        return self.metric("ringpost_queue_messages")

    def lines(self, word):
        """Log lines about mail that end their fixed part with `word` (accepted, delivered, deferred, failed, bounced)."""
        return [line for line in self.lab.text(self.log).splitlines() if f" mail: {word} " in line]


class Load:
    """`ringpost-load run` for some seconds, against a relay that may fail, go away and come back."""

    def __init__(self, lab, relay, sink, seconds, *more):
        self.lab, self.report = lab, lab.directory / "load.json"
        self.process = lab.load(
            ["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--reconnect", "--repeats-allowed",
             "--duration", seconds, "--drain-timeout", 300 if lab.full else 60, "--json", self.report, *more])

    def lasts(self, seconds):
        """Lets it run on; False if it has ended."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def judge(self, repeated=0, ambiguous=0):
        """Its report, once it has ended. The law: what was accepted arrived, whole; nothing else did, but for `ambiguous` ones
        that a failing disk had kept when they were refused; and not more came twice than `repeated`."""
        self.process.wait()
        check(self.report.exists(), f"no report of ringpost-load: {self.lab.text('load.log')[-700:]}")
        report = json.loads(self.report.read_text())
        ledger = report["ledger"]
        for fault in ("lost", "corrupted", "misdelivered", "delivered_after_failure"):
            same(ledger[fault], 0, f"{fault} of {ledger['accepted']} accepted")
        for what, most in (("repeated", repeated), ("refused_but_delivered", ambiguous)):
            check(ledger[what] <= most, f"{ledger[what]} {what}, at most {most} of {ledger['accepted']} may be")
        check(ledger["accepted"] > 0, "nothing was accepted: nothing was tried")
        return report


def replies(report, *codes):
    """How many replies of these codes the load got."""
    return sum(reply["count"] for reply in report["source"]["replies"] if reply["code"] in codes)


def send_one(relay):
    """The reply to a message that goes nowhere the ledger looks; to the connection, if that is refused."""
    try:
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
            client.sendmail("one@source.load.invalid", ["one@sink.load.invalid"], b"Subject: one\r\n\r\none\r\n")
    except smtplib.SMTPResponseException as refusal:
        return refusal.smtp_code
    except smtplib.SMTPRecipientsRefused as refusal:
        return min(code for code, _ in refusal.recipients.values())
    except smtplib.SMTPServerDisconnected:
        return None
    return 250


def certificate(lab):
    """Files with a self-signed certificate for localhost and its key."""
    openssl = lab.program("openssl", "openssl")
    files = lab.directory / "certificate.pem", lab.directory / "key.pem"
    if not files[0].exists():
        done = subprocess.run(
            [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-out", files[0], "-keyout", files[1]], capture_output=True, text=True, check=False)
        same(done.returncode, 0, f"openssl req: {done.stderr[-300:]}")
    return files


def with_tls(lab):
    """Lines for `Relay(smtp=...)` that offer STARTTLS."""
    files = certificate(lab)
    return f'tls_certificate = "{files[0]}"\ntls_key = "{files[1]}"\n'


def wait_for(condition, seconds, what):
    """Waits for something that other processes make true; the time is only a limit, never a measurement."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.02)


def mounts_of_its_own():
    """Starts this script again where its mounts are nobody else's, and end with it."""
    if os.geteuid() != 0 or os.environ.get("RINGPOST_MOUNTS") or shutil.which("unshare") is None:
        return
    os.environ["RINGPOST_MOUNTS"] = "private"
    os.execvp("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv])


def run(row, mounts=False):
    """Runs `row(lab)` as a script: the last line of its output is the verdict. One that `mounts` does so in private."""
    if mounts:
        mounts_of_its_own()
    parser = argparse.ArgumentParser(description=sys.modules[row.__module__].__doc__)
    parser.add_argument("--full", action="store_true", help="full size instead of that of CI")
    parser.add_argument("--bin", required=True, help="directory with ringpost and ringpost-load")
    parser.add_argument("--work", help="directory for spools and logs, on a real disk")
    options = parser.parse_args()
    base = pathlib.Path(options.work) if options.work else ROOT / "target" / "tmp"
    base.mkdir(parents=True, exist_ok=True)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tier-b.", dir=base))
    lab = Lab(options, directory)
    atexit.register(lab.close)
    # So that the processes end too when the runner gives up on this row.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        verdict, code = f"ok {row(lab)}", 0
    except Skip as reason:
        verdict, code = f"SKIP {reason}", SKIPPED
    except (Fault, Exception) as fault:
        if not isinstance(fault, Fault):
            traceback.print_exc()
        verdict, code = f"FAIL {fault} (see {directory})", 1
    lab.close()
    if code != 1:
        shutil.rmtree(directory, ignore_errors=True)
    print(verdict.replace("\n", " "), flush=True)
    sys.exit(code)
