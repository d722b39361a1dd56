"""The GPU code in wheels against what a lock says of it."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from builder import catalogue, console
from builder import lock as locks
from builder.errors import IntegrityError
from builder.oci import lanes
from builder.process import cpus
from builder.sources import cubins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from builder.lock import Code, Lock, Wheel
    from builder.sources.cubins import CodeMemo, Object


def concerns(lock: Lock) -> bool:
    """Tell whether the engine of a lock runs on GPUs, so that their code matters."""
    return catalogue.engine(lock.engine.name).accelerator == "cuda"


def unknown(lock: Lock, memo: CodeMemo) -> frozenset[str]:
    """Return the sha256 of the wheels whose code neither the lock nor the memo tells."""
    return frozenset(
        wheel.sha256
        for wheel in lock.wheels
        if wheel.name not in lock.code and memo.recall(wheel.sha256) is None
    )


def examine(lock: Lock, places: Mapping[str, Path], memo: CodeMemo) -> Lock:
    """Compare what wheels carry with what the lock says; return it with what it did not say.

    Wheels lie in `places`, by sha256; those that do not, and were not read before, are left out.

    Raises:
        IntegrityError: a wheel carries other code than the lock says, or cannot be read.
    """
    objects = _read(lock, places, memo)
    found = {
        wheel: cubins.decided(wheel.name, objects[wheel.sha256])
        for wheel in lock.wheels
        if wheel.sha256 in objects
    }
    faults = [
        (wheel, lock.code[wheel.name], code)
        for wheel, code in found.items()
        if wheel.name in lock.code and not _agree(lock.code[wheel.name], code)
    ]
    if faults:
        raise _wrong(faults)
    return locks.with_code(lock, {wheel.name: code for wheel, code in found.items() if code})


def _read(lock: Lock, places: Mapping[str, Path], memo: CodeMemo) -> dict[str, tuple[Object, ...]]:
    """Return the objects of each wheel by its sha256; large wheels are read first."""
    recalled = {wheel.sha256: memo.recall(wheel.sha256) for wheel in lock.wheels}
    known = {sha256: objects for sha256, objects in recalled.items() if objects is not None}
    fresh = [wheel for wheel in lock.wheels if wheel.sha256 in places and wheel.sha256 not in known]
    stop, total = Event(), sum(wheel.size for wheel in fresh)
    with console.progress(f"read GPU code of {len(fresh)} wheels", total) as bar:

        def advance(count: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            bar.advance(count)

        def read(wheel: Wheel) -> tuple[Object, ...]:
            objects = _objects(wheel, places[wheel.sha256], advance)
            memo.remember(wheel.sha256, objects)
            return objects

        fresh.sort(key=lambda wheel: -wheel.size)
        made = lanes.side_by_side(read, fresh, cpus(), stop)
    return known | {wheel.sha256: each for wheel, each in zip(fresh, made, strict=True)}


def _objects(wheel: Wheel, path: Path, advance: Callable[[int], None]) -> tuple[Object, ...]:
    try:
        with path.open("rb") as file:
            return cubins.read(_Counted(file, advance))  # type: ignore[arg-type]
    except (OSError, *cubins.UNREADABLE) as fault:
        message = f"{wheel.file}: cannot be read: {fault}"
        raise IntegrityError(message, f"remove {path}, then run builder fetch") from fault


class _Counted:
    """A file whose reader hears how far it came."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._advance(len(data))
        return data


def _agree(listed: Code, found: Code | None) -> bool:
    return found is not None and (listed.architectures, listed.ptx) == (
        found.architectures,
        found.ptx,
    )


def _wrong(faults: Sequence[tuple[Wheel, Code, Code | None]]) -> IntegrityError:
    """Say of each wheel what the lock says and what is inside."""
    lines = [
        f"{wheel.file}: GPU code: expected {_told(listed)} as the lock says, got {_told(found)}"
        for wheel, listed, found in faults
    ]
    wheel, listed, _ = faults[0]
    hint = f"run builder lock -P {wheel.name} with the stack, then builder fetch"
    if listed.origin == "catalogue":
        hint = "the catalogue that the lock was made from is wrong: lock again with a newer builder"
    return IntegrityError("\n".join(lines), hint)


def _told(code: Code | None) -> str:
    return cubins.spelt(code.architectures, code.ptx) if code else "none"
