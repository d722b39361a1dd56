"""Say in our words what pydantic found wrong."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from builder.catalogue import debians
from builder.stack.credentials import is_credential
from builder.stack.document import Document, Fault, Path, kind
from builder.stack.model import Part, Stack
from builder.stack.patterns import EXPECTED, FLAG, NAME, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "date_type": "a date such as `2026-05-10`",
    "date_parsing": "a date such as `2026-05-10`",
    "date_from_datetime_inexact": "a date such as `2026-05-10`",
    "date_from_datetime_parsing": "a date such as `2026-05-10`",
}
_BOUNDS = {
    "string_too_short": ("min_length", "text that is not empty"),
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
    "string_too_long": ("max_length", "at most {} characters"),
}
_SCALAR = "text, a number, true or false"
_ANY = "text, a number, true or false, a list or a mapping"
_LONGEST = 60
"""Characters of a value that are repeated to the person who wrote it."""


def faults(found: ValidationError, document: Document) -> list[Fault]:
    """Return one fault for every place that pydantic complained about."""
    groups: dict[Path, list[Any]] = {}
    for error in found.errors(include_url=False):
        groups.setdefault(_place(error, document), []).append(error)
    return [
        _fault(path, errors, document)
        for path, errors in groups.items()
        if not _explained_deeper(path, errors, groups)
    ]


def got(path: Path, document: Document) -> str:
    """Name the value at `path`, never a credential."""
    spot, value = document.spots.get(path), document.get(*path)
    if spot is None or spot.written is None or value is None:
        return kind(value)
    return f"{_adjective(value, quoted=spot.quoted)}{shown(spot.written)}"


def shown(written: str) -> str:
    """Repeat a value in backticks, never a credential, and no more than fits."""
    if is_credential(written):
        return "what looks like a credential"
    plain = "".join(c if c.isprintable() else " " for c in written)
    return f"`{plain}`" if len(plain) <= _LONGEST else f"`{plain[:_LONGEST]}…`"


def choose(words: Iterable[str]) -> str:
    """`a`, `b` or `c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def quoted(words: Iterable[str]) -> list[str]:
    """Put backticks around each word."""
    return [f"`{word}`" for word in words]


def _adjective(value: Any, *, quoted: bool) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "the number "
    return "the text " if quoted else ""


def _place(error: Any, document: Document) -> Path:
    """Leave out of pydantic's location what is not in the file: the arms of unions."""
    path: Path = ()
    for step in error["loc"]:
        if (*path, step) in document.spots:
            path = (*path, step)
    return (*path, error["loc"][-1]) if error["type"] == "missing" else path


def _explained_deeper(path: Path, errors: list[Any], groups: Iterable[Path]) -> bool:
    """Tell whether only one arm of a union is meant, and its own fault says more."""
    deeper = any(len(other) > len(path) and other[: len(path)] == path for other in groups)
    return deeper and all(error["type"] != "value_error" for error in errors)


def _fault(path: Path, errors: list[Any], document: Document) -> Fault:
    error = next((e for e in errors if e["type"] not in _TYPES), errors[0])
    kind_of_error, context = error["type"], error.get("ctx", {})
    if kind_of_error == "extra_forbidden":
        return _unknown_key(path, document)
    if kind_of_error == "missing":
        return document.fault(path, "is missing", _example(path))
    if kind_of_error == "value_error":
        return document.fault(path, str(context["error"]))
    if kind_of_error == "too_short":
        return document.fault(path, "expected at least one item, got an empty list")
    return _unexpected(path, errors, error, document)


def _unexpected(path: Path, errors: list[Any], error: Any, document: Document) -> Fault:
    expected = _expected(errors, error)
    text = f"expected {expected}, got {got(path, document)}"
    if error["type"] in _BOUNDS:
        text = text.replace("got the number", "got")
    if error["loc"][-1:] == ("[key]",):
        text = f"the name must be {expected}"
    return document.fault(path, text, _remedy(path, error, document))


def _expected(errors: list[Any], error: Any) -> str:
    kind_of_error, context = error["type"], error.get("ctx", {})
    if kind_of_error in _TYPES:
        words = list(dict.fromkeys(_TYPES[e["type"]] for e in errors if e["type"] in _TYPES))
        return _alternatives(words)
    if kind_of_error == "literal_error":
        return str(context["expected"]).replace("'", "`")
    if kind_of_error == "string_pattern_mismatch":
        return EXPECTED[context["pattern"]]
    if kind_of_error in _BOUNDS:
        name, words_for = _BOUNDS[kind_of_error]
        return words_for.format(f"{context[name]:g}")
    return f"something else ({error['msg']})"


