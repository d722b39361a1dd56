"""How fields of a configuration class become arguments, as `get_kwargs` of a release does it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from builder.sources.engine_flags.classes import base_names, lineage
from builder.sources.engine_flags.code import External, Module, Ref
from builder.sources.engine_flags.values import Scope, members
from builder.sources.engine_flags.worth import UNKNOWN, Applied, Generic

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAKERS = {"get_kwargs", "_compute_kwargs", "literal_to_kwargs"}
_COLLECTIONS = ("tuple", "list", "set")
_PLAIN = ("int", "float")


@dataclass(frozen=True)
class Manner:
    """What differs between releases in how a field becomes an argument."""

    has_pairs: bool
    """`--no-…` for every boolean."""
    has_open_literals: bool
    """`Literal[...] | str` takes any text."""
    has_null: bool
    """An optional choice takes `None`."""
    has_bare: bool
    """`bool | str | None` is an argument whose value may be left out."""
    readers: dict[str, str] = field(default_factory=dict)
    """What reads a field, by its name: `human_readable_int`."""


def manner(home: Module) -> Manner:
    """Read it from `vllm/engine/arg_utils.py`."""
    makers = [
        node
        for node in ast.walk(home.tree)
        if isinstance(node, ast.FunctionDef) and node.name in _MAKERS
    ]
    text = "\n".join(ast.unparse(node) for node in makers)
    readers = {name: reader for node in makers for name, reader in _readers(node)}
    return Manner(
        has_pairs="BooleanOptionalAction" in text,
        has_open_literals="'metavar' if" in text,
        has_null=".append(None)" in text,
        has_bare="['const']" in text,
        readers=readers,
    )


def _readers(maker: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """Yield the fields that have a reader of their own: `if name in {...}: ... ["type"] = x`."""
    sets = {
        ast.unparse(node.targets[0]): node.value
        for node in ast.walk(maker)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Set)
    }
    for node in ast.walk(maker):
        if not isinstance(node, ast.If) or not ast.unparse(node.test).startswith("name "):
            continue
        against = cast("ast.Compare", node.test).comparators[0]
        against = sets.get(ast.unparse(against), against)
        for each in node.body:
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]).endswith("['type']"):
                for name in _words(against):
                    yield name, ast.unparse(each.value)


def _words(node: ast.expr) -> list[str]:
    return [
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]


def arguments(owner: Ref, manner: Manner, scope: Scope) -> dict[str, dict[str, Any]]:
    """Return what `add_argument` is given for each field of a class."""
    found: dict[str, dict[str, Any]] = {}
    for each in reversed(lineage(owner)):
        for node, text in _documented(each):
            found[cast("ast.Name", node.target).id] = _argument(
                node, manner, scope.of(each.module)
            ) | {"help": text}
    return found


def _documented(owner: Ref) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Yield the fields of a class, each with the string under it."""
    body = cast("ast.ClassDef", owner.node).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if ast.unparse(node.annotation).partition("[")[0] in {"ClassVar", "InitVar"}:
            continue
        text = after.value.value if _is_text(after) else ""  # type: ignore[attr-defined]
        yield node, text


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _argument(node: ast.AnnAssign, manner: Manner, scope: Scope) -> dict[str, Any]:
    name = cast("ast.Name", node.target).id
    hints = list(_hints(scope.value(node.annotation)))
    made = {"default": _default(scope, node.value), **_shape(name, hints, manner)}
    if "choices" not in made and (known := _known(node, made, scope)):
        made["known"] = known
    if made.get("choices") and None in hints and manner.has_null:
        made["choices"] = [*made["choices"], None]
    return made


def _known(node: ast.AnnAssign, made: dict[str, Any], scope: Scope) -> list[Any]:
    """Return the words that the sources list where the parser takes any text."""
    if made.get("type") not in {"str", "json-or-str"}:
        return []
    checked = Scope(scope.module, scope.local, typing=True, call=scope.call, depth=scope.depth)
    hints = list(_hints(checked.value(node.annotation)))
    words = [part for hint in hints if _is(hint, "Literal") for part in hint.parts]
    for hint in hints:
        if isinstance(hint, Ref) and isinstance(hint.node, ast.ClassDef):
            found = members(checked, hint)
            if all(isinstance(each.value, str | None) for each in found):
                words += [each.name for each in found]
    return words


