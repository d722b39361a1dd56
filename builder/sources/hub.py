"""The model hub, through huggingface_hub: a revision becomes a commit, and every file a sha256.

The hub names the sha256 of large files; small ones are read to learn theirs and checked against
the commit's own git digest.  Of weights only the header is read.  Where the hub is (`HF_ENDPOINT`)
and the token (`HF_TOKEN`, or a stored one) are the client's own settings; neither enters a lock,
and the token goes to that host alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from builder import files
from builder.errors import IntegrityError, ResolveError
from builder.lock import PACKER_VERSION, Model, ModelFile
from builder.oci.memo import WeightMemo
from builder.oci.tar import END
from builder.oci.weights import frame
from builder.sources import (
    hub_api,
    model_contents,
    model_facts,
    model_files,
    model_layers,
    safetensors,
    web,
)
from builder.sources.downloads import Downloads, Framing, Wanted
from builder.sources.streams import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from builder.sources.hub_api import Entry
    from builder.stack.model import Model as Asked

_PARALLEL = 4
"""Small files are held in memory while their digest is learnt."""
_LARGEST_SMALL = 64 << 20
"""More than any file that a hub keeps outside large file storage."""
_USUAL_HEADER = 256 << 10
_COMMIT = re.compile(r"[0-9a-f]{40}")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Source:
    """A repository at a commit."""

    repo: str
    commit: str

    def url(self, path: str) -> str:
        """Return where a file is."""
        return hub_api.url(self.repo, self.commit, path)


def pin(asked: Asked, downloads: Downloads, keep: Model | None = None) -> Model:
    """Return the model at the commit that its revision names now.

    `keep` is what a previous lock has of this repository: its commit stays.

    Raises:
        ResolveError: the hub does not have it, or does not let us have it.
        StackError: it holds what must not enter an image.
        IntegrityError: a file is malformed.
    """
    repo = asked.repo or ""
    listing = hub_api.listing(repo, keep.commit if keep and keep.commit else asked.revision)
    source = Source(repo, listing.commit)
    chosen = [listing.entries[path] for path in model_files.select(asked, listing.entries)]
    known = {file.path: file for file in keep.files} if keep else {}
    try:
        locked = _files(source, chosen, known, downloads)
        contents = _contents(source, locked, downloads)
    except web.RefusedError as fault:
        raise hub_api.refusal(repo) from fault
    model_contents.check(asked, locked, contents)
    facts = model_facts.facts(contents.config, contents.weights)
    return Model(
        role="main",
        repo=repo,
        commit=listing.commit,
        committed=hub_api.committed(repo, listing),
        files=locked,
        facts=facts,
    )


def keeps(asked: Asked, keep: Model) -> bool:
    """Tell whether the locked commit can be what is asked for: branches move, commits do not."""
    pinned = _COMMIT.fullmatch(asked.revision)
    return keep.repo == asked.repo and (not pinned or keep.commit == asked.revision)


def fetch(model: Model, downloads: Downloads) -> dict[str, Path]:
    """Bring every file into the cache and return where each lies.

    Weights that make a layer alone are read once in their life: the digest of the layer comes with
    the file, and is remembered.

    Raises:
        ResolveError: the hub does not have it any more, or does not let us have it.
        IntegrityError: the hub has other bytes.
    """
    framings = _framings(model, WeightMemo(downloads.root, PACKER_VERSION))
    downloads.fetch(
        [replace(wanted(model, file), framed=framings.get(file.sha256)) for file in model.files]
    )
    return {file.path: downloads.path(file.sha256) for file in model.files}


def stream(model: Model, file: ModelFile) -> RemoteFile:
    """Return a locked file to be read from the hub without a copy on this machine."""
    return RemoteFile(wanted(model, file))


def wanted(model: Model, file: ModelFile) -> Wanted:
    """Say where to fetch a locked file from."""
    return _wanted(Source(model.repo or "", model.commit or ""), file)


def _framings(model: Model, memo: WeightMemo) -> dict[str, Framing]:
    """Return, by sha256, what is to be digested with the files whose layers nobody knows yet."""
    return {
        group[0].sha256: _framing(group, memo)
        for group in model_layers.groups(model.files)
        if len(group) == 1 and model_layers.known(group, memo) is None
    }


def _framing(group: model_layers.Group, memo: WeightMemo) -> Framing:
    before, after = frame(group[0].sha256, group[0].size)
    return Framing(before, after + END, lambda digest: model_layers.remember(group, digest, memo))


def _wanted(source: Source, file: ModelFile) -> Wanted:
    label = f"{source.repo}/{file.path}"

    def gone() -> ResolveError:
        message = f"{label}: the hub does not have it at commit {source.commit[:12]} any more"
        return ResolveError(message, "set HF_ENDPOINT to a hub that has it, or lock again")

    return Wanted(
        label=label,
        sha256=file.sha256,
        size=file.size,
        urls=lambda: [source.url(file.path)],
        gone=gone,
        refused=lambda: hub_api.refusal(source.repo),
    )


def _files(
    source: Source,
    entries: Sequence[Entry],
    known: Mapping[str, ModelFile],
    downloads: Downloads,
) -> tuple[ModelFile, ...]:
    """Name the content of every file."""

    def complete(entry: Entry) -> ModelFile:
        sha256 = entry.sha256 or _remembered(entry, known) or _learn(source, entry, downloads)
        return ModelFile(path=entry.path, size=entry.size, sha256=sha256)

    return tuple(_parallel(complete, entries))


def _remembered(entry: Entry, known: Mapping[str, ModelFile]) -> str | None:
    """Return the digest from a lock of the same commit."""
    file = known.get(entry.path)
    return file.sha256 if file and file.size == entry.size else None


def _learn(source: Source, entry: Entry, downloads: Downloads) -> str:
    """Read a file that the hub gives no sha256 for, and keep it."""
    place = f"{source.repo}/{entry.path}"
    if entry.size > _LARGEST_SMALL:
        message = f"{place}: the hub gives no sha256 for a file of {entry.size} bytes"
        raise ResolveError(message, f'add "{entry.path}" to model.files.exclude')
    # One byte more than expected: enough to notice a longer body.  Nothing has no first byte.
    data = web.beginning(source.url(entry.path), entry.size + 1) if entry.size else b""
    _check_entry(place, entry, data)
    sha256 = hashlib.sha256(data).hexdigest()
    if not downloads.path(sha256).exists():
        files.write_atomic(downloads.path(sha256), data, 0o444)
    return sha256


def _check_entry(place: str, entry: Entry, data: bytes) -> None:
    hint = "a proxy may have changed it: check HF_ENDPOINT, then run the command again"
    if len(data) != entry.size:
        got = "more" if len(data) > entry.size else str(len(data))
        message = f"{place}: expected {entry.size} bytes, got {got}"
        raise IntegrityError(message, hint)
    # Git names content by SHA-1: `blob <size>`, a zero byte, the bytes.
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if entry.git not in (None, git):
        message = f"{place}: expected git blob {entry.git}, got {git}"
        raise IntegrityError(message, hint)


def _contents(
    source: Source, locked: Sequence[ModelFile], downloads: Downloads
) -> model_contents.Contents:
    looked_into = [file for file in locked if file.path in model_contents.LOOKED_INTO]
    downloads.fetch([_wanted(source, file) for file in looked_into])
    paths = {file.path: downloads.path(file.sha256) for file in looked_into}
    weights = [file for file in locked if model_files.is_weight(file.path)]
    headers = _parallel(lambda file: _header(source, file, downloads), weights)
    documents = model_contents.read(paths, source.repo).documents
    named = dict(zip((file.path for file in weights), headers, strict=True))
    return model_contents.Contents(documents, named)


def _header(source: Source, file: ModelFile, downloads: Downloads) -> safetensors.Header:
    place = f"{source.repo}/{file.path}"
    wanted_file = _wanted(source, file)
    if downloads.has(wanted_file):
        with downloads.path(file.sha256).open("rb") as stream:
            return safetensors.read_header(stream, file.size, place)
    beginning = io.BytesIO(_beginning(source.url(file.path), file.size))
    return safetensors.read_header(beginning, file.size, place)


def _beginning(url: str, size: int) -> bytes:
    """Read the header, in a second request where it is longer than usual."""
    first = web.beginning(url, min(size, _USUAL_HEADER)) if size else b""
    needed = safetensors.header_bytes(first)
    if len(first) < needed <= min(size, safetensors.LONGEST_HEADER):
        return web.beginning(url, needed)
    return first


def _parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    with ThreadPoolExecutor(_PARALLEL) as workers:
        tasks = [workers.submit(function, item) for item in items]
        try:
            return [task.result() for task in tasks]
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
