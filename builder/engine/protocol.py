"""What is asked of something that runs containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


@dataclass(frozen=True)
class Mount:
    """A writable place in a container."""

    target: str
    """Absolute path in the container."""
    source: str | None = None
    """Name of a volume or path on this machine; None for memory that ends with the container."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """How to start one."""

    image: str
    """Reference or digest that the engine knows."""
    arguments: Sequence[str] = ()
    """Appended to the entry point."""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """`UID:GID` instead of the image's."""
    is_read_only: bool = False
    """Whether the root file system can be written."""
    has_network: bool = True
    mounts: Sequence[Mount] = ()
    ports: Mapping[int, int] = field(default_factory=dict)
    """Port in the container → port on this machine; 0 chooses a free one."""
    shared_memory: int | None = None
    """Bytes of /dev/shm."""
    gpus: int = 0


class Running(Protocol):
    """A container that was started."""

    def exec(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command inside and return its exit code and output."""

    def signal(self, name: str) -> None:
        """Send a signal such as `SIGTERM` to process 1."""

    def logs(self) -> Iterator[str]:
        """Yield lines of its output, from the first, until it ends."""

    def wait(self, seconds: float) -> int:
        """Return its exit code, or raise TimeoutError."""

    def port(self, port: int) -> int:
        """Return the port on this machine that a port of the container has."""

    def remove(self) -> None:
        """End and remove it."""


class Engine(Protocol):
    """Something that runs containers."""

    def load(self, chunks: Iterator[bytes], advance: Callable[[int], object]) -> None:
        """Take an image as an archive of an OCI layout."""

    def start(self, container: Container) -> Running:
        """Start a container."""
