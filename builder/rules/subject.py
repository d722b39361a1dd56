"""One cell of a stack and every fact about it that rules read.

Facts are looked up once and only where they are asked for: a search judges hundreds of cells.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from builder import catalogue
from builder.catalogue.cards import card
from builder.catalogue.code import carrier
from builder.catalogue.releases import known_release, torch_releases
from builder.rules.change import Move, changed
from builder.rules.model import ModelFacts, of_card
from builder.stack import NO_GPU
from builder.stack.arguments import on_the_line

if TYPE_CHECKING:
    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release, TorchRelease
    from builder.lock import Lock
    from builder.stack import Stack

_LOCKED = ("engine", "base", "runtime", "resolve")
"""What a lock no longer describes once one of them changes."""


@dataclass(frozen=True)
class Subject:
    """A stack on one of its GPUs."""

    stack: Stack
    """`target.gpu` is one name."""
    model: ModelFacts | None = None
    """None: nobody knows the model here."""
    lock: Lock | None = None
    """The lock of this stack, narrowed to this GPU; None where there is none that is current."""
    drift: tuple[str, ...] = ()
    """How a lock that is not current differs from the stack."""

    @cached_property
    def gpu(self) -> Gpu | None:
        """The GPU; None for a stack on the CPU."""
        name = self.stack.target.gpu
        return None if name == NO_GPU else catalogue.gpu(str(name))

    @property
    def count(self) -> int:
        """GPUs in one container."""
        return self.stack.target.count

    @property
    def version(self) -> str:
        """The engine's version, without a local part."""
        return self.stack.engine.version.partition("+")[0]

    @property
    def engine(self) -> str:
        """The engine and its version, in words."""
        return f"vLLM {self.version}"

    @cached_property
    def release(self) -> Release | None:
        """What the catalogue knows of the engine's release; None for an unknown one."""
        return known_release(self.version) if self.is_cuda else None

    @property
    def is_cuda(self) -> bool:
        """Whether the engine is the one for NVIDIA GPUs."""
        return catalogue.engine(self.stack.engine.name).accelerator == "cuda"

    @cached_property
    def torch(self) -> TorchRelease | None:
        """The torch that the release asks for."""
        return torch_releases().get(self.release.torch) if self.release else None

    @cached_property
    def python(self) -> str | None:
        """The suite's Python, such as `3.11`; None where the base is an image."""
        base = self.stack.base
        return catalogue.debian(base.debian).python if base and base.debian else None

    @cached_property
    def glibc(self) -> str | None:
        """The suite's glibc; None where the base is an image."""
        base = self.stack.base
        return catalogue.debian(base.debian).glibc if base and base.debian else None

    @cached_property
    def args(self) -> dict[str, Any]:
        """`serve.args` by flag, dashes for underscores, without those that are left out."""
        return on_the_line(self.stack.serve.args)

    def number(self, flag: str, default: int) -> int:
        """Return the number above zero that a flag gives; others are another rule's business."""
        value = self.args.get(flag, default)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return int(value) if is_number else default

    def mapping(self, flag: str) -> dict[str, Any]:
        """Return what a flag of JSON says, empty where it says nothing or is no JSON object."""
        value = self.args.get(flag)
        if isinstance(value, str):
            with suppress(ValueError):
                value = json.loads(value)
        return value if isinstance(value, dict) else {}

    @property
    def context(self) -> int:
        """Tokens of the longest request; 0 where neither stack nor model says."""
        own = self.model.shape.max_positions if self.model else None
        return self.stack.serve.max_model_len or own or 0

    @property
    def tensor(self) -> int:
        """GPUs that share each layer: what the flag says, else all (see `builder.recipe`)."""
        return self.number("tensor-parallel-size", self.count)

    @property
    def pipeline(self) -> int:
        """Groups of GPUs that have different layers."""
        return self.number("pipeline-parallel-size", 1)

    @property
    def data(self) -> int:
        """Copies of the model."""
        return self.number("data-parallel-size", 1)

    def locked_code(self, distribution: str) -> tuple[str, ...] | None:
        """Return which GPU code the lock says a wheel has; None where it says nothing."""
        code = self.lock.code.get(distribution) if self.lock else None
        return code.architectures if code else None

    @property
    def carriers(self) -> tuple[str, ...]:
        """Locked distributions that are known to carry GPU code."""
        wheels = self.lock.wheels if self.lock else ()
        rows = ((wheel.name, carrier(wheel.name)) for wheel in wheels)
        return tuple(name for name, row in rows if row and row.decides)

    def after(self, move: Move) -> Subject:
        """Return the subject after a move; facts that the move leaves true are kept."""
        stack = changed(self.stack, move)
        places = {change.place for change in move}
        model, lock = self.model, self.lock
        if "model.repo" in places and stack.model.repo is not None:
            model, lock = of_repo(stack.model.repo), None
        if any(place.split(".")[0] in _LOCKED for place in places):
            lock = None
        return replace(self, stack=stack, model=model, lock=lock)


def of_repo(repo: str) -> ModelFacts | None:
    """Return what the catalogue's card says of a repository, None where there is none."""
    known = card(repo)
    return of_card(known, repo) if known else None
