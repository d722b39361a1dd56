"""What was measured on: facts that a reader needs to compare with another machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.services import search_path

_VERSIONS = {
    "docker": ("dockerd", "--version"),
    "buildx": ("docker", "buildx", "version"),
    "registry": ("docker-registry", "--version"),
    "buildah": ("buildah", "--version"),
    "skopeo": ("skopeo", "--version"),
}
_PROBE_BYTES = 1 << 30


def facts(work: Path) -> dict[str, str]:
    """Return what this machine is; writes 1 GiB to learn the speed of its disk."""
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{_kib('/proc/meminfo', 'MemTotal') / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "file system": _file_system(work),
        "plain write and fsync": f"{_write_speed(work):.0f} MB/s",
        "Python": platform.python_version(),
        "zstandard": version("zstandard"),
    } | {name: _version(command) for name, command in _VERSIONS.items()}


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"model name\s*: (.*)", text)
    extensions = " with SHA-NI" if " sha_ni " in text else ""
    return (model.group(1) if model else platform.machine()) + extensions


def _kib(path: str, key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+)", Path(path).read_text("ascii"))
    return int(found.group(1)) if found else 0


def _file_system(folder: Path) -> str:
    """Return the type of the file system with the longest mount point above a folder."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    above = [(point, kind) for _, point, kind, *_ in mounts if folder.is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]))[1]


def _write_speed(folder: Path) -> float:
    """Return the MB/s of writing 1 GiB and waiting until it is on the disk."""
    path, chunk = folder / "probe", os.urandom(1 << 20)
    os.sync()
    begin = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(_PROBE_BYTES // len(chunk)):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return _PROBE_BYTES / seconds / 1e6


def _version(command: tuple[str, ...]) -> str:
    environment = os.environ | {"PATH": search_path()}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        return "not here"
    found = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
    return found.group(0) if found else "unknown"
