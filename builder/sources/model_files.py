"""Which files of a model enter an image, by their names alone.  Pure.

Nothing is left out silently but version control's files: what must not enter is an error that gives
the line to write.  Refused are

- formats that can run code when they are loaded: pickle, and what may hold it;
- second copies of the weights in formats that are not served;
- safetensors outside the model's own folder, such as `original/`: they double an image.  What
  `model.files.include` names is taken as meant.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.sources import safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from builder.stack.model import Files
    from builder.stack.model import Model as Asked

CONFIG = "config.json"

_BOOKKEEPING = (".cache", ".huggingface", ".DS_Store")
_PICKLES = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".nemo"),
    *(".npy", ".npz", ".h5", ".keras"),
)
"""Formats that can run code when they are loaded; npy holds objects, HDF5 Keras's lambdas."""
_OTHER_FORMATS = (
    *(".msgpack", ".onnx", ".onnx_data", ".tflite", ".ot", ".mlmodel"),
    *(".gguf", ".ggml", ".llamafile"),
)
"""Data alone, but nothing that is served reads them."""
_LONGEST_NAME = 255
_SHOWN = 5
"""Names that are listed before `and … more`."""


def place(asked: Asked) -> str:
    """Return what messages call the model."""
    return asked.repo or asked.path or "model"


def is_bookkeeping(path: str) -> bool:
    """Tell whether a file is of version control or of the hub's client."""
    segments = PurePosixPath(path).parts
    return any(part.startswith(".git") or part in _BOOKKEEPING for part in segments)


def select(asked: Asked, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that enter the image, sorted.

    Raises:
        StackError: something is missing, or must be excluded first.
    """
    every = sorted(path for path in paths if not is_bookkeeping(path))
    chosen = tuple(path for path in every if _matches(path, asked.files))
    _check_names(asked, chosen)
    if missing := _missing(chosen):
        left = "" if _missing(every) == missing else " among the files that `model.files` leaves"
        message = f"{place(asked)}: has no {missing}{left}"
        raise StackError(message, "choose a model in safetensors format, or change model.files")
    if refused := _refused(asked, chosen):
        raise _refusal(asked, refused)
    return chosen


def _matches(path: str, files: Files) -> bool:
    """Decide as huggingface_hub does: `*` also matches `/`, and `folder/` means all below it."""
    included = not files.include or any(_fits(path, pattern) for pattern in files.include)
    return included and not any(_fits(path, pattern) for pattern in files.exclude)


def _fits(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)


def _check_names(asked: Asked, paths: Sequence[str]) -> None:
    counts = Counter(paths)
    for path, count in counts.items():
        if fault := _name_fault(path) or ("is there twice" if count > 1 else ""):
            shown = "".join(c if c.isprintable() else "?" for c in path)
            message = f"{place(asked)}: `{shown}` {fault}"
            raise StackError(message, "exclude it in model.files, or rename it")


def _name_fault(path: str) -> str:
    segments = path.split("/")
    if not path.isprintable() or "\\" in path or {"", ".", ".."} & set(segments):
        return "is not a path that an image can hold"
    if any(len(part.encode()) > _LONGEST_NAME for part in segments):
        return "has a name that is too long"
    # In a layer such a name does not add a file, it removes one (OCI image specification).
    return "has a name that removes files" if any(p.startswith(".wh.") for p in segments) else ""


@dataclass(frozen=True)
class _Refused:
    reason: str
    paths: tuple[str, ...]
    patterns: tuple[str, ...]


def _refused(asked: Asked, paths: Sequence[str]) -> list[_Refused]:
    reasons = (
        ("can run code when they are loaded", _PICKLES),
        ("are in a format that is not served", _OTHER_FORMATS),
    )
    found = [_by_suffix(reason, paths, suffixes) for reason, suffixes in reasons]
    if not asked.files.include:
        aside = tuple(path for path in paths if is_weight(path) and "/" in path)
        folders = tuple(dict.fromkeys(f"{path.partition('/')[0]}/*" for path in aside))
        found.append(_Refused("are not in the model's own folder", aside, folders))
    return [refused for refused in found if refused.paths]


def _by_suffix(reason: str, paths: Sequence[str], suffixes: tuple[str, ...]) -> _Refused:
    found = tuple(path for path in paths if suffix_of(path) in suffixes)
    patterns = dict.fromkeys(f"*{PurePosixPath(path).suffix}" for path in found)
    return _Refused(reason, found, tuple(patterns))


def suffix_of(path: str) -> str:
    """Return the last suffix in lower case."""
    return PurePosixPath(path).suffix.lower()


def is_weight(path: str) -> bool:
    """Tell whether a file is in safetensors format."""
    return suffix_of(path) == safetensors.SUFFIX


def _refusal(asked: Asked, refused: Sequence[_Refused]) -> StackError:
    lines = [f"{place(asked)}: {listed(item.paths)} {item.reason}" for item in refused]
    patterns = (pattern for item in refused for pattern in item.patterns)
    return StackError("\n".join(lines), exclude_hint(asked, patterns))


def exclude_hint(asked: Asked, patterns: Iterable[str]) -> str:
    """Return the line of the stack that leaves out more files."""
    every = dict.fromkeys((*asked.files.exclude, *patterns))
    before = f"include: {flow(asked.files.include)}, " if asked.files.include else ""
    return f"write under model: files: {{{before}exclude: {flow(every)}}}"


def listed(paths: Sequence[str]) -> str:
    """Name the first few paths."""
    names = ", ".join(f"`{path}`" for path in paths[:_SHOWN])
    return f"{names} and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else names


def flow(words: Iterable[str]) -> str:
    """Write a list as YAML does on one line."""
    return json.dumps(list(words), ensure_ascii=False)


def _missing(paths: Iterable[str]) -> str:
    names = set(paths)
    if CONFIG not in names:
        return f"`{CONFIG}`"
    found = any(is_weight(path) and "/" not in path for path in names)
    return "" if found else "weights in safetensors format"
