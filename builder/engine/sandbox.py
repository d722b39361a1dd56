"""Run an image in user namespaces, without root and without a container engine.

Differs from a container in this: the root is always read-only, the network is this machine's own
(ports are not mapped: the engine inside has to listen on the right one) or none, and there are
no GPUs.  The image's process is process 1 of the sandbox, so it gets signals directly; it ends
when this process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import files
from builder.engine import namespaces, rootfs
from builder.errors import HostError
from builder.process import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.engine.protocol import Container, Mount
    from builder.engine.rootfs import Rootfs
    from builder.oci.image import Image

_HOSTNAME = "builder"
_HOSTS = f"127.0.0.1 localhost {_HOSTNAME}\n::1 localhost\n"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_STREAMS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_BY_SIGNAL = 128
"""Added to the number of the signal that ended a process, as shells do."""


@dataclass(frozen=True)
class Prepared:
    """An image to run: its files, and how its config says to run them."""

    rootfs: Rootfs
    config: Mapping[str, Any]
    """`config` of the OCI image configuration."""
    hosts: Path
    """What is mounted as /etc/hosts."""


def prepared(image: Image, cache: Path) -> Prepared:
    """Return how `image` would run; nothing is written."""
    config = json.loads(image.config)["config"]
    return Prepared(rootfs.place(image, cache), config, cache / "sandbox" / "hosts")


def cache_of(image: Image, cache: Path) -> Path:
    """Return the folder that keeps an image's compiled code from one start to the next."""
    return cache / "sandbox" / rootfs.key_of(image)


def options(ready: Prepared, container: Container) -> list[str]:
    """Return bubblewrap's options and the command it starts."""
    config = ready.config
    uid, _, gid = (container.user or config.get("User") or "0:0").partition(":")
    return [
        *namespaces.UNSHARED,
        *([] if container.has_network else ["--unshare-net"]),
        *("--uid", uid, "--gid", gid or "0", "--hostname", _HOSTNAME),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--as-pid-1"),
        *_mounts(ready, container),
        *("--chdir", config.get("WorkingDir") or "/"),
        *_environment(config, container),
        "--",
        *_command(config, container),
    ]


def _mounts(ready: Prepared, container: Container) -> Iterator[str]:
    yield from ("--ro-bind", str(ready.rootfs.path.absolute()), "/")
    yield from _dev(container.shared_memory)
    # Where the number of processors and their nodes are read.
    yield from ("--proc", "/proc", "--ro-bind", "/sys", "/sys")
    yield from ("--ro-bind", str(ready.hosts.absolute()), "/etc/hosts")
    if container.has_network:
        yield from ("--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf")
    for target, source in ready.rootfs.weights.items():
        yield from ("--ro-bind", str(source.absolute()), target)
    for mount in container.mounts:
        yield from _mount(mount)


def _mount(mount: Mount) -> tuple[str, ...]:
    if mount.source is None:
        return ("--perms", "1777", "--tmpfs", mount.target)
    return ("--bind", mount.source, mount.target)


