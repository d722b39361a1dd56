"""Typed reading of a decoded JSON object that goes on after a fault, so that all are reported."""

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

_MAX_PORT = 65535
_MAX_SECONDS = 7 * 24 * 3600


class Fields:
    """One object: each method returns the value, or notes a fault and returns a stand-in.

    Types are compared exactly: JSON's true and false would pass for ints in Python.
    """

    def __init__(self, values: Mapping[str, object], place: str, faults: list[str]) -> None:
        """Read `values`, found at the dotted `place`; add what is wrong to `faults`."""
        self._values = values
        self._place = place
        self._faults = faults

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self._values.get(name)
        if isinstance(value, str) and value:
            return value
        return self._wrong(name, "a string that is not empty", "?")

    def path(self, name: str) -> str:
        """The path of a URL."""
        value = self.text(name)
        return value if value.startswith(("/", "?")) else self._wrong(name, "a path from `/`", "/")

    def texts(self, name: str, at_least: int = 0) -> tuple[str, ...]:
        """A list of strings."""
        value = self._values.get(name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            if len(value) >= at_least:
                return tuple(value)
            return self._wrong(name, f"a list of at least {at_least} strings", ("?",))
        return self._wrong(name, "a list of strings", ("?",))

    def paths(self, name: str) -> tuple[str, ...]:
        """A list of paths of URLs."""
        values = self.texts(name)
        if all(value.startswith(("/", "?")) for value in values):
            return values
        return self._wrong(name, "a list of paths from `/`", ())

    def whole(self, name: str, low: int = 0, high: int | None = None) -> int:
        """A whole number within bounds, both included."""
        value = self._values.get(name)
        if type(value) is int and low <= value and (high is None or value <= high):
            return value
        bounds = f"from {low}" if high is None else f"from {low} to {high}"
        return self._wrong(name, f"a whole number {bounds}", low)

    def port(self, name: str) -> int:
        """A TCP port."""
        return self.whole(name, low=1, high=_MAX_PORT)

    def seconds(self, name: str, *, above_zero: bool = False) -> float:
        """A time in seconds, at most a week."""
        wanted = f"a number of seconds {'above' if above_zero else 'from'} 0"
        value = self._values.get(name)
        seconds = value if type(value) is int or type(value) is float else -1
        if 0 <= seconds <= _MAX_SECONDS and (seconds or not above_zero):
            return float(seconds)
        return self._wrong(name, wanted, 1.0)

    def version(self, name: str) -> str:
        """A dotted version, as text."""
        self.numbers(name)
        return self.text(name)

    def numbers(self, name: str, parts: int | None = None) -> tuple[int, ...]:
        """A dotted version, as numbers."""
        value = self._values.get(name)
        pieces = value.split(".") if isinstance(value, str) else []
        right = len(pieces) == parts if parts else bool(pieces)
        if right and all(piece.isascii() and piece.isdigit() for piece in pieces):
            return tuple(int(piece) for piece in pieces)
        example = "9.0" if parts else "580.65.06"
        return self._wrong(name, f'a version like "{example}"', (0,) * (parts or 1))

    def section(self, name: str) -> "Fields":
        """An object within this one."""
        value = self._values.get(name)
        if isinstance(value, dict):
            return Fields(value, f"{self._place}.{name}", self._faults)
        # One fault for the section is enough: what is inside it is not judged.
        return Fields({}, name, self._wrong(name, "an object", []))

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        """What `read` finds, or None where the object says null; a missing name is a fault."""
        if name in self._values and self._values[name] is None:
            return None
        return read(name)

    def refuse_unknown(self, *known: str) -> None:
        """Note every name that is not among `known`."""
        for name in sorted(set(self._values) - set(known)):
            self._faults.append(f"{self._place}.{name}: is not known here")

    def _wrong(self, name: str, wanted: str, stand_in: T) -> T:
        got = json.dumps(self._values[name]) if name in self._values else "nothing"
        self._faults.append(f"{self._place}.{name}: must be {wanted}, got {got}")
        return stand_in
