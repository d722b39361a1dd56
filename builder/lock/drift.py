"""What differs between a stack and its lock: named differences, old → new.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.lock.schema import Code, Lock, Pins

_ABSENT = "not set"


@dataclass(frozen=True)
class Drift:
    """One difference."""

    field: str
    """Dotted path, such as `engine.cuda`."""
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


def drift(lock: Lock, wanted: Mapping[str, Any], pins: Pins) -> tuple[Drift, ...]:
    """Return how `wanted`, the canonical stack, and this builder differ from `lock`.

    Stale means that the stack or the builder changed; that upstream moved is no drift.
    """
    found = list(_differences("", lock.stack, wanted))
    if lock.pins.packer != pins.packer:
        found.append(Drift("packer", str(lock.pins.packer), str(pins.packer)))
    if lock.pins.launcher != pins.launcher:
        found.append(Drift("launcher", lock.pins.launcher[:12], pins.launcher[:12]))
    return tuple(found)


def _differences(path: str, old: Any, new: Any) -> Iterator[Drift]:
    if _is_table(old) and _is_table(new) and (old or new):
        then, now = old or {}, new or {}
        for key in sorted(then.keys() | now.keys()):
            here = f"{path}.{key}" if path else str(key)
            yield from _differences(here, then.get(key), now.get(key))
    elif _typed(old) != _typed(new):
        before, after = _shown(old), _shown(new)
        yield Drift(path, before, after) if before != after else Drift(path, repr(old), repr(new))


def _is_table(value: Any) -> bool:
    """Tell whether a value is a table; one that is absent may have been one."""
    return value is None or isinstance(value, Mapping)


def _typed(value: Any) -> Any:
    """Keep `true` apart from `1`, which Python holds to be equal."""
    if isinstance(value, list | tuple):
        return [_typed(item) for item in value]
    return (isinstance(value, bool), value)


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if value == "" else str(value)


def changes(old: Lock | None, new: Lock) -> tuple[str, ...]:
    """Return every pin that moved between two locks, as `name: old -> new`."""
    if old is None:
        return ()
    before, after = _pins(old), _pins(new)
    names = sorted(before.keys() | after.keys())
    return tuple(
        str(Drift(name, before.get(name, "not there"), after.get(name, "left out")))
        for name in names
        if before.get(name) != after.get(name)
    )


def _pins(lock: Lock) -> dict[str, str]:
    """Name every pin; where two builds of one version differ, the digest tells."""
    pins = {f"cell {cell.name}": f"CUDA {cell.cuda}, driver {cell.driver}" for cell in lock.cells}
    pins |= {wheel.name: f"{wheel.version} ({wheel.sha256[:8]})" for wheel in lock.wheels}
    pins |= {f"debian {p.name}": f"{p.version} ({p.sha256[:8]})" for p in lock.base.packages}
    pins |= {f"GPU code of {name}": _code(code) for name, code in lock.code.items()}
    for model in lock.models:
        pins |= {f"model {file.path}": file.sha256[:12] for file in model.files}
        if model.commit:
            pins["model commit"] = model.commit[:12]
    return pins | {"launcher": lock.pins.launcher[:12], "packer": str(lock.pins.packer)}


def _code(code: Code) -> str:
    return " ".join((*code.architectures, *(f"ptx{name}" for name in code.ptx)))