def _alternatives(words: list[str]) -> str:
    if "text" in words and "a number" in words:
        return _ANY if "a list" in words else _SCALAR
    return choose(words)


def _remedy(path: Path, error: Any, document: Document) -> str:
    value, spot = document.get(*path), document.spots.get(path)
    if value is None:
        return _example(path)
    written = (spot.written if spot else None) or ""
    if is_credential(written) or not path:
        return ""
    if error["type"] == "string_type" and isinstance(value, bool | int | float):
        return f'quote it: {path[-1]}: "{written}"'
    if error["type"] in {"int_type", "float_type", "bool_type"} and isinstance(value, str):
        return _without_quotes(path, error["type"], written)
    pattern = error.get("ctx", {}).get("pattern")
    return _respelled(path, pattern, written)


def _without_quotes(path: Path, wanted: str, written: str) -> str:
    yes_or_no = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    plain = yes_or_no.get(written.lower(), written) if wanted == "bool_type" else written
    form = r"true|false" if wanted == "bool_type" else r"[0-9]+(\.[0-9]+)?"
    return f"write {path[-1]}: {plain}" if re.fullmatch(form, plain) else ""


def _respelled(path: Path, pattern: str | None, written: str) -> str:
    if pattern == NAME:
        better = re.sub(r"[^a-z0-9]+", "-", written.lower()).strip("-")
    elif pattern == VERSION:
        better = written.lstrip("=v ")
    elif pattern == FLAG:
        better = str(path[-1]).lstrip("-").lower()
        return f"write `{better}`" if re.match(FLAG, better) else ""
    else:
        return ""
    good = better and better != written and re.match(pattern, better)
    return f'write {path[-1]}: "{better}"' if good and isinstance(path[-1], str) else ""


def _unknown_key(path: Path, document: Document) -> Fault:
    key, known = str(path[-1]), list(_part(path[:-1]).model_fields)
    near = get_close_matches(key.lower(), known, n=1)
    homes = [home for home in _homes(Stack, ()) if home.rpartition(".")[2] == key]
    if key == "python":
        hint = _python(document.get(*path))
    elif near:
        hint = f"did you mean `{near[0]}`?"
    elif homes:
        hint = f"did you mean {choose(quoted(homes))}?"
    else:
        hint = f"known keys: {', '.join(known)}"
    return Fault(document.line(path), path[:-1], f"unknown key {shown(key)}", hint)


def _python(asked: Any) -> str:
    """Python is not chosen apart: say which suite has the one that is asked for, if any has."""
    suites = {name: suite.python for name, suite in debians().items()}
    fits = [name for name, python in suites.items() if str(asked).startswith(python)]
    if fits:
        return f"Python is the suite's own: write debian: {fits[0]}"
    known = ", ".join(f"{name} has {python}" for name, python in suites.items())
    return f"no suite has Python {asked}; it is the suite's own: {known}"


def _example(path: Path) -> str:
    examples = {
        ("name",): "add name: and the name of this file without .yaml",
        ("engine",): 'add engine: {name: vllm, version: "0.20.2"}',
        ("engine", "name"): "add name: vllm",
        ("engine", "version"): 'add version: "0.20.2", in quotes',
        ("model",): "add model: {repo: organisation/name} or model: {path: folder}",
    }
    return examples.get(tuple(str(step) for step in path), "")


def _part(path: Path) -> type[Part]:
    part: type[Part] = Stack
    for step in path:
        part = _parts(part).get(str(step), part)
    return part


def _parts(part: type[Part]) -> dict[str, type[Part]]:
    """Return the fields of `part` that are parts themselves."""
    found = {}
    for name, spec in part.model_fields.items():
        for option in (spec.annotation, *get_args(spec.annotation)):
            if isinstance(option, type) and issubclass(option, Part):
                found[name] = option
    return found


def _homes(part: type[Part], path: tuple[str, ...]) -> list[str]:
    """Return every field below the top as `parent.field`."""
    own = [".".join((*path, name)) for name in part.model_fields] if path else []
    below = [_homes(child, (*path, name)) for name, child in _parts(part).items()]
    return own + [home for homes in below for home in homes]
