"""All that one release says of its arguments and variables, as plain values."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, cast

from builder.sources.engine_flags.classes import find_method
from builder.sources.engine_flags.code import Assigned, Code, External, Ref
from builder.sources.engine_flags.commands import Argument, added
from builder.sources.engine_flags.values import Scope, members
from builder.sources.engine_flags.worth import Applied, Member

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARSERS = ("vllm.utils.argparse_utils", "vllm.utils")
_BACKENDS = (
    ("vllm.v1.attention.backends.registry", "AttentionBackendEnum"),
    ("vllm.attention.backends.registry", "AttentionBackendEnum"),
    ("vllm.platforms.interface", "_Backend"),
)
_CHOICES = 2
"""Which argument of `env_with_choices` they are."""
_DEPRECATED = re.compile(r"^\W*deprecated|\b(is|are|has been) deprecated\b", re.IGNORECASE)
_LISTED = re.compile(r"\{([^{}]*)\}")
_READERS = {
    "int": "int",
    "float": "float",
    "str": "str",
    "human_readable_int": "int",
    "human_readable_int_or_auto": "int",
    "union_dict_and_str": "json-or-str",
    "loads": "json",
    "from_cli": "json",
    "from_json": "json",
    "json": "json",
    "json-or-str": "json-or-str",
}
"""Kind of value by the last part of the name of what reads it; anything else takes text."""


def derived(code: Code) -> dict[str, dict[str, dict[str, Any]]]:
    """Return arguments and variables of a release, each by name with what is known of it."""
    special = _Parser(code)
    flags = {}
    for each in added(code):
        name = next(name for name in each.names if name.startswith("--"))
        flags[name] = _facts(name, each, special)
    return {"flags": flags, "variables": dict(sorted(_variables(code)))}


class _Parser:
    """What the parser class of a release adds on its own."""

    def __init__(self, code: Code) -> None:
        found = (code.find(home, "FlexibleArgumentParser") for home in _PARSERS)
        owner = next(each for each in found if isinstance(each, Ref))
        self.inverses = self._inverses(owner)
        """Prefixes of `--disable-x` for `--enable-x`."""
        parse = find_method(owner, "parse_args")
        words = ast.unparse(parse[1].node) if parse else ""
        self.short_level = "'-O'" in words and "'--optimization-level'" in words

    def _inverses(self, owner: Ref) -> dict[str, str]:
        start = find_method(owner, "__init__")
        for node in ast.walk(start[1].node) if start else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.register":
                action = owner.module.find(ast.unparse(node.args[-1]))
                if isinstance(action, Ref):
                    scope = Scope(action.module)
                    value = scope.value(_of(action, "_inverse_prefixes"))
                    return value if isinstance(value, dict) else {}
        return {}


def _of(owner: Ref, name: str) -> ast.expr | None:
    for node in cast("ast.ClassDef", owner.node).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    return None


def _facts(name: str, argument: Argument, special: _Parser) -> dict[str, Any]:
    given = argument.given
    aliases = [each for each in argument.names if each != name]
    if special.short_level and name == "--optimization-level":
        aliases.append("-O")
    kind, form = _shape(given)
    facts: dict[str, Any] = {"kind": kind, "form": form, "aliases": sorted(aliases)}
    if form == "pair":
        facts["off"] = _off(argument.names, special)
    facts |= _choices(given)
    reader = _reader(given.get("type"))
    if reader.startswith("human_readable"):
        facts["scaled"] = True
        facts["words"] = ["auto"] if reader.endswith("_or_auto") else []
    if given.get("deprecated") is True or _DEPRECATED.search(_text(given.get("help"))):
        facts["deprecated"] = True
    default = _default(given.get("default", False if form == "switch" else None))
    if default is not None:
        facts["default"] = default
    return {key: value for key, value in facts.items() if value not in ("", [], None)}


def _off(names: tuple[str, ...], special: _Parser) -> list[str]:
    """Return what turns a pair off: `--no-x`, and in later releases `--disable-x`."""
    long = [each for each in names if each.startswith("--")]
    return [
        other + each.removeprefix(prefix)
        for each in long
        for prefix, other in special.inverses.items()
        if each.startswith(prefix)
    ]


def _shape(given: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of value, and the form in which it is given."""
    action, count = _last(given.get("action")), given.get("nargs")
    if action == "BooleanOptionalAction":
        return "bool", "pair"
    if action in {"store_true", "store_false"}:
        return "bool", "switch"
    if action == "StoreBoolean":
        return "bool", "value"
    kind = _READERS.get(_reader(given.get("type")), "str")
    if action == "append":
        return kind, "repeat"
    if count == "?":
        return kind, "optional"
    return kind, "list" if count is not None else ""


def _reader(value: Any) -> str:
    """Return the name of what reads a value, through `optional_type(...)` and its like."""
    if isinstance(value, Applied) and value.name in {"optional_type", "parse_type"}:
        return _reader(value.given[0])
    return _last(value)


def _last(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, External):
        return value.name.rpartition(".")[2]
    return value.name if isinstance(value, Ref | Applied) else ""


def _choices(given: dict[str, Any]) -> dict[str, Any]:
    """Return the words that are taken; `open`: the parser takes others too."""
    if isinstance(given.get("choices"), list):
        if not all(isinstance(each, str | int | Member | None) for each in given["choices"]):
            return {}  # one is known only where the engine runs
        folds = {"folds": True} if given.get("type") == External("lambda") else {}
        return {"values": _words(given["choices"]), **folds}
    known, meant = given.get("known"), given.get("metavar")
    if isinstance(meant, str) and (found := _LISTED.search(meant)):
        known = found[1].split(",")
    return {"values": _words(known), "open": True} if known else {}


def _words(words: list[Any]) -> list[str]:
    return sorted({str(each.name if isinstance(each, Member) else each) for each in words})


def _default(value: Any) -> str | None:
    if isinstance(value, Member):
        is_word = isinstance(value.value, str) and value.value.lower() != value.name.lower()
        value = value.name if is_word else value.value
    if isinstance(value, bool):
        return str(value).lower()
    return (
        str(value) if isinstance(value, int | float) or (value and isinstance(value, str)) else None
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _variables(code: Code) -> Iterator[tuple[str, dict[str, Any]]]:
    home = code.module("vllm.envs")
    found = home.find("environment_variables") if home else None
    if not isinstance(found, Assigned) or not isinstance(found.node, ast.Dict):
        return
    scope = Scope(found.module)
    for key, value in zip(found.node.keys, found.node.values, strict=True):
        name = scope.value(key)
        yield name, _variable(name, value, scope)


def _variable(name: str, node: ast.expr, scope: Scope) -> dict[str, Any]:
    if name == "VLLM_ATTENTION_BACKEND":
        found = (scope.module.code.find(*each) for each in _BACKENDS)
        owner = next((each for each in found if isinstance(each, Ref)), None)
        names = [each.name for each in members(scope, owner)] if owner else []
        return {"values": sorted(names), "open": True} if names else {}
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_with_choices"):
        words = scope.value(dict(enumerate(node.args)).get(_CHOICES))
        if isinstance(words, list):
            return {"values": _words(words)}
    return {}
