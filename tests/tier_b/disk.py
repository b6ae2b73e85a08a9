"""Disks for rows: the faulty one of tests/faulty-disk on FUSE, and a real ext4 in a file, which may lie on the faulty one."""

import os
import socket
import subprocess

import lab as tier


class FaultyDisk:
    """The FUSE disk, mounted. Its orders are in tests/faulty-disk/src/faults.rs."""

    def __init__(self, lab):
        lab.root()
        program = lab.bin / "ringpost-faulty-disk"
        if not os.access(program, os.X_OK):
            raise tier.Skip(f"no {program}: cargo build --workspace")
        if not os.path.exists("/dev/fuse"):
            raise tier.Skip("no /dev/fuse (modprobe fuse)")
        self.mount = lab.directory / "disk"
        backing, control = lab.directory / "backing", lab.directory / "disk.socket"
        self.mount.mkdir()
        backing.mkdir()
        process = lab.spawn([program, "--backing", backing, "--mount", self.mount, "--control", control], "disk.log")
        tier.wait_for(lambda: process.poll() is not None or "ready" in lab.text("disk.log"), 10, "a mounted disk")
        if process.poll() is not None:
            raise tier.Skip(f"FUSE cannot be mounted here: {lab.text('disk.log').strip()[-200:]}")
        # At the end, however it comes: only what is unmounted can be removed.
        lab.cleaners.append(lambda: subprocess.run(["umount", "-l", self.mount], stderr=subprocess.DEVNULL))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(control))
        self.answers = self.socket.makefile()

    def order(self, *words):
        """Gives an order: what the disk tells of itself, by name."""
        self.socket.sendall((" ".join(str(word) for word in words) + "\n").encode())
        answer = self.answers.readline().split()
        tier.same(answer[:1], ["ok"], f"the disk's answer to {words}: {answer}")
        return {name: int(value) for name, value in (word.split("=") for word in answer[1:])}

    def cut(self, seed, relay, freeze=0.0):
        """The power fails: for relay and disk at once, with whatever calls had come in a last moment. The disk stays dark."""
        self.order("freeze")
        tier.time.sleep(freeze)
        relay.process.kill()
        told = self.order("cut", seed)
        relay.process.wait()
        return told


class Ext4:
    """An ext4 in a file."""

    def __init__(self, lab, image, megabytes):
        lab.root()
        self.lab, self.image, self.mount = lab, image, lab.directory / "ext4"
        self.mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        mkfs = lab.program("mkfs.ext4", "e2fsprogs")
        # No lazy zeroing in the background: it would be counted among the calls.
        options = ["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run([mkfs, *options, image], check=True, stdout=subprocess.DEVNULL)
        # A new file system is durable, and its name.
        for path in (image, image.parent):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        lab.cleaners.append(lambda: subprocess.run(["umount", "-l", self.mount], stderr=subprocess.DEVNULL))
        self.open()

    def open(self):
        """Mounts it."""
        done = subprocess.run(["mount", "-o", "loop", self.image, self.mount], capture_output=True, text=True)
        if done.returncode != 0:
            raise tier.Skip(f"a loop device cannot be mounted here: {done.stderr.strip()}")

    def close(self):
        """Unmounts it."""
        unmount(self.mount)

    def check(self):
        """Replays its journal, mends what it can, and fails if there was more to mend than a journal mends."""
        fsck = self.lab.program("e2fsck", "e2fsprogs")
        done = subprocess.run([fsck, "-p", self.image], capture_output=True, text=True)
        tier.check(done.returncode in (0, 1), f"e2fsck: {done.stdout.strip()} {done.stderr.strip()}")


def unmount(path):
    """Unmounts what may be mounted there; waits as long as somebody still uses it."""
    def gone():
        done = subprocess.run(["umount", path], capture_output=True, text=True)
        return done.returncode == 0 or "not mounted" in done.stderr or "no mount point" in done.stderr
    tier.wait_for(gone, 20, f"{path} unmounted")
