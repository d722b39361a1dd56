"""What is pinned, and why it is that: from the lock, else from what the catalogue expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import catalogue
from builder.rules.floor import image_floor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.lock import Lock
    from builder.rules import Subject

_SHORT = 12
"""Characters of a digest or commit that people compare."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One thing held at an exact version, or, without a lock, expected at one."""

    what: str
    why: str


def pins(subject: Subject) -> tuple[Pin, ...]:
    """Return the pins that everything else follows from."""
    return tuple(_pins(subject))


def _pins(subject: Subject) -> Iterator[Pin]:
    stack, lock = subject.stack, subject.lock
    distribution = catalogue.engine(stack.engine.name).distribution
    yield Pin(f"{distribution} {stack.engine.version}", "engine.version")
    yield from _torch(subject)
    yield from _cuda(subject)
    if lock is not None:
        yield from _base(lock)
        yield from _wheels(lock)
    elif subject.python and stack.base:
        yield Pin(f"Python {subject.python}", f"that of Debian {stack.base.debian}")
    yield from _model(subject)
    if lock is not None:
        launcher = lock.pins.launcher[:_SHORT]
        yield Pin(f"launcher {launcher}, packer {lock.pins.packer}", "this builder's own")


def _torch(subject: Subject) -> Iterator[Pin]:
    wheels = subject.lock.wheels if subject.lock else ()
    locked = next((wheel.version for wheel in wheels if wheel.name == "torch"), None)
    version = locked or (subject.release.torch if subject.release else None)
    if version:
        yield Pin(f"torch {version}", f"the one version that {subject.engine} asks for")


def _cuda(subject: Subject) -> Iterator[Pin]:
    locked = subject.lock.gpu if subject.lock else None
    cuda = locked.cuda if locked else subject.torch.cuda if subject.torch else None
    if cuda:
        own = subject.release.cuda if subject.release else cuda
        more = "" if own == cuda else f"; {subject.engine} itself is compiled with {own}"
        yield Pin(f"CUDA {cuda}", f"torch's wheel brings it{more}")
    if cuda and subject.gpu:
        floor = image_floor(subject.version, cuda, subject.gpu)
        driver = locked.driver if locked else floor.driver
        yield Pin(f"driver >= {driver}", floor.reason)


def _base(lock: Lock) -> Iterator[Pin]:
    base = lock.base
    released = max(suite.released for suite in base.suites)
    suites = ", ".join(suite.name for suite in base.suites)
    count = len(base.packages)
    yield Pin(f"Python {base.python}", f"that of Debian {base.debian}")
    yield Pin(f"{count} Debian packages", f"{suites} as released on {released:%Y-%m-%d}")


def _wheels(lock: Lock) -> Iterator[Pin]:
    as_of = lock.stack.get("resolve", {}).get("as_of")
    day = f"the index as of {as_of}" if as_of else "the index as of the day of the lock"
    target = f"for CPython {lock.base.python_series} and glibc {lock.base.glibc}"
    yield Pin(f"{len(lock.wheels)} wheels", f"{day}, {target}")


def _model(subject: Subject) -> Iterator[Pin]:
    asked = subject.stack.model
    locked = subject.lock.models[0] if subject.lock else None
    if asked.repo is None:
        yield Pin(f"model {asked.path}", "model.path")
    elif locked is not None and locked.commit:
        date = f" of {locked.committed:%Y-%m-%d}" if locked.committed else ""
        yield Pin(f"{asked.repo} {locked.commit[:_SHORT]}", f"{asked.revision}{date}")
    else:
        yield Pin(f"{asked.repo} {asked.revision}", "model.revision, not locked yet")
