"""Run an image for a person: which engine and ports, what command line, where it answers."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from builder import console
from builder.engine import bubblewrap, follow, ports, rootfs, sandbox
from builder.engine.protocol import Container, Mount
from builder.errors import BuilderError, HostError, UsageError
from builder.recipe.config import SERVE_VARIABLE
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.engine.docker import Docker
    from builder.engine.protocol import Running
    from builder.oci.image import Image

EngineName = Literal["docker", "sandbox"]

_PROBE_PORT_VARIABLE = "BUILDER_PROBE_PORT"
_BARE = ("--", "healthcheck")
"""First words after which the launcher does not start the engine."""
_BEYOND_DRAIN = 15
"""Seconds that a stop may take after the drain, see docs/launcher.md."""
_VOLUME_DIGITS = 16
_SHARED_MEMORY = GIB
"""What Docker may use for /dev/shm; a limit that costs nothing, and engines vary."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    engine: EngineName | None = None
    port: int | None = None
    """On this machine; None: the stack's."""
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Serve:
    """What the image says of itself."""

    model: str
    port: int
    probe_port: int
    drain: float
    gpus: int
    shm_bytes: int


@dataclass(frozen=True)
class Session:
    """A run that is ready to begin."""

    argv: tuple[str, ...]
    """The command line that does the same."""
    url: str
    model: str
    begin: Callable[[], Running]
    probe_port: Callable[[Running], int]

    @property
    def command(self) -> str:
        """The command line as a shell takes it."""
        return shlex.join(self.argv)

    def run(self) -> int:
        """Start it, stay until it ends, and return its exit code."""
        running = self.begin()

        def is_ready() -> bool:
            try:
                return follow.answers(self.probe_port(running))
            except BuilderError:  # it has ended: that is told elsewhere
                return False

        def announce() -> None:
            console.emit(f"{self.url} (model {self.model})")

        return follow.follow(running, is_ready, announce)


def of_image(image: Image, options: Options, cache: Path) -> Session:
    """Return the run of an image of the store.

    Raises:
        HostError: the engine that was asked for is not here, or the port is taken.
    """
    serve = serve_of(json.loads(image.config)["config"], image.name)
    port = _port(serve, options)
    if options.engine == "docker" or (options.engine is None and _has_docker()):
        volume = rootfs.key_of(image)[:_VOLUME_DIGITS]
        container = _for_docker(image.name, serve, options, volume)
        return _docker_session(container, serve, port, lambda docker: _load(docker, image))
    return _sandbox_session(image, serve, options, cache)


def of_reference(reference: str, options: Options) -> Session:
    """Return the run of an image that Docker has or can pull.

    Raises:
        UsageError: the sandbox was asked for, or the image is none of ours.
    """
    if options.engine == "sandbox":
        message = f"{reference}: the sandbox runs what was built here, and this is no stack file"
        raise UsageError(message, "name the stack: builder run STACK --engine sandbox")
    docker = _docker()
    identity = docker.bring(reference)
    config = docker.client.images.get(identity).attrs["Config"]
    serve = serve_of(config, reference)
    volume = identity.removeprefix("sha256:")[:_VOLUME_DIGITS]
    container = _for_docker(reference, serve, options, volume)
    return _docker_session(container, serve, _port(serve, options), lambda _: None)


def serve_of(config: Mapping[str, Any], name: str) -> Serve:
    """Read what the launcher of an image is told.

    Raises:
        UsageError: it has no launcher of ours.
    """
    pairs = dict(text.partition("=")[::2] for text in config.get("Env") or ())
    if SERVE_VARIABLE not in pairs:
        message = f"{name}: was not made by builder: it has no {SERVE_VARIABLE}"
        raise UsageError(message, f"docker run {name}")
    told = json.loads(pairs[SERVE_VARIABLE])
    return Serve(
        model=told["model"],
        port=told["port"],
        probe_port=told["probe_port"],
        drain=told["drain"],
        gpus=told["require"]["gpus"],
        shm_bytes=told["require"]["shm_bytes"],
    )


def _port(serve: Serve, options: Options) -> int:
    """Return the port of this machine, which has to be free."""
    if any(word.partition("=")[0] == "--port" for word in options.arguments):
        message = "--port: belongs before `--`"
        raise UsageError(message, "builder run STACK --port N")
    port = options.port or serve.port
    ports.refuse_taken(port)
    return port


