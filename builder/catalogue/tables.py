"""Read the tables beside this file into frozen values, strictly.

A key that a value does not have, a key that is missing, or a value of another kind is a fault of
the table: it is reported with file and row, never passed over.
"""

from __future__ import annotations

import datetime
import tomllib
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as hints_of

from builder.catalogue.nearest import nearest
from builder.errors import BuilderError, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping

_Row = TypeVar("_Row")
_PLAIN = (str, int, float, bool, datetime.date)


@lru_cache
def table(name: str) -> dict[str, Any]:
    """Return a table as TOML reads it."""
    path = Path(__file__).with_name(f"{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def named(kind: type[_Row], name: str, among: Mapping[str, Any] | None = None) -> dict[str, _Row]:
    """Read a table of tables, `[key]` by `[key]`, into values that hold their key as `name`."""
    rows = table(name) if among is None else among
    return {
        key: read(kind, {"name": key, **row}, f"{name}.toml: {key}") for key, row in rows.items()
    }


def listed(kind: type[_Row], name: str, key: str) -> tuple[_Row, ...]:
    """Read a list of tables, `[[key]]` by `[[key]]`."""
    rows = enumerate(table(name)[key], 1)
    return tuple(read(kind, row, f"{name}.toml: {key} {number}") for number, row in rows)


def read(kind: type[_Row], row: Mapping[str, Any], place: str) -> _Row:
    """Make a value of the dataclass `kind` from a row.

    Raises:
        BuilderError: the row does not fit.
    """
    types_of = _types(cast("Any", kind))
    if strange := sorted(row.keys() - types_of.keys()):
        raise _fault(place, f"unknown key `{strange[0]}`")
    needed = {
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING
    }
    if missing := sorted(needed - row.keys()):
        raise _fault(place, f"missing key `{missing[0]}`")
    return kind(**{key: _value(types_of[key], row[key], f"{place}: {key}") for key in row})


def pick(kind: str, rows: Mapping[str, _Row], name: str, similar: tuple[str, ...] = ()) -> _Row:
    """Return a row by its name, or say which names there are."""
    if name in rows:
        return rows[name]
    near = similar or nearest(name, {known: (known,) for known in rows}) or tuple(rows)
    message = f"unknown {kind} `{name}`"
    raise StackError(message, "known: " + ", ".join(near))


@lru_cache
def _types(kind: Any) -> dict[str, Any]:
    known = hints_of(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _value(wanted: Any, value: Any, place: str) -> Any:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):  # `X | None`: TOML has no null
        return _value(next(part for part in parts if part is not type(None)), value, place)
    if origin is Literal:
        return _word(parts, value, place)
    if origin is tuple:
        items = _of(list, value, place)
        return tuple(_value(parts[0], item, f"{place} {n}") for n, item in enumerate(items, 1))
    if origin is dict:
        rows = _of(dict, value, place)
        return {key: _value(parts[1], item, f"{place}.{key}") for key, item in rows.items()}
    if is_dataclass(wanted):
        return read(cast("type[Any]", wanted), _of(dict, value, place), place)
    if wanted not in _PLAIN:
        message = f"{place}: values of {wanted} cannot be read"
        raise TypeError(message)
    return _of(wanted, value, place)


def _of(wanted: type[_Row], value: Any, place: str) -> _Row:
    if wanted is float and type(value) is int:
        return cast("_Row", float(value))
    if type(value) is not wanted:
        raise _fault(place, f"expected {wanted.__name__}, got {type(value).__name__}")
    return value


def _word(words: tuple[Any, ...], value: Any, place: str) -> Any:
    if value not in words:
        raise _fault(place, f"expected one of {', '.join(map(str, words))}, got `{value}`")
    return value


def _fault(place: str, text: str) -> BuilderError:
    return BuilderError(f"{place}: {text}", "correct the table in builder/catalogue")
