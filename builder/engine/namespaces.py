"""Say why a sandbox cannot be made here, and how to go on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNSHARED = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
"""The namespaces that every sandbox has."""

# setting below /proc/sys, the value that forbids, the value that allows
_SETTINGS = (
    ("user/max_user_namespaces", "0", "15000"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
)
_DOCKER = "use Docker: builder run --engine docker"
_CONTAINER = (
    "inside a container, allow it: docker run --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
)


def check(bubblewrap: Sequence[str], settings: Path = Path("/proc/sys")) -> None:
    """Make a small sandbox, as a trial.

    Raises:
        HostError: the kernel does not let us.
    """
    small = (*UNSHARED, "--uid", "10001", "--ro-bind", "/", "/", "--proc", "/proc")
    done = subprocess.run(
        [*bubblewrap, *small, "--", *bubblewrap, "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise fault(settings, done.stderr)


def fault(settings: Path, said: str) -> HostError:
    """Return the error: the setting that forbids user namespaces, else what bubblewrap said."""
    for name, forbids, allows in _SETTINGS:
        if _value(settings / name) == forbids:
            setting = name.replace("/", ".")
            message = f"user namespaces are off on this machine: {setting} is {forbids}"
            return HostError(message, f"sudo sysctl {setting}={allows}\n{_DOCKER}")
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    message = f"a sandbox cannot be made on this machine: {last}"
    return HostError(message, f"{_CONTAINER}\n{_DOCKER}")


def _value(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