def _dev(shared_memory: int | None) -> Iterator[str]:
    """Yield a /dev of our own: bubblewrap's has terminals, which takes a second user namespace."""
    yield from ("--tmpfs", "/dev")
    for name in _DEVICES:
        yield from ("--dev-bind-try", f"/dev/{name}", f"/dev/{name}")
    for name, target in _STREAMS.items():
        yield from ("--symlink", f"/proc/self/{target}", f"/dev/{name}")
    size = ("--size", str(shared_memory)) if shared_memory else ()
    yield from ("--perms", "1777", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - the sandbox's own


def _environment(config: Mapping[str, Any], container: Container) -> Iterator[str]:
    yield "--clearenv"
    for name, value in environment(config, container).items():
        yield from ("--setenv", name, value)


def environment(config: Mapping[str, Any], container: Container) -> dict[str, str]:
    """Return the image's environment with the container's on top, and nothing of ours."""
    pairs = (text.partition("=") for text in config.get("Env") or ())
    return {name: value for name, _, value in pairs} | dict(container.environment)


def _command(config: Mapping[str, Any], container: Container) -> list[str]:
    given = list(container.arguments) or list(config.get("Cmd") or ())
    return [*(config.get("Entrypoint") or ()), *given]


def refuse_gpus(count: int) -> None:
    """Raise HostError for an image that needs GPUs."""
    if count:
        message = "a sandbox has no GPUs"
        raise HostError(message, "use Docker: builder run --engine docker")


class Sandbox:
    """Starts images of the store."""

    def __init__(self, bubblewrap: Sequence[str], cache: Path) -> None:
        self._bubblewrap, self._cache = tuple(bubblewrap), cache
        self._images: dict[str, Prepared] = {}

    def add(self, image: Image) -> None:
        """Unpack an image, unless it is unpacked; known by name and digest from now on.

        Raises:
            HostError: no sandbox can be made here.
        """
        namespaces.check(self._bubblewrap)
        rootfs.unpack(image, self._cache)
        ready = prepared(image, self._cache)
        files.write_atomic(ready.hosts, _HOSTS.encode())
        self._images |= {image.name: ready, image.digest: ready}

    def start(self, container: Container) -> Sandboxed:
        """Start an image that was added.

        Raises:
            HostError: it asks for what a sandbox does not have.
        """
        refuse_gpus(container.gpus)
        ready = self._images[container.image]
        for mount in container.mounts:
            _make(mount, self._cache)
        process, pid = _start(self._bubblewrap, options(ready, container))
        return Sandboxed(process, pid, environment(ready.config, container), container.ports)


def _make(mount: Mount, cache: Path) -> None:
    """Make a folder that is ours; somebody else's has to be there."""
    if mount.source and (source := Path(mount.source)).is_relative_to(cache.absolute()):
        try:
            source.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise files.unwritable(source, fault) from fault


def _start(
    bubblewrap: Sequence[str], arguments: Sequence[str]
) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start a sandbox; also returns its process 1, None if it could not be made."""
    told, tell = os.pipe()
    try:
        # In a session of its own: Ctrl-C reaches what is inside only through `signal`.
        process = subprocess.Popen(
            [*bubblewrap, "--info-fd", str(tell), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(tell,),
            start_new_session=True,
        )
    finally:
        os.close(tell)
        with os.fdopen(told) as file:
            text = file.read()
    return process, json.loads(text)["child-pid"] if text else None


def _handle(pid: int | None) -> int | None:
    """Return what signals go through: unlike a number, it is never another process's."""
    try:
        return None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        return None


class Sandboxed:
    """A process in a sandbox.  Its lines are handed out once: somebody has to take them."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        pid: int | None,
        environment: Mapping[str, str],
        ports: Mapping[int, int],
    ) -> None:
        self._process, self._pid = process, pid
        self._handle = _handle(pid)
        self._environment, self._ports = environment, ports

    def exec(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command inside and return its exit code and output."""
        nsenter = find("nsenter", "install util-linux")
        into = ("--user", "--mount", "--pid", "--ipc", "--uts", "--preserve-credentials")
        done = subprocess.run(
            [nsenter, "--target", str(self._pid), *into, "--", *argv],
            env=dict(self._environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def signal(self, name: str) -> None:
        """Send a signal such as `SIGTERM` to process 1."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                signal.pidfd_send_signal(self._handle, signal.Signals[name])

    def logs(self) -> Iterator[str]:
        """Yield lines of its output until it ends."""
        for line in self._process.stdout or ():
            yield line.decode(errors="replace").rstrip("\r\n")

    def wait(self, seconds: float) -> int:
        """Return its exit code, or raise TimeoutError."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as fault:
            message = f"the sandbox still runs after {seconds:g} s"
            raise TimeoutError(message) from fault
        return code if code >= 0 else _BY_SIGNAL - code

    def port(self, port: int) -> int:
        """Return the port on this machine: the same, the network is shared."""
        return self._ports.get(port, port)

    def remove(self) -> None:
        """End it."""
        self.signal("SIGKILL")
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
