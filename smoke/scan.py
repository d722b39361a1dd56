"""The program that looks through the files of an image, as root, before any engine starts.

Standard library only; sent as text with `python3 -I -S -c`. Prints one JSON object of findings.
Other file systems (mounts, /proc) are none of the image's, and weights are hashed elsewhere.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator

LARGEST = 1 << 20
"""Bytes from which a file is data and no place where people leave a secret."""
SKIPPED = "/models/blobs"
LIBRARIES = ("/opt/venv/lib/", "/usr/lib/python3", "/usr/include/")
SOURCES = (".py", ".pyi", ".pyc", ".h", ".hpp", ".cuh", ".so", ".dist-info/METADATA")
FINDINGS = 20
"""How many of one kind are worth reading."""

SECRET = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}"
    rb"|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{22,}"
    rb"|\bglpat-[\w-]{20}"
    rb"|\bAKIA[0-9A-Z]{16}\b"
    rb"|\bpypi-[A-Za-z0-9_-]{50,}"
    rb"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
    rb"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}"
    rb"|\bhttps?://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@[\w.-]+"
)
PLACES = re.compile(
    r"/(?:\.netrc|_netrc|\.pypirc|pip\.conf|uv\.toml|\.git-credentials|\.npmrc|\.dockercfg"
    r"|\.docker/config\.json|\.aws/credentials|huggingface/token|\.ssh/.*|apt/auth\.conf.*)$"
)
"""Files that exist to hold credentials."""


def findings() -> dict[str, list[str]]:
    """Return paths by kind of fault."""
    found: dict[str, list[str]] = {"foreign": [], "setuid": [], "place": [], "secret": []}
    for path, status in files():
        for kind in faults(path, status):
            found[kind].append(path)
    return {kind: paths[:FINDINGS] for kind, paths in found.items()}


def files() -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything on the root file system."""
    device = os.lstat("/").st_dev
    for folder, folders, names in os.walk("/"):
        paths = [os.path.join(folder, name) for name in folders + names]  # noqa: PTH118
        kept = [(path, os.lstat(path)) for path in paths]
        own = [(path, status) for path, status in kept if status.st_dev == device]
        yield from own
        inside = {path for path, _ in own if path != SKIPPED}
        folders[:] = [name for name in folders if os.path.join(folder, name) in inside]  # noqa: PTH118


def faults(path: str, status: os.stat_result) -> Iterator[str]:
    """Name what is wrong with one file."""
    if status.st_uid or status.st_gid:
        yield "foreign"
    if not stat.S_ISREG(status.st_mode):
        return
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        yield "setuid"
    if PLACES.search(path):
        yield "place"
    if status.st_size < LARGEST and not is_source(path) and has_secret(path):
        yield "secret"


def is_source(path: str) -> bool:
    """Tell whether this is a library's own text, whose tests and examples hold made-up secrets."""
    return path.startswith(LIBRARIES) and path.endswith(SOURCES)


def has_secret(path: str) -> bool:
    """Tell whether a file holds something that looks like one."""
    with open(path, "rb") as file:  # noqa: PTH123 - as small as it can be
        return SECRET.search(file.read()) is not None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(findings()) + "\n")