def _hints(value: Any) -> Iterator[Any]:
    if isinstance(value, Generic) and value.name == "Union":
        for part in value.parts:
            yield from _hints(part)
    else:
        yield value


def _is(hint: Any, name: str) -> bool:
    return hint == External(name) or (isinstance(hint, Generic) and hint.name == name)


def _is_dataclass(hint: Any) -> bool:
    if not isinstance(hint, Ref) or not isinstance(hint.node, ast.ClassDef):
        return False
    marks = {
        ast.unparse(mark).partition("(")[0].rpartition(".")[2]
        for each in lineage(hint)
        for mark in each.node.decorator_list
    }
    return bool(marks & {"dataclass", "config"})


def _shape(name: str, hints: list[Any], manner: Manner) -> dict[str, Any]:
    """Return type, choices and count of values, in the order in which the engine asks."""
    has_text = _first(hints, "str") is not None
    if any(_is_dataclass(each) for each in hints):
        return {"type": "json"}
    if _first(hints, "bool") is not None:
        return _boolean(manner, is_bare=has_text and None in hints)
    if (words := _first(hints, "Literal")) is not None:
        return _literal(words, is_open=has_text and manner.has_open_literals)
    for kind in _COLLECTIONS:
        if (several := _first(hints, kind)) is not None:
            return _collection(several)
    plain = next((kind for kind in _PLAIN if _first(hints, kind) is not None), None)
    if plain == "int":
        return {"type": manner.readers.get(name, plain)}
    return {"type": plain or _table_or_text(hints)}


def _boolean(manner: Manner, *, is_bare: bool) -> dict[str, Any]:
    if manner.has_bare and is_bare:
        return {"type": "str", "nargs": "?"}
    return {"action": External("argparse.BooleanOptionalAction")} if manner.has_pairs else {}


def _first(hints: list[Any], name: str) -> Any:
    return next((each for each in hints if _is(each, name)), None)


def _table_or_text(hints: list[Any]) -> str:
    tables = [each for each in hints if _is(each, "dict") or _is_table(each)]
    if not tables:
        return "str"
    others = [each for each in hints if each is not None and each not in tables]
    is_mixed = _first(others, "str") is not None or any(_is_strange(each) for each in others)
    return "json-or-str" if is_mixed else "json"


def _is_table(hint: Any) -> bool:
    """Whether a hint is a class that is a `dict`."""
    is_class = isinstance(hint, Ref) and isinstance(hint.node, ast.ClassDef)
    return is_class and "dict" in base_names(hint)


def _is_strange(hint: Any) -> bool:
    """Whether a hint is of no built-in type."""
    if isinstance(hint, External):
        return hint == UNKNOWN or "." in hint.name
    return isinstance(hint, Ref | Applied) or _is(hint, "callable")


def _literal(hint: Generic, *, is_open: bool) -> dict[str, Any]:
    words = sorted(hint.parts, key=lambda each: (str(type(each)), each))
    return {"type": type(words[0]).__name__, "known" if is_open else "choices": words}


def _collection(hint: Any) -> dict[str, Any]:
    parts = hint.parts if isinstance(hint, Generic) else (External("str"),)
    inner = list(_hints(parts[0]))
    shape = {"nargs": "+" if hint.name != "tuple" or Ellipsis in parts else len(parts)}
    if _is(inner[0], "Literal"):
        return {**_literal(inner[0], is_open=False), **shape}
    if len(inner) > 1 or not isinstance(inner[0], External):
        return {"type": "str", **shape}
    return {"type": inner[0].name, **shape}


def _default(scope: Scope, node: ast.expr | None) -> Any:
    value = scope.value(node) if node is not None else UNKNOWN
    if isinstance(value, Applied) and value.name in {"field", "Field"}:
        if "default" in value.named:
            return value.named["default"]
        return value.given[0] if value.given else UNKNOWN
    return value
