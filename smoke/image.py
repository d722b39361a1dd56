"""The image under test: what the engine says of it, and what the lock says of it."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.lock import Lock


@dataclass(frozen=True)
class Image:
    """What every check starts from."""

    reference: str
    attributes: dict[str, Any]
    """As `docker image inspect` shows it."""
    history: list[dict[str, Any]]
    lock: Lock | None

    @property
    def config(self) -> dict[str, Any]:
        """How containers of it run."""
        config: dict[str, Any] = self.attributes["Config"]
        return config

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """Its variables."""
        return dict(entry.split("=", 1) for entry in self.config.get("Env") or [])

    @functools.cached_property
    def serve(self) -> dict[str, Any]:
        """What the launcher is told."""
        values: dict[str, Any] = json.loads(self.environment["BUILDER_SERVE"])
        return values

    @property
    def needs_gpu(self) -> bool:
        """Whether it is for NVIDIA GPUs."""
        return "NVIDIA_VISIBLE_DEVICES" in self.environment

    @property
    def user(self) -> int:
        """UID of its own user."""
        return int(self.config["User"].split(":")[0])


def narrowed(lock: Lock, image: Image) -> Lock:
    """Return what a lock for several GPUs says of the one that the image is for.

    Raises:
        LookupError: the lock is not for that GPU.
    """
    gpu = image.serve["require"]["gpu"] if lock.cells else None
    if gpu is None:
        return lock
    if gpu not in {cell.name for cell in lock.cells}:
        message = f"the image is for {gpu}, and the lock is not"
        raise LookupError(message)
    return lock.cell(gpu)
