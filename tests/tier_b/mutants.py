#!/usr/bin/env python3
"""The tests can fail: each mutant in tests/mutants is a patch that breaks a promise, and names the test that must catch it.

Each is applied to a copy of the tree, built and tested there; a mutant that passes its test is a failure of this row, and so is a
patch that does not apply any more, or a tree that fails the test without it. The copy shares the target directory, so that
only the relay's own library is built again.
"""

import os
import re
import shutil
import subprocess

import lab as tier

PATCHES = tier.ROOT / "tests" / "mutants"
# Cheap to run and far from each other: what CI has time for.
SHORT = ["early_250", "dot_off_by_one"]


def row(lab):
    cargo, git = lab.program("cargo", "rustup"), lab.program("git", "git")
    names = sorted(path.stem for path in PATCHES.glob("*.patch"))
    tier.check(len(names) >= 8, f"only {len(names)} mutants in {PATCHES}")
    target = os.environ.get("CARGO_TARGET_DIR", str(tier.ROOT / "target"))
    # Always in the same place, so that cargo knows what it has built before.
    tree = tier.ROOT / "target" / "mutants"
    tests = {name: caught_by(name) for name in names if lab.full or name in SHORT}
    copy(git, tree)
    for test in sorted(set(tests.values())):
        passed, said = run(cargo, tree, target, test)
        tier.check(passed, f"{test} fails without any mutant: {said}")
    for name, test in tests.items():
        patch(git, tree, name)
        passed, said = run(cargo, tree, target, test)
        patch(git, tree, name, "--reverse")
        tier.check(not passed, f"the mutant {name} lives: {test} does not see it")
        tier.check("test result: FAILED" in said, f"the mutant {name} does not build: {said[-1500:]}")
        print(f"{name}: caught by {test}", flush=True)
    return f"{len(tests)} of {len(names)} mutants, each caught by its test"


def caught_by(name):
    """The test that a patch names."""
    found = re.search(r"^Caught by: (\S+)$", (PATCHES / f"{name}.patch").read_text(), re.MULTILINE)
    tier.check(found, f"{name}.patch has no line `Caught by: TEST`")
    return found[1]


def copy(git, tree):
    """What git knows of the tree, as it is now; only what has changed is touched."""
    listed = subprocess.run([git, "ls-files", "-z"], cwd=tier.ROOT, stdout=subprocess.PIPE, check=True)
    wanted = {name.decode() for name in listed.stdout.split(b"\0") if name}
    for path in sorted(tree.rglob("*")):
        if path.is_file() and str(path.relative_to(tree)) not in wanted:
            path.unlink()
    for name in wanted:
        source, destination = tier.ROOT / name, tree / name
        if not source.is_file():
            continue
        if destination.is_file() and destination.read_bytes() == source.read_bytes():
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)


def patch(git, tree, name, *options):
    """Applies a patch, or takes it back."""
    # The copy lies inside the repository: git would otherwise look for the paths there.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    applied = subprocess.run(
        [git, "apply", "-C1", *options, str(PATCHES / f"{name}.patch")],
        cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tier.same(applied.returncode, 0, f"{name}.patch does not apply any more; make it fit the source: {applied.stdout.strip()}")


def run(cargo, tree, target, test):
    """Whether the test passes, and what cargo said."""
    command = [cargo, "test", "--quiet", "--lib", "--", "--exact", test]
    environment = {**os.environ, "CARGO_TARGET_DIR": target, "RUST_BACKTRACE": "0"}
    done = subprocess.run(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ran = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", done.stdout)
    tier.check(not ran or int(ran[1]) + int(ran[2]) == 1, f"there is no test {test}")
    return done.returncode == 0, done.stdout


if __name__ == "__main__":
    tier.run(row)
