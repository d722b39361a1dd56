"""What an expression of the sources is worth, as far as that can be said without running it."""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from builder.sources.engine_flags.classes import base_names, class_values, lineage
from builder.sources.engine_flags.code import Assigned, External, Module, Ref
from builder.sources.engine_flags.registries import is_manager, registered
from builder.sources.engine_flags.worth import UNKNOWN, Applied, Generic, Member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNIONS = {"Union", "Optional"}
_TRANSPARENT = {"Annotated", "SkipValidation", "Final", "ClassVar", "InitVar"}
_BUILTINS = {"bool", "int", "float", "str", "dict", "list", "tuple", "set", "type", "super"}
_DEEPEST = 20
"""How many names may stand for names: a cycle ends there."""
_ENUMS = {"Enum", "IntEnum", "StrEnum"}


@dataclass
class Scope:
    """The names that an expression can use."""

    module: Module
    local: dict[str, Any] = field(default_factory=dict)
    typing: bool = False
    call: Callable[[ast.Call, Scope], Any] | None = None
    """Follows calls that this file knows nothing of."""
    depth: int = 0

    def value(self, node: ast.AST | None) -> Any:
        """Return the worth of an expression, UNKNOWN where it cannot be said."""
        handler = _HANDLERS.get(type(node))
        return UNKNOWN if handler is None else handler(self, cast("Any", node))

    def within(self, **names: Any) -> Scope:
        """Return a scope that has more names."""
        return Scope(self.module, {**self.local, **names}, self.typing, self.call, self.depth)

    def of(self, module: Module) -> Scope:
        """Return the scope of another module."""
        return Scope(module, {}, self.typing, self.call, self.depth + 1)


def _name(scope: Scope, node: ast.Name) -> Any:
    if node.id in scope.local:
        return scope.local[node.id]
    found = scope.module.find(node.id, typing=scope.typing)
    if isinstance(found, Assigned):
        return scope.of(found.module).value(found.node) if scope.depth < _DEEPEST else UNKNOWN
    if found is None:
        return External(node.id) if node.id in _BUILTINS else UNKNOWN
    return found


def _attribute(scope: Scope, node: ast.Attribute) -> Any:
    owner = scope.value(node.value)
    if isinstance(owner, Module):
        found = owner.find(node.attr, typing=scope.typing)
        if isinstance(found, Assigned):
            return scope.of(found.module).value(found.node)
        return found if found is not None else UNKNOWN
    if isinstance(owner, Member):
        return {"value": owner.value, "name": owner.name}.get(node.attr, UNKNOWN)
    if isinstance(owner, Ref) and isinstance(owner.node, ast.ClassDef):
        return _of_class(scope, owner, node.attr)
    if isinstance(owner, External) and owner != UNKNOWN:
        return External(f"{owner.name}.{node.attr}")
    return UNKNOWN


def _of_class(scope: Scope, owner: Ref, name: str) -> Any:
    if name == "__name__":
        return owner.name
    for each in lineage(owner):
        for key, expression in class_values(each):
            if key == name:
                value = scope.of(each.module).value(expression)
                if value == {} and is_manager(owner):
                    return dict.fromkeys(registered(owner))
                return Member(name, value) if base_names(owner) & _ENUMS else value
    return External(f"{owner.name}.{name}")


def members(scope: Scope, owner: Ref) -> list[Member]:
    """Return the members of an enumeration, none of another class."""
    if not base_names(owner) & _ENUMS:
        return []
    inside = scope.of(owner.module)
    pairs = [(key, inside.value(node)) for key, node in class_values(owner) if key[0] != "_"]
    return [Member(key, value) for key, value in pairs]


