"""Read a stack file; every fault in it is reported at once, with its line and a remedy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from builder.errors import StackError
from builder.stack import document as yaml
from builder.stack.model import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_MOST_BYTES = 2**20


def load(path: Path) -> Stack:
    """Return the stack in the file at `path`, or raise one StackError with all its faults."""
    return load_with_lines(path)[0]


def load_with_lines(path: Path) -> tuple[Stack, Callable[[str], int]]:
    """Return also where a field such as `target.gpu` stands: its line, or that of what is around.

    Raises:
        StackError: with all faults of the file.
    """
    text = _read(path)
    try:
        document = yaml.parse(text)
    except yaml.NotYamlError as error:
        raise _error(path, [error.fault]) from error
    return _validated(document, path), lambda field: document.line(_written(field, document))


def _written(field: str, document: yaml.Document) -> yaml.Path:
    """Return the path of a dotted field as it is written: flags with dashes or underscores."""
    path: yaml.Path = ()
    for step in field.split(".", 2):
        near = [p for p in document.spots if len(p) == len(path) + 1 and p[: len(path)] == path]
        same = (p for p in near if str(p[-1]).replace("_", "-") == step.replace("_", "-"))
        path = next(same, (*path, step))
    return path


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"{path}: cannot be read: {reason}"
        raise StackError(message) from error
    if len(data) > _MOST_BYTES:
        message = f"{path}: larger than 1 MiB"
        raise StackError(message, "name the stack file: a stack has a few dozen lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: not UTF-8"
        raise StackError(message, "save the file as UTF-8") from error


def _validated(document: yaml.Document, path: Path) -> Stack:
    from builder.stack import checks, words

    found = list(checks.check(document, path))
    stack = None
    try:
        # By way of JSON: only there may strict types read a date or a tuple from plain values.
        stack = Stack.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        found += words.faults(error, document)
    faults = [*document.faults, *_one_each(found)]
    if faults or stack is None:
        raise _error(path, _in_order(faults, document))
    return stack


def _one_each(found: Iterable[yaml.Fault]) -> list[yaml.Fault]:
    """Keep the first fault of every place: a check knows more than a type."""
    kept: dict[object, yaml.Fault] = {}
    for fault in found:
        kept.setdefault(fault.path + ((fault.text,) if "unknown key" in fault.text else ()), fault)
    return list(kept.values())


def _in_order(faults: list[yaml.Fault], document: yaml.Document) -> list[yaml.Fault]:
    """Sort as the file reads; within a line what is missing comes last."""
    places = {path: index for index, path in enumerate(document.spots)}
    last = len(places)
    return sorted(faults, key=lambda fault: (fault.line, places.get(fault.path, last)))


def _error(path: Path, faults: list[yaml.Fault]) -> StackError:
    if len(faults) == 1:
        return StackError(_line(path, faults[0]), faults[0].hint)
    lines = [f"{path}: {len(faults)} faults"]
    for fault in faults:
        lines.append(f"  {_line(path, fault)}")
        if fault.hint:
            lines.append("    hint: " + fault.hint.replace("\n", "\n          "))
    return StackError("\n".join(lines))


def _line(path: Path, fault: yaml.Fault) -> str:
    place = [f"{path}:{fault.line}", _dotted(fault.path), fault.text]
    return ": ".join(part for part in place if part)


def _dotted(path: yaml.Path) -> str:
    """`target.gpu[1]`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    whole = "".join(steps).removeprefix(".")
    return "".join(c if c.isprintable() else " " for c in whole)
