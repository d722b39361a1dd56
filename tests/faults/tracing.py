"""Count the system calls of a run, and step into one of them: Debian's strace."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WRITING = (
    *("write", "pwrite64", "copy_file_range", "sendfile", "fallocate", "ftruncate"),
    *("fsync", "fdatasync", "sync", "syncfs", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
    *("chmod", "fchmod", "fchmodat", "utimensat", "openat", "ioctl"),
    "sendto",
)
"""What can change a folder, make a change last, or tell a registry something."""
_NAMELESS = ("sync", "sendto")
_LINE = re.compile(r"(?P<task>\d+) +(?P<call>\w+)\((?P<rest>.*)")
_TIMEOUT = 120


@dataclass(frozen=True)
class Point:
    """One call of a run."""

    call: str
    path: str
    """What it concerns, below the folder of the run; empty for a call that names nothing."""
    number: int
    """The how manieth of its kind there, from 1."""

    def __str__(self) -> str:
        return f"{self.call} {self.number} of {self.path or 'all'}"


@dataclass(frozen=True)
class Fault:
    """What happens at a point."""

    point: Point
    kind: str
    """`KILL`, or the name of an error."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.point}"

    @property
    def injection(self) -> str:
        happens = "signal=KILL" if self.kind == "KILL" else f"error={self.kind}"
        return f"{self.point.call}:{happens}:when={self.point.number}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    """Its exit status; negative: the signal that killed it."""
    output: str
    faults: str
    """What it said on stderr."""
    hit: str
    """The call that was stepped into; empty if none was."""

    @property
    def was_killed(self) -> bool:
        return self.code == -9


def missing() -> str | None:
    """Why nothing can be traced here, or nothing."""
    if shutil.which("strace") is None:
        return "no strace on this machine"
    done = subprocess.run(
        ["strace", "-f", "-qq", "true"], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


def run(program: Sequence[str], log: Path, folder: Path, fault: Fault | None = None) -> Outcome:
    """Run a program that works in `folder` under strace, with all that changes folders noted."""
    options = ["-f", "-y", "-qq", "-s", "0", "-o", str(log), "-e", "signal=none"]
    if fault is None or fault.kind != "KILL":
        options.append("--seccomp-bpf")  # faster, but strace 6.1 then injects no signals
    options += ["-e", "trace=" + (fault.point.call if fault else ",".join(WRITING))]
    if fault is not None:
        options += ["-e", f"inject={fault.injection}"]
    if fault is not None and fault.point.path:
        options += ["-P", f"{folder}{fault.point.path}"]
    done = subprocess.run(
        ["strace", *options, *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    lines = log.read_text("utf-8", "replace").splitlines()
    hit = _last(lines, fault) if fault else ""
    return Outcome(done.returncode, done.stdout, done.stderr, hit)


def _last(lines: Sequence[str], fault: Fault) -> str:
    """Return the line of the call that a fault met."""
    if fault.kind != "KILL":
        return next((line for line in lines if "(INJECTED)" in line), "")
    return next((line for line in reversed(lines) if f" {fault.point.call}(" in line), "")


def plain(program: Sequence[str]) -> Outcome:
    """Run without a tracer."""
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    return Outcome(done.returncode, done.stdout, done.stderr, "")


def python(*arguments: str) -> list[str]:
    """Return the command that runs this Python as a tracer sees it begin fastest."""
    return [sys.executable, "-B", *arguments]


def points(log: Path, folder: Path) -> list[Point]:
    """Return the calls of a run that concern what is below its folder."""
    seen: Counter[tuple[str, str, str]] = Counter()
    found: dict[Point, None] = {}
    for line in log.read_text("utf-8", "replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue  # the end of a call that another thread interrupted
        call, place = match["call"], re.search(rf'{re.escape(str(folder))}([^">]*)', match["rest"])
        if call in _NAMELESS or (place and _changes(call, match["rest"])):
            path = place[1] if place and call not in _NAMELESS else ""
            seen[match["task"], call, path] += 1
            found[Point(call, path, seen[match["task"], call, path])] = None
    return list(found)


def _changes(call: str, rest: str) -> bool:
    if call == "openat":
        return "O_CREAT" in rest
    return call != "ioctl" or "FICLONE" in rest
