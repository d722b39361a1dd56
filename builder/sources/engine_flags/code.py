"""The Python sources of one release as trees: where a name is defined, across modules.

Nothing is imported or run: an engine for another machine can be read anywhere.
"""

from __future__ import annotations

import ast
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Definition = ast.ClassDef | ast.FunctionDef
_parsing = threading.Lock()
"""CPython 3.11 counts the depth of trees for all threads together, and fails."""
_STATEMENTS = (ast.If, ast.Try, ast.With)


@dataclass(frozen=True)
class Ref:
    """A class or a function, where it is defined."""

    module: Module
    node: Definition

    @property
    def name(self) -> str:
        """Its name in the module that defines it."""
        return self.node.name


@dataclass(frozen=True)
class External:
    """A thing from outside the sources: `json.loads`, `argparse.BooleanOptionalAction`, `int`."""

    name: str


@dataclass(frozen=True)
class Assigned:
    """An expression that a module gives a name to."""

    module: Module
    node: ast.expr


@dataclass(frozen=True)
class Imported:
    """A name that another module has, `*` for the module itself."""

    module: str
    name: str


Names = dict[str, Ref | Assigned | Imported]
"""What a module calls by which name."""


@dataclass(eq=False)
class Module:
    """One file. `typing_only` holds what type checkers see and the program does not."""

    code: Code
    name: str
    is_package: bool
    tree: ast.Module
    names: Names = field(default_factory=dict)
    typing_only: Names = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._read(self.tree.body, self.names)

    def _read(self, body: list[ast.stmt], into: Names, *, keep: bool = False) -> None:
        """Note what each statement defines; `keep`: a name that is known stays what it is."""
        for node in body:
            if isinstance(node, _STATEMENTS):
                self._branches(node, into)
                continue
            for name, value in self._bound(node):
                if not (keep and name in into):
                    into[name] = value

    def _branches(self, node: ast.If | ast.Try | ast.With, into: Names) -> None:
        for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        self._read(node.body, self.typing_only if for_checkers else into)
        others = [] if isinstance(node, ast.With) else list(node.orelse)
        for handler in node.handlers if isinstance(node, ast.Try) else ():
            others += handler.body
        self._read(others, into, keep=not for_checkers)

    def _bound(self, node: ast.stmt) -> Iterator[tuple[str, Ref | Assigned | Imported]]:
        if isinstance(node, Definition):
            yield node.name, Ref(self, node)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, Assigned(self, node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, Assigned(self, node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from self.imports(node)

    def imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Imported]]:
        """Yield the names that an import statement binds."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                target = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or target, Imported(target, "*")
            return
        base = self._base(node)
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(base)
            else:
                yield alias.asname or alias.name, Imported(base, alias.name)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def find(self, name: str, *, typing: bool = False) -> Ref | Assigned | External | Module | None:
        """Return what a name means here; `typing`: as type checkers see it."""
        known = (self.typing_only.get(name) if typing else None) or self.names.get(name)
        known = known or self.typing_only.get(name)
        if known is None:
            found = (self.code.find(each, name, typing=typing) for each in self.stars)
            return next((each for each in found if each is not None), None)
        if isinstance(known, Imported):
            return self.code.find(known.module, known.name, typing=typing)
        return known


@dataclass(eq=False)
class Code:
    """The sources of a release; `text` gives a file by its path, None where there is none."""

    text: Callable[[str], str | None]
    root: str = "vllm"
    modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """Return a module by its dotted name."""
        if name not in self.modules:
            self.modules[name] = self._read(name)
        return self.modules[name]

    def _read(self, name: str) -> Module | None:
        if name.partition(".")[0] != self.root:
            return None
        path = name.replace(".", "/")
        for file, is_package in ((f"{path}.py", False), (f"{path}/__init__.py", True)):
            text = self.text(file)
            if text is not None:
                with _parsing:
                    tree = ast.parse(text)
                return Module(self, name, is_package, tree)
        return None

    def find(
        self, module: str, name: str, *, typing: bool = False
    ) -> Ref | Assigned | External | Module | None:
        """Return what `name` of a module is."""
        dotted = module if name == "*" else f"{module}.{name}"
        if module.partition(".")[0] != self.root:
            return External(dotted)
        if name == "*":
            return self.module(module)
        home = self.module(module)
        found = home.find(name, typing=typing) if home else None
        return found if found is not None else self.module(dotted)
