"""Facts about the machine and the container, as far as the preflight has rules for them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from builder.launcher import nvml
from builder.launcher.environment import Prepared, is_writable
from builder.launcher.spec import Require

_TMP = "/tmp"  # noqa: S108 - the container's own, which engines and compilers use
_SHM = "/dev/shm"  # noqa: S108 - the mount itself, not a file in it


@dataclass(frozen=True)
class Folder:
    """A folder that the engine writes to."""

    path: str
    is_writable: bool
    is_noexec: bool
    """Mounted so that nothing in it can be executed, shared libraries included."""


@dataclass(frozen=True)
class Host:
    """What was found."""

    cache: Folder
    tmp: Folder
    passed_over: tuple[str, ...]
    """Cache folders that are there and cannot be written."""
    user: int
    shm_bytes: int
    driver: nvml.Driver | nvml.NoDriver | None
    """None: not asked, because the image needs no GPU."""
    visible_devices: str | None
    """`CUDA_VISIBLE_DEVICES`."""


def read(prepared: Prepared, require: Require, environ: Mapping[str, str]) -> Host:
    """Look at this machine. NVML is left alone for images without GPUs."""
    return Host(
        cache=_folder(prepared.cache_root),
        tmp=_folder(_TMP),
        passed_over=prepared.passed_over,
        user=os.getuid(),
        shm_bytes=_size(_SHM),
        driver=nvml.read() if require.gpus else None,
        visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _folder(path: str) -> Folder:
    try:
        flags = os.statvfs(path).f_flag
    except OSError:
        return Folder(path, is_writable=False, is_noexec=False)
    return Folder(path, is_writable=is_writable(path), is_noexec=bool(flags & os.ST_NOEXEC))


def _size(mount: str) -> int:
    try:
        found = os.statvfs(mount)
    except OSError:
        return 0
    return found.f_blocks * found.f_frsize
