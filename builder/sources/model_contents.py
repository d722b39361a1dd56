"""What the files of a model say about each other, and whether that may enter an image.

Code of the repository (Python files, compiled modules, and `auto_map`, which makes an engine run
it) is refused unless the stack names its sha256: flags that switch it off have failed before
(CVE-2025-66448, CVE-2026-22807, CVE-2026-27893).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import IntegrityError, StackError
from builder.sources import model_files, safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.lock import ModelFile
    from builder.stack.model import Model as Asked

QUANTISATION = "hf_quant_config.json"
"""Where modelopt puts what others put into the config."""
INDEX = "model.safetensors.index.json"
_RUNNING_CODE = (
    model_files.CONFIG,
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
LOOKED_INTO = frozenset((*_RUNNING_CODE, QUANTISATION, INDEX))
"""Files whose content decides something."""
_CODE = frozenset((".py", ".pyc", ".so"))
_HINT = "choose another revision, or ask the model's author"


@dataclass(frozen=True)
class Contents:
    """What was read of a model's files."""

    documents: Mapping[str, Mapping[str, Any]]
    """The files of LOOKED_INTO that there are, by path."""
    headers: Mapping[str, safetensors.Header]
    """By path."""

    @property
    def config(self) -> dict[str, Any]:
        """The model's config, with its quantisation wherever that lies."""
        config = dict(self.documents.get(model_files.CONFIG, {}))
        separate = self.documents.get(QUANTISATION, {}).get("quantization")
        if isinstance(separate, dict) and "quantization_config" not in config:
            config["quantization_config"] = {"quant_method": "modelopt", **separate}
        return config

    @property
    def weights(self) -> list[safetensors.Header]:
        """Headers of the files that make up the model: those of its index, else of its folder."""
        named = set(self.shards.values())
        paths = named or {path for path in self.headers if "/" not in path}
        return [self.headers[path] for path in sorted(paths) if path in self.headers]

    @property
    def shards(self) -> Mapping[str, str]:
        """The index: file by tensor; empty without one."""
        found = self.documents.get(INDEX, {}).get("weight_map", {})
        return found if isinstance(found, dict) else {}


def read(paths: Mapping[str, Path], place: str) -> Contents:
    """Read what decides something from files on this disk."""
    documents = {
        path: document(file.read_bytes(), f"{place}: {path}")
        for path, file in paths.items()
        if path in LOOKED_INTO
    }
    headers = {
        path: _header(file, f"{place}: {path}")
        for path, file in paths.items()
        if model_files.is_weight(path)
    }
    return Contents(documents, headers)


def _header(path: Path, place: str) -> safetensors.Header:
    with path.open("rb") as file:
        return safetensors.read_header(file, path.stat().st_size, place)


def document(data: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object of a model."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        message = f"{place}: is not a JSON object"
        raise IntegrityError(message, _HINT)
    return content


def check(asked: Asked, files: Sequence[ModelFile], contents: Contents) -> None:
    """Check what can only be known once the files are read.

    Raises:
        StackError: the model brings code or weights that the stack does not allow.
        IntegrityError: index and weights contradict each other.
    """
    check_code(asked, files, contents)
    check_index(asked, contents)


def check_code(asked: Asked, files: Sequence[ModelFile], contents: Contents) -> None:
    """Refuse code that the stack does not name by its sha256."""
    allowed = set(asked.allow_code)
    code = {file.path for file in files if model_files.suffix_of(file.path) in _CODE}
    refused = [file for file in files if file.path in code and file.sha256 not in allowed]
    for file in files:
        missing = _modules(contents.documents.get(file.path, {})) - code
        if missing and file.sha256 not in allowed:
            refused.append(file)
    if refused:
        raise _code_refusal(asked, refused, code)


def _modules(config: Mapping[str, Any]) -> set[str]:
    """Return the files whose code `auto_map` makes an engine run.

    Values are `module.Class`, `repository--module.Class`, or a list of such and nulls.
    """
    automatic = config.get("auto_map")
    if not automatic:
        return set()
    values = automatic.values() if isinstance(automatic, dict) else [automatic]
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return {f"{str(name).rpartition('.')[0]}.py" for name in names if name is not None}


def _code_refusal(asked: Asked, files: Sequence[ModelFile], code: set[str]) -> StackError:
    place = model_files.place(asked)
    lines = [
        f"{place}: `{file.path}` "
        + ("is code" if file.path in code else "names code to run in `auto_map`")
        + f": sha256 {file.sha256}"
        for file in files
    ]
    every = dict.fromkeys((*asked.allow_code, *(file.sha256 for file in files)))
    hint = f"read it, then write under model: allow_code: {model_files.flow(every)}"
    return StackError("\n".join(lines), hint)


def check_index(asked: Asked, contents: Contents) -> None:
    """Check that every tensor is in exactly the file where the index says it is.

    Without an index every file is loaded, so no tensor may be in two of them.
    """
    place = model_files.place(asked)
    if INDEX in contents.documents:
        _check_unused(asked, contents)
        faults = _contradictions(contents)
    else:
        faults = _twice(contents.headers)
    if fault := next(faults, None):
        message = f"{place}: {fault}"
        raise IntegrityError(message, _HINT)


def _twice(headers: Mapping[str, safetensors.Header]) -> Iterator[str]:
    homes: dict[str, str] = {}
    for path in sorted(path for path in headers if "/" not in path):
        for name in headers[path].tensors:
            if name in homes:
                yield f"tensor `{name}` is in both `{homes[name]}` and `{path}`"
            homes[name] = path


def _contradictions(contents: Contents) -> Iterator[str]:
    shards = contents.shards
    if not shards or not all(isinstance(path, str) for path in shards.values()):
        yield f"`{INDEX}` has no `weight_map`"
        return
    absent = sorted(set(shards.values()) - set(contents.headers))
    if absent:
        yield f"`{INDEX}` names {model_files.listed(absent)}, which is not there"
        return
    for path in sorted(set(shards.values())):
        named = {tensor for tensor, home in shards.items() if home == path}
        held = contents.headers[path].tensors
        for tensor in sorted(named - held):
            yield f"tensor `{tensor}` is not in `{path}`, where `{INDEX}` says it is"
        for tensor in sorted(held - named):
            yield f"tensor `{tensor}` of `{path}` is not what `{INDEX}` says"


def _check_unused(asked: Asked, contents: Contents) -> None:
    """Refuse weights that no index names: an engine would not load them."""
    named = set(map(str, contents.shards.values()))
    unused = sorted(path for path in contents.headers if path not in named)
    if unused and named and not asked.files.include:
        place = model_files.place(asked)
        message = (
            f"{place}: {model_files.listed(unused)} is not in `{INDEX}`: it would not be loaded"
        )
        raise StackError(message, model_files.exclude_hint(asked, unused))