# --- Docker -------------------------------------------------------------------------------------


def _docker() -> Docker:
    from builder.engine.docker import Docker

    try:
        return Docker.connect()
    except HostError as fault:
        hint = "start Docker, or run a stack in a sandbox: builder run STACK --engine sandbox"
        raise HostError(fault.message, hint) from fault


def _has_docker() -> bool:
    try:
        _docker().client.close()
    except HostError as fault:
        console.note(f"{fault.message}: using a sandbox")
        return False
    return True


def _load(docker: Docker, image: Image) -> None:
    """Bring an image into the engine unless it has it."""
    from docker.errors import ImageNotFound

    from builder.digest import of_bytes
    from builder.oci import layout

    try:
        # The containerd store names images by manifest, the classic one by config.
        if docker.client.images.get(image.name).id in (image.digest, of_bytes(image.config)):
            return
    except ImageNotFound:
        pass
    with console.step(f"loaded {image.name}"), console.progress("load", image.size) as bar:
        docker.load(layout.archive_chunks(image), bar.advance)


def _for_docker(image: str, serve: Serve, options: Options, volume: str) -> Container:
    return Container(
        image=image,
        arguments=options.arguments,
        is_read_only=True,
        mounts=(Mount("/tmp"), Mount("/cache", f"builder-cache-{volume}")),  # noqa: S108 - inside
        ports={serve.port: options.port or serve.port, serve.probe_port: 0},
        shared_memory=max(serve.shm_bytes, _SHARED_MEMORY),
        gpus=serve.gpus,
    )


def _docker_session(
    container: Container, serve: Serve, port: int, load: Callable[[Docker], object]
) -> Session:
    def begin() -> Running:
        docker = _docker()
        load(docker)
        return docker.start(container)

    return Session(
        argv=tuple(docker_argv(container, round(serve.drain) + _BEYOND_DRAIN)),
        url=_url(port),
        model=serve.model,
        begin=begin,
        probe_port=lambda running: running.port(serve.probe_port),
    )


def docker_argv(container: Container, stop_timeout: int) -> list[str]:
    """Return the command line that starts `container`."""
    argv = ["docker", "run", "--rm", "--read-only", "--stop-timeout", str(stop_timeout)]
    for mount in container.mounts:
        named = ["-v", f"{mount.source}:{mount.target}"]
        argv += named if mount.source else ["--tmpfs", f"{mount.target}:exec,mode=1777"]
    for inner, outer in container.ports.items():
        argv += ["-p", f"127.0.0.1:{outer or ''}:{inner}"]
    if container.shared_memory:
        argv += ["--shm-size", str(container.shared_memory)]
    if container.gpus:
        argv += ["--gpus", str(container.gpus)]
    return [*argv, container.image, *container.arguments]


# --- the sandbox --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listening:
    """Where a sandbox listens: the network is this machine's."""

    port: int
    probe: int


def _sandbox_session(image: Image, serve: Serve, options: Options, cache: Path) -> Session:
    sandbox.refuse_gpus(serve.gpus)
    port = options.port or serve.port
    ports.refuse_forbidden(port)
    probe = ports.free(serve.probe_port, port)
    folder = sandbox.cache_of(image, cache)
    container = _for_sandbox(image, folder, options.arguments, Listening(port, probe))

    def begin() -> Running:
        runner = sandbox.Sandbox(bubblewrap.find(cache), cache)
        runner.add(image)
        return runner.start(container)

    return Session(
        argv=(bubblewrap.PROGRAM, *sandbox.options(sandbox.prepared(image, cache), container)),
        url=_url(port),
        model=serve.model,
        begin=begin,
        probe_port=lambda _: probe,
    )


def _for_sandbox(image: Image, folder: Path, arguments: Sequence[str], at: Listening) -> Container:
    # The network is this machine's: nobody else should reach what has no password.
    listening = ("--host", "127.0.0.1", "--port", str(at.port))
    is_served = tuple(arguments[:1]) not in {(word,) for word in _BARE}
    return Container(
        image=image.digest,
        arguments=(*(listening if is_served else ()), *arguments),
        environment={_PROBE_PORT_VARIABLE: str(at.probe)},
        is_read_only=True,
        mounts=(Mount("/tmp"), Mount("/cache", str(folder.absolute()))),  # noqa: S108 - inside
        ports={at.port: at.port, at.probe: at.probe},
    )


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"
