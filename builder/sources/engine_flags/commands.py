"""Follow the functions that fill the parser of `vllm serve`, and note each argument they add."""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, field
from typing import Any, cast

from builder.errors import ResolveError
from builder.sources.engine_flags.classes import find_method
from builder.sources.engine_flags.code import Code, External, Ref
from builder.sources.engine_flags.fields import Manner, arguments, manner
from builder.sources.engine_flags.registries import is_manager, registered
from builder.sources.engine_flags.values import Scope, listed
from builder.sources.engine_flags.worth import UNKNOWN

_ENGINE = "vllm.engine.arg_utils"
_SERVE = "vllm.entrypoints.cli.serve"
_REPORT = "the sources changed shape: builder/sources/engine_flags has to learn it"
_PARSER = External("parser")
_HOME = "class that the method stands in"


@dataclass(frozen=True)
class Argument:
    """One call of `add_argument`."""

    names: tuple[str, ...]
    given: dict[str, Any]


@dataclass
class _Follower:
    """Runs statements in order; a branch that depends on the machine is taken both ways."""

    manner: Manner
    found: list[Argument] = field(default_factory=list)
    made: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def function(
        self, where: Ref, values: list[Any], owner: Ref | None = None, home: Ref | None = None
    ) -> Any:
        """Follow a function, or a method of `home` that `owner` was asked for."""
        node = cast("ast.FunctionDef", where.node)
        names = [each.arg for each in node.args.args]
        if names[:1] in (["cls"], ["self"]):
            values = [owner, *values]
        scope = Scope(where.module, dict(zip(names, values, strict=False)), call=self.call)
        scope.local[_HOME] = home
        defaults = node.args.defaults
        for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
            scope.local.setdefault(name, scope.value(default))
        return self.block(node.body, scope)

    def block(self, body: list[ast.stmt], scope: Scope) -> Any:
        """Follow statements; return what the first `return` gives."""
        for node in body:
            if isinstance(node, ast.Return):
                return scope.value(node.value)
            found = self.statement(node, scope)
            if found is not UNKNOWN:
                return found
        return UNKNOWN

    def statement(self, node: ast.stmt, scope: Scope) -> Any:
        """Follow one statement; return what it returns, UNKNOWN where it goes on."""
        if isinstance(node, ast.Expr):
            scope.value(node.value)
        elif isinstance(node, ast.Assign):
            self._assign(node.targets[0], scope.value(node.value), scope)
        elif isinstance(node, ast.AugAssign):
            self._extend(node, scope)
        elif isinstance(node, ast.Delete):
            for each in node.targets:
                _remove(each, scope)
        elif isinstance(node, ast.For):
            self._loop(node, scope)
        elif isinstance(node, ast.If):
            return self._either(node, scope)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, target in scope.module.imports(node):
                found = scope.module.code.find(target.module, target.name)
                scope.local[name] = found if found is not None else UNKNOWN
        return UNKNOWN

    def _either(self, node: ast.If, scope: Scope) -> Any:
        test = scope.value(node.test)
        taken = [node.body, node.orelse] if not isinstance(test, bool) else []
        for body in taken or [node.body if test else node.orelse]:
            found = self.block(body, scope)
            if found is not UNKNOWN:
                return found
        return UNKNOWN

    def _loop(self, node: ast.For, scope: Scope) -> None:
        for item in listed(scope, scope.value(node.iter)) or ():
            self._assign(node.target, item, scope)
            self.block(node.body, scope)

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.local[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, list):
            for each, item in zip(target.elts, value, strict=True):
                self._assign(each, item, scope)
        elif isinstance(target, ast.Subscript):
            owner = scope.value(target.value)
            if isinstance(owner, dict):
                owner[scope.value(target.slice)] = value

    def _extend(self, node: ast.AugAssign, scope: Scope) -> None:
        owner, more = scope.value(cast("ast.expr", node.target)), scope.value(node.value)
        if isinstance(owner, list) and isinstance(more, list):
            owner += more

    def call(self, node: ast.Call, scope: Scope) -> Any:
        """Follow a call, or return UNKNOWN where it is none of ours."""
        given = [scope.value(each) for each in node.args]
        if isinstance(node.func, ast.Name):
            return self._plain(node.func.id, given, scope)
        if not isinstance(node.func, ast.Attribute):
            return UNKNOWN
        name = node.func.attr
        if ast.unparse(node.func.value) == "super()":
            return self.method(name, scope.local["cls"], given, above=scope.local[_HOME])
        owner = scope.value(node.func.value)
        if owner == _PARSER:
            return self._of_parser(name, node, scope)
        is_class = isinstance(owner, Ref) and isinstance(owner.node, ast.ClassDef)
        return self._of_class(name, owner, given) if is_class else UNKNOWN

    def _of_class(self, name: str, owner: Ref, given: list[Any]) -> Any:
        if is_manager(owner):
            return registered(owner) if name == "list_registered" else UNKNOWN
        follows = _PARSER in given or name.startswith("_customize")
        return self.method(name, owner, given) if follows else UNKNOWN

    def _plain(self, name: str, given: list[Any], scope: Scope) -> Any:
        if name == "get_kwargs" and isinstance(given[0], Ref):
            return copy.deepcopy(self._kwargs(given[0], scope))
        found = scope.module.find(name)
        if _PARSER in given and isinstance(found, Ref):
            return self.function(found, given)
        return UNKNOWN

    def _kwargs(self, owner: Ref, scope: Scope) -> dict[str, Any]:
        key = (owner.module.name, owner.name)
        if key not in self.made:
            self.made[key] = arguments(owner, self.manner, Scope(scope.module, call=self.call))
        return self.made[key]

    def method(self, name: str, owner: Ref, given: list[Any], above: Ref | None = None) -> Any:
        found = find_method(owner, name, above=above)
        if found is None:
            return UNKNOWN
        home, where = found
        return self.function(where, given, owner, home)

    def _of_parser(self, name: str, node: ast.Call, scope: Scope) -> Any:
        if name in {"add_argument_group", "add_parser"}:
            return _PARSER
        if name == "add_argument":
            names = scope.value(ast.List(node.args))
            given: dict[str, Any] = {}
            for each in node.keywords:
                value = scope.value(each.value)
                given |= {each.arg: value} if each.arg else value
            if not all(isinstance(each, str) for each in names):
                message = f"{scope.module.name}, line {node.lineno}: an argument without a name"
                raise ResolveError(message, _REPORT)
            if names[0][0] == "-":
                self.found.append(Argument(tuple(names), given))
        return None


def _remove(target: ast.expr, scope: Scope) -> None:
    if isinstance(target, ast.Subscript):
        owner = scope.value(target.value)
        if isinstance(owner, dict):
            owner.pop(scope.value(target.slice), None)


def added(code: Code) -> list[Argument]:
    """Return every argument of `vllm serve` in the order in which it is added.

    Raises:
        ResolveError: the sources are not laid out as those of any release that was read.
    """
    home, serve = code.module(_ENGINE), code.find(_SERVE, "ServeSubcommand")
    if home is None or not isinstance(serve, Ref):
        message = f"{_ENGINE} and {_SERVE}: not in these sources"
        raise ResolveError(message, _REPORT)
    follower = _Follower(manner(home))
    follower.method("subparser_init", serve, [_PARSER])
    return follower.found
