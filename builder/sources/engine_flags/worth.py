"""Values that are no plain Python ones: types, calls that were not followed, the unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from builder.sources.engine_flags.code import External

UNKNOWN = External("?")
"""What only a running engine knows."""


@dataclass(frozen=True)
class Generic:
    """A type with arguments: `Literal["a"]`, `list[int]`, `Union[int, None]`."""

    name: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Applied:
    """A call that was not followed: `optional_type(int)`, `Field(default=1)`."""

    name: str
    given: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Member:
    """A member of an enumeration."""

    name: str
    value: Any