def _subscript(scope: Scope, node: ast.Subscript) -> Any:
    owner = scope.value(node.value)
    if isinstance(owner, dict | list):
        key = scope.value(node.slice)
        try:
            return owner[key]
        except (KeyError, IndexError, TypeError):
            return UNKNOWN
    name = _last(owner, node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return Generic("Literal", tuple(_literals(scope, inner)))
    parts = tuple(scope.value(each) for each in inner)
    if name in _TRANSPARENT:
        return parts[0]
    if name == "Optional":
        return Generic("Union", (*parts, None))
    return Generic("Union" if name in _UNIONS else name.lower(), parts)


def _literals(scope: Scope, inner: list[ast.expr]) -> Iterator[Any]:
    for each in inner:
        value = scope.value(each)
        if isinstance(value, Generic):  # a Literal of Literals is one Literal (PEP 586)
            yield from value.parts
        else:
            yield value


def _last(owner: Any, node: ast.expr) -> str:
    name = owner.name if isinstance(owner, External) and owner != UNKNOWN else ast.unparse(node)
    return str(name).rpartition(".")[2]


def _elements(scope: Scope, nodes: list[ast.expr]) -> Any:
    found: list[Any] = []
    for each in nodes:
        if not isinstance(each, ast.Starred):
            found.append(scope.value(each))
            continue
        inner = scope.value(each.value)
        if not isinstance(inner, list):
            return UNKNOWN
        found += inner
    return found


def _dict(scope: Scope, node: ast.Dict) -> Any:
    found: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        worth = scope.value(value)
        if key is not None:
            found[scope.value(key)] = worth
        elif isinstance(worth, dict):
            found |= worth
    return found


def _binary(scope: Scope, node: ast.BinOp) -> Any:
    left, right = scope.value(node.left), scope.value(node.right)
    if isinstance(node.op, ast.BitOr):
        return Generic("Union", (left, right))
    kinds = (str, int, float, list)
    if not isinstance(left, kinds) or type(left) is not type(right):
        return UNKNOWN
    if isinstance(node.op, ast.Add):
        return cast("Any", left) + right
    if isinstance(node.op, ast.Mult) and isinstance(left, int | float):
        return left * cast("Any", right)
    return UNKNOWN


def _unary(scope: Scope, node: ast.UnaryOp) -> Any:
    value = scope.value(node.operand)
    if isinstance(node.op, ast.USub) and isinstance(value, int | float):
        return -value
    if isinstance(node.op, ast.Not) and isinstance(value, bool):
        return not value
    return UNKNOWN


def _compare(scope: Scope, node: ast.Compare) -> Any:
    left, right = scope.value(node.left), scope.value(node.comparators[0])
    if isinstance(node.ops[0], ast.In) and isinstance(right, dict):
        return left in right
    return UNKNOWN


def _joined(scope: Scope, node: ast.JoinedStr) -> Any:
    parts = [scope.value(each) for each in node.values]
    return "".join(parts) if all(isinstance(each, str) for each in parts) else UNKNOWN


def _comprehension(scope: Scope, node: ast.ListComp | ast.GeneratorExp) -> Any:
    each = node.generators[0]
    items = listed(scope, scope.value(each.iter))
    if items is None or not isinstance(each.target, ast.Name) or len(node.generators) > 1:
        return UNKNOWN
    return [scope.within(**{each.target.id: item}).value(node.elt) for item in items]


def listed(scope: Scope, value: Any) -> list[Any] | None:
    """Return what a loop over a value visits, None where that is not known."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, Ref) and isinstance(value.node, ast.ClassDef):
        return members(scope, value) or None
    return None


def _call(scope: Scope, node: ast.Call) -> Any:
    followed = scope.call(node, scope) if scope.call else UNKNOWN
    if followed is not UNKNOWN:
        return followed
    given = [scope.value(each) for each in node.args]
    name = ast.unparse(node.func)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](
            scope, *given, **{k.arg: scope.value(k.value) for k in node.keywords if k.arg}
        )
    if isinstance(node.func, ast.Attribute):
        owner = scope.value(node.func.value)
        if (type(owner), node.func.attr) in _METHODS:
            return _METHODS[type(owner), node.func.attr](owner, *given)
    return Applied(
        name.rpartition(".")[2],
        tuple(given),
        {k.arg: scope.value(k.value) for k in node.keywords if k.arg},
    )


def _arguments_of(_: Scope, value: Any) -> Any:
    return list(value.parts) if isinstance(value, Generic) else UNKNOWN


def _as_list(scope: Scope, value: Any = None) -> Any:
    items = listed(scope, value)
    return UNKNOWN if items is None else list(items)


def _permutations(scope: Scope, value: Any, r: Any = None) -> Any:
    items = listed(scope, value)
    return UNKNOWN if items is None else [list(each) for each in itertools.permutations(items, r)]


def _sorted(scope: Scope, value: Any, **_: Any) -> Any:
    items = listed(scope, value)
    return UNKNOWN if items is None else sorted(items, key=str)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "get_args": _arguments_of,
    "list": _as_list,
    "tuple": _as_list,
    "set": _as_list,
    "sorted": _sorted,
    "permutations": _permutations,
}
_METHODS: dict[tuple[type, str], Callable[..., Any]] = {
    (str, "join"): lambda text, items: (
        text.join(items)
        if isinstance(items, list) and all(isinstance(each, str) for each in items)
        else UNKNOWN
    ),
    (str, "replace"): lambda text, old, new: text.replace(old, new),
    (dict, "items"): lambda table: [[key, value] for key, value in table.items()],
    (dict, "keys"): list,
    (dict, "pop"): lambda table, key, *default: table.pop(key, *default),
    (list, "append"): lambda items, item: items.append(item),
    (list, "remove"): lambda items, item: items.remove(item) if item in items else None,
}
_HANDLERS: dict[Any, Callable[[Scope, Any], Any]] = {
    ast.Constant: lambda _, node: node.value,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.List: lambda scope, node: _elements(scope, node.elts),
    ast.Tuple: lambda scope, node: _elements(scope, node.elts),
    ast.Set: lambda scope, node: _elements(scope, node.elts),
    ast.Dict: _dict,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.JoinedStr: _joined,
    ast.FormattedValue: lambda scope, node: scope.value(node.value),
    ast.ListComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.Call: _call,
    ast.Lambda: lambda *_: External("lambda"),
}
