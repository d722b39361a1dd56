"""What types cannot say of a stack: names of the catalogue, contradictions, credentials.

Every check reads the document, not the `Stack`: it speaks also where another field is wrong, so
that all faults are reported at once.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from builder.catalogue import engines, gpus, similar_gpus
from builder.catalogue.nearest import nearest
from builder.stack.arguments import arguments
from builder.stack.credentials import is_credential, is_secret_setting
from builder.stack.model import NO_GPU, Base, Model, Stack, one_of_words
from builder.stack.patterns import EXPECTED, HUB_REPO, NAME, REPOSITORY, VERSION
from builder.stack.words import choose, got, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.stack.document import Document, Fault, Path

_FREE: tuple[Path, ...] = (("gates",), ("serve", "args"))
"""Below these stands what people like."""
_FOLDER = ("model", "path")
_NUL = re.compile("\0")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVER = ("target", "driver")
_GPU = ("target", "gpu")
_START = "leave it out and give it when the container starts: docker run --env NAME"
_EXAMPLES: dict[Path, str] = {
    (): "write either base: {debian: bookworm} or runtime: {image: REFERENCE}",
    ("base",): "write either debian: bookworm or image: REFERENCE",
    ("model",): "write either repo: organisation/name or path: FOLDER",
}
_HUB_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)")


def check(document: Document, file: FilePath) -> Iterator[Fault]:
    """Yield every fault of a stack read from `file`."""
    yield from _credentials(document)
    yield from _characters(document)
    yield from _name(document, file)
    yield from _choices(document)
    yield from _engine(document)
    yield from _version(document)
    yield from _gpus(document)
    yield from _accelerator(document)
    yield from _driver(document)
    yield from _repo(document)
    yield from _folder(document, file.parent)
    yield from arguments(document)
    yield from _repository(document)
    yield from _nulls(document)


def _credentials(document: Document) -> Iterator[Fault]:
    for path, spot in document.spots.items():
        name, value = str(path[-1]) if path else "", spot.written or ""
        setting = path[:1] in {("serve",), ("image",)}
        if is_credential(value) or (setting and is_secret_setting(name, value)):
            hint = _START if path[0] == "serve" else "leave it out: it would be seen in the lock"
            yield document.fault(path, "looks like a credential", hint)


def _characters(document: Document) -> Iterator[Fault]:
    """No argument, variable or name of a file can hold NUL; a folder holds no other either."""
    for path, spot in document.spots.items():
        parts = (spot.written or "", *(str(step) for step in path[-1:]))
        refused = _CONTROL if path == _FOLDER else _NUL
        if found := next((match for part in parts if (match := refused.search(part))), None):
            text = f"the character U+{ord(found[0]):04X} is not allowed"
            yield document.fault(path, text, "remove it")


def _name(document: Document, file: FilePath) -> Iterator[Fault]:
    name = document.get("name")
    if not isinstance(name, str) or not re.match(NAME, name) or file.name == f"{name}.yaml":
        return
    hint = f"rename the file to {name}.yaml"
    if file.suffix == ".yaml" and re.match(NAME, file.stem):
        hint = f"write name: {file.stem}, or {hint}"
    yield document.fault(("name",), f"the file is called `{file.name}`, not `{name}.yaml`", hint)


def _choices(document: Document) -> Iterator[Fault]:
    parts: dict[Path, Any] = {(): Stack, ("base",): Base, ("model",): Model}
    for path, part in parts.items():
        value = document.get(*path)
        if not isinstance(value, dict):
            continue
        given = [name for name in part.one_of if value.get(name) is not None]
        if len(given) != 1:
            yield document.fault(path, one_of_words(part.one_of), _EXAMPLES[path])


def _engine(document: Document) -> Iterator[Fault]:
    name = document.get("engine", "name")
    if not isinstance(name, str) or name in engines():
        return
    near = nearest(name, {known: (known,) for known in engines()}) or tuple(engines())
    text = f"unknown engine {shown(name)}"
    yield document.fault(("engine", "name"), text, f"write {choose(quoted(near))}")


def _version(document: Document) -> Iterator[Fault]:
    from packaging.version import InvalidVersion, Version

    path, asked = ("engine", "version"), document.get("engine", "version")
    if not isinstance(asked, str) or not re.match(VERSION, asked):
        return
    try:
        Version(asked)
    except InvalidVersion:
        text = f"expected {EXPECTED[VERSION]}, got {got(path, document)}"
        yield document.fault(path, text, "write the version as the package index has it")


def _gpus(document: Document) -> Iterator[Fault]:
    asked = document.get(*_GPU)
    if not isinstance(asked, list):
        yield from _gpu(document, _GPU, asked)
        return
    for index, name in enumerate(asked):
        path = (*_GPU, index)
        if name == NO_GPU:
            hint = "a matrix is of GPUs; write a stack of its own for CPU"
            yield document.fault(path, "`none` cannot stand in a list", hint)
        elif isinstance(name, str) and name in asked[:index]:
            yield document.fault(path, f"{shown(name)} is listed twice")
        else:
            yield from _gpu(document, path, name)


def _gpu(document: Document, path: Path, name: Any) -> Iterator[Fault]:
    if isinstance(name, list | dict) or name is None or name in {NO_GPU, *gpus()}:
        return
    written = document.spots[path].written or ""
    near = similar_gpus(written)
    everything = textwrap.fill(f"known GPUs: {', '.join(gpus())}", 72, break_on_hyphens=False)
    hint = f"write {choose(quoted(near))}" if near else everything
    yield document.fault(path, f"unknown GPU {shown(written)}", hint)


def _accelerator(document: Document) -> Iterator[Fault]:
    name, asked = document.get("engine", "name"), document.get("target", "gpu")
    engine = engines().get(name) if isinstance(name, str) else None
    if engine is None:
        return
    path: Path = _GPU if _GPU in document.spots else ("engine", "name")
    if engine.accelerator == "cuda" and asked in (None, NO_GPU):
        hint = f"write target.gpu, or take engine {_engines_for('cpu')}"
        yield document.fault(path, f"engine `{name}` needs a GPU, got none", hint)
    if engine.accelerator == "cpu" and asked not in (None, NO_GPU):
        hint = f"write gpu: none, or take engine {_engines_for('cuda')}"
        yield document.fault(path, f"engine `{name}` runs on the CPU and uses no GPU", hint)


def _engines_for(accelerator: str) -> str:
    names = [engine.name for engine in engines().values() if engine.accelerator == accelerator]
    return choose(quoted(names))


def _driver(document: Document) -> Iterator[Fault]:
    asked = document.get(*_DRIVER)
    if asked is None or isinstance(asked, bool | list | dict) or _is_range(asked):
        return
    written = document.spots[_DRIVER].written or ""
    hint = ""
    if re.fullmatch(r"[Rr]?[0-9]+(\.[0-9]+)*\+?", written):
        hint = f'write driver: ">={written.strip("Rr+")}"'
    text = f"expected a range of versions such as `>=580`, got {got(_DRIVER, document)}"
    yield document.fault(_DRIVER, text, hint)


def _is_range(text: Any) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return isinstance(text, str) and len(SpecifierSet(text)) > 0
    except InvalidSpecifier:
        return False


def _repo(document: Document) -> Iterator[Fault]:
    path, repo = ("model", "repo"), document.get("model", "repo")
    if not isinstance(repo, str) or re.match(HUB_REPO, repo):
        return
    found = _HUB_URL.match(repo)
    hint = f"write repo: {found[1]}" if found else "for a folder write path: instead of repo:"
    yield document.fault(path, f"expected `organisation/name`, got {got(path, document)}", hint)


def _folder(document: Document, home: FilePath) -> Iterator[Fault]:
    path, folder = _FOLDER, document.get(*_FOLDER)
    if not isinstance(folder, str) or not folder or _CONTROL.search(folder):
        return
    if FilePath(folder).is_absolute():
        text = f"expected a path relative to the stack file, got {got(path, document)}"
        yield document.fault(path, text, "a lock works on every machine, so it holds no local path")
    elif what := _no_folder(home / folder):
        hint = f"looked for {home / folder}: paths are relative to the stack file"
        yield document.fault(path, f"{shown(folder)} {what}", hint)


def _no_folder(place: FilePath) -> str:
    """Say why `place` is no folder, nothing if it is one."""
    try:
        if place.is_dir():
            return ""
        return "is a file, expected a folder" if place.exists() else "does not exist"
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"


def _repository(document: Document) -> Iterator[Fault]:
    path, name = ("image", "repository"), document.get("image", "repository")
    if not isinstance(name, str) or re.match(REPOSITORY, name):
        return
    plain = re.sub(r"(:[A-Za-z0-9_][\w.-]*)?(@.*)?$", "", name.partition("://")[2] or name).lower()
    hint = f"write repository: {plain}" if re.match(REPOSITORY, plain) else ""
    text = f"expected `registry/path` without tag or digest, got {got(path, document)}"
    yield document.fault(path, text, "" if is_credential(name) else hint)


def _nulls(document: Document) -> Iterator[Fault]:
    """Where any value may stand, there must be one: a lock has no null."""
    for path, spot in document.spots.items():
        free = any(len(path) > len(home) and path[: len(home)] == home for home in _FREE)
        if free and spot.written is not None and document.get(*path) is None:
            yield document.fault(path, "expected a value, got nothing")
