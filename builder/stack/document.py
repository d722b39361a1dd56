"""A YAML file as plain values that remember where they stood.

YAML 1.2, core schema: `yes` is text, `010` is ten, a date is text.  Anchors and aliases work;
merge keys, tags and several documents do not.  What is wrong is collected, not raised, as long as
there is something to go on with.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from builder.errors import StackError

Path = tuple[str | int, ...]

_MOST_VALUES = 10_000
"""Aliases of aliases grow without end; no stack comes near this."""

_DEEPEST = 50

_NULL = re.compile(r"(~|null|Null|NULL|)")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TEXT_TAG = "tag:yaml.org,2002:str"
_CORE_TAG = re.compile(r"tag:yaml\.org,2002:(str|int|float|bool|null|timestamp|merge|map|seq)")

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
"""Whole numbers that every reader of TOML takes: the lock repeats them."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_NEEDS_QUOTES = re.compile(r"([\w.-]+):\s+([>|@%`*&!][^\s,}\]]*)")
"""A value that begins with one of YAML's own signs."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    line: int
    path: Path
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value stands and how it was written."""

    line: int
    written: str | None = None
    """A scalar as in the file; None for a list or a mapping."""
    quoted: bool = False


@dataclass(slots=True)
class Document:
    """A file: its value, the spot of every value in it, and what was wrong with it as YAML."""

    value: Any = None
    spots: dict[Path, Spot] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Return the line of `path`, or of the nearest thing around it."""
        while path and path not in self.spots:
            path = path[:-1]
        return self.spots[path].line if path in self.spots else 1

    def get(self, *path: str | int) -> Any:
        """Return the value at `path`, None if there is none."""
        value = self.value
        for step in path:
            if isinstance(value, list) and isinstance(step, int):
                value = value[step]
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return value

    def fault(self, path: Path, text: str, hint: str = "") -> Fault:
        """Return a fault at the line of `path`."""
        return Fault(self.line(path), path, text, hint)


class NotYamlError(StackError):
    """The text cannot be read at all; carries the one fault."""

    def __init__(self, line: int, text: str, hint: str = "", path: Path = ()) -> None:
        super().__init__(text, hint)
        self.fault = Fault(line, path, text, hint)


def parse(text: str) -> Document:
    """Read `text`; raise NotYamlError where nothing can be read from it."""
    node = _compose(text)
    if node is None:
        raise NotYamlError(1, "the file is empty", "start with `name:`")
    document = Document()
    document.value = _Reader(document).read(node, (), node.start_mark.line + 1)
    if not isinstance(document.value, dict):
        fault = f"expected a mapping, got {kind(document.value)}"
        raise NotYamlError(node.start_mark.line + 1, fault, "start with `name:`")
    return document


def kind(value: Any) -> str:
    """Name the kind of a value."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else "a single value"


def _compose(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = YAML(typ="rt")
    try:
        # Not `yaml.compose`: it forgets the line that it came to.
        constructor, _ = yaml.get_constructor_parser(text)
        return constructor.composer.get_single_node()
    except ReaderError as fault:
        line = text.count("\n", 0, fault.position) + 1
        code = f"U+{ord(text[fault.position]):04X}"
        raise NotYamlError(line, f"the character {code} is not allowed") from fault
    except MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise _syntax(text, mark.line if mark else 0, _problem(fault)) from fault
    except (ValueError, OverflowError) as fault:  # of `"\UFFFFFFFF"`, of `%YAML 1.999…`
        raise NotYamlError(yaml.reader.line + 1, "not valid YAML: a number is too large") from fault
    except RecursionError:  # pragma: no cover - it would end the measuring of coverage
        raise NotYamlError(yaml.reader.line + 1, "values are nested too deeply") from None


def _problem(fault: Any) -> str:
    """Return the problem as a sentence of its own; some of ruamel's begin in the context."""
    problem = str(fault.problem)
    return f"{fault.context} {problem}" if problem.startswith("but ") else problem


def _syntax(text: str, index: int, problem: str) -> NotYamlError:
    lines = text.splitlines() or [""]
    index = min(index, len(lines) - 1)
    line = lines[index]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return NotYamlError(index + 1, "a tab indents this line", "indent with spaces")
    hint = "look at the indentation, and quote a value that contains `: `"
    if found := _NEEDS_QUOTES.search(line):
        hint = f'quote it: {found[1]}: "{found[2]}"'
    return NotYamlError(index + 1, f"not valid YAML: {problem}", hint)


class _Reader:
    """Turns nodes into values and writes down where they stood."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: set[int] = set()

    def read(self, node: Any, path: Path, line: int) -> Any:
        if len(self._document.spots) > _MOST_VALUES:
            raise NotYamlError(line, f"more than {_MOST_VALUES} values", "write fewer aliases")
        if len(path) > _DEEPEST:
            raise NotYamlError(line, "values are nested too deeply")
        if id(node) in self._open:
            raise NotYamlError(line, "an alias inside the value it stands for")
        self._document.spots[path] = Spot(line)
        if not _CORE_TAG.fullmatch(str(node.tag)):
            self._blame(line, path, f"the tag `{node.tag}` has no meaning here", "remove the tag")
        if isinstance(node.value, str):
            return self._scalar(node, path, line)
        self._open.add(id(node))
        value = self._collection(node, path)
        self._open.remove(id(node))
        return value

    def _collection(self, node: Any, path: Path) -> Any:
        if node.id == "mapping":
            return self._mapping(node, path)
        return [
            self.read(item, (*path, index), item.start_mark.line + 1)
            for index, item in enumerate(node.value)
        ]

    def _scalar(self, node: Any, path: Path, line: int) -> Any:
        quoted = node.style is not None
        if _SURROGATE.search(node.value):
            raise NotYamlError(line, "half of a surrogate pair is not text", "write the character")
        self._document.spots[path] = Spot(line, node.value, quoted)
        # `!!str 3`: the tag says text although the word looks like a number.
        if quoted or node.tag == _TEXT_TAG:
            return node.value
        try:
            return resolve(node.value)
        except ValueError:
            text = "a whole number of more than 64 bits"
            raise NotYamlError(line, text, "quote it if it is text", path) from None

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            place = (*path, str(key.value))
            if not isinstance(key.value, str):
                self._blame(line, path, "a key must be a single word")
            elif key.tag.endswith(":merge"):
                self._blame(line, place, "merge keys are not YAML 1.2", "write the values out")
            elif key.value in values:
                first = self._document.spots[place].line
                self._blame(line, place, f"given twice, first on line {first}", "keep one of them")
            else:
                values[key.value] = self.read(item, place, line)
        return values

    def _blame(self, line: int, path: Path, text: str, hint: str = "") -> None:
        self._document.faults.append(Fault(line, path, text, hint))


def resolve(word: str) -> Any:
    """Return what a word without quotes means; raise ValueError for too large a number."""
    if _NULL.fullmatch(word):
        return None
    if _BOOL.fullmatch(word):
        return word.lower() == "true"
    if _INT.fullmatch(word):
        number = int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
        if not _SMALLEST <= number <= _LARGEST:
            raise ValueError
        return number
    if _FLOAT.fullmatch(word) and math.isfinite(float(word)):
        return float(word)
    return word
