#!/usr/bin/env python3
"""System calls per message of the relay, under the load of the throughput row. A measurement: nothing is asserted.

perf counts in the kernel and hardly slows the relay; strace stops it at each call, so that batches grow while it waits.
"""

import collections
import json
import re
import shutil

import lab as tier


def row(lab):
    lab.root()
    counter = Perf if shutil.which("perf") else Strace if shutil.which("strace") else None
    if counter is None:
        raise tier.Skip("neither perf nor strace is installed (Debian packages linux-perf, strace)")
    sink = lab.port()
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink}"}, settings='[log]\nlevel = "warn"\n')
    counting = counter(lab, relay.process.pid)
    code = lab.load(
        ["run", "--target", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{sink}", "--connections", 32,
         "--size", 4096, "--duration", lab.size(5, 20), "--json", lab.directory / "load.json"]).wait()
    tier.same(code, 0, "exit code of ringpost-load")
    calls = counting.end()
    relay.stop()
    accepted = json.loads((lab.directory / "load.json").read_text())["ledger"]["accepted"]
    for name, count in calls.most_common(8):
        print(f"{count / accepted:8.3f} per message  {name}")
    total = sum(calls.values())
    return f"{total / accepted:.2f} system calls per message ({total} for {accepted}, counted by {counter.__name__.lower()})"


class Strace:
    """`strace -c` on all threads."""

    def __init__(self, lab, pid):
        self.lab = lab
        self.process = lab.spawn(["strace", "-c", "-f", "-qq", "-U", "calls,name", "-p", pid], "strace.log")
        attached = lambda: "TracerPid:\t0\n" not in open(f"/proc/{pid}/status").read()
        try:
            tier.wait_for(attached, 10, "strace attached")
        except tier.Fault:
            raise tier.Skip(f"strace cannot attach: {lab.text('strace.log').strip()}") from None

    def end(self):
        """Detaches it: calls by name."""
        self.process.send_signal(tier.signal.SIGINT)
        self.process.wait()
        rows = re.findall(r"^\s*(\d+)\s+([a-z_]\w*)$", self.lab.text("strace.log"), re.MULTILINE)
        return collections.Counter({name: int(count) for count, name in rows if name != "total"})


class Perf:
    """`perf stat` on the tracepoint of all system calls, and on those of a few by name."""

    # Each name costs perf a descriptor for each thread and time to open it: those that are known to matter.
    NAMES = (
        "io_uring_enter io_uring_register accept4 close connect epoll_wait fallocate fcntl fdatasync fsync futex madvise "
        "membarrier mmap munmap pread64 pwrite64 read recvfrom recvmsg sched_yield sendmsg sendto setsockopt shutdown socket "
        "statx timerfd_settime write writev").split()

    def __init__(self, lab, pid):
        self.lab = lab
        self.process = lab.spawn(
            ["perf", "stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-e", "io_uring:io_uring_submit_req",
             *(word for name in self.NAMES for word in ("-e", f"syscalls:sys_enter_{name}")), "-p", pid], "perf.log")
        try:
            self.process.wait(timeout=1.5)
        except tier.subprocess.TimeoutExpired:
            return
        raise tier.Skip(f"perf cannot count here: {lab.text('perf.log').strip()[-200:]}")

    def end(self):
        """Ends it: calls by name."""
        self.process.send_signal(tier.signal.SIGINT)
        self.process.wait()
        rows = re.findall(r"^(\d+);[^;]*;(?:raw_)?(\w+:\w+);", self.lab.text("perf.log"), re.MULTILINE)
        counts = {name: int(count) for count, name in rows}
        tier.check("syscalls:sys_enter" in counts, f"perf says: {self.lab.text('perf.log')[-300:]}")
        calls = {name: counts.get(f"syscalls:sys_enter_{name}", 0) for name in self.NAMES}
        calls["others"] = counts["syscalls:sys_enter"] - sum(calls.values())
        print(f"{counts.get('io_uring:io_uring_submit_req', 0)} requests went through io_uring_enter")
        return collections.Counter(calls)


if __name__ == "__main__":
    tier.run(row)
