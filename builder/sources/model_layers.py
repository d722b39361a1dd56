"""The digests of the layers that a model's weights make, as far as they are known without reading.

They come from the previous lock and from what this machine remembers; both are keyed by content,
so what they say of these files is never out of date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.digest import Digest, parse
from builder.errors import IntegrityError
from builder.oci.packing import pack_files
from builder.sources.model_files import is_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from builder.lock import ModelFile
    from builder.oci.memo import WeightMemo

Group = tuple["ModelFile", ...]


def groups(files: Iterable[ModelFile]) -> tuple[Group, ...]:
    """Return the weight files that share layers, in the order of the layers."""
    return pack_files(file for file in files if is_weight(file.path))


def known(group: Group, memo: WeightMemo) -> Digest | None:
    """Return the digest of the layer of `group`, if its lock or this machine knows it."""
    locked = {file.layer for file in group}
    remembered = memo.recall(_content(group))
    if len(locked) == 1 and (digest := locked.pop()):
        if remembered not in (None, digest):
            raise _contradicted(group, digest, str(remembered))
        return parse(digest)
    return remembered


def carried(
    files: Sequence[ModelFile], earlier: Sequence[ModelFile], memo: WeightMemo
) -> tuple[ModelFile, ...]:
    """Return `files` with the layers that `earlier`, or this machine, knows of the same groups."""
    before = {_content(group): known(group, memo) for group in groups(earlier)}
    found = {}
    for group in groups(files):
        content = _content(group)
        found[content] = before.get(content) or memo.recall(content)
    return with_layers(files, lambda group: found[_content(group)])


def with_layers(
    files: Sequence[ModelFile], digest_of: Callable[[Group], Digest | None]
) -> tuple[ModelFile, ...]:
    """Return `files` where every weight file names the layer that holds it."""
    layers: Mapping[str, Digest | None] = {
        file.sha256: digest
        for group in groups(files)
        for digest in (digest_of(group),)
        for file in group
    }
    return tuple(file.model_copy(update={"layer": layers.get(file.sha256)}) for file in files)


def remember(group: Group, digest: Digest, memo: WeightMemo) -> None:
    """Keep what was computed for the next lock of these files."""
    memo.remember(_content(group), digest)


def _contradicted(group: Group, locked: str, remembered: str) -> IntegrityError:
    names = group[0].path if len(group) == 1 else f"{group[0].path} and {len(group) - 1} more"
    message = f"{names}: the lock says layer {locked}, this machine knew {remembered}"
    hint = "run builder lock with the stack and -P model; if that is no help, builder store verify"
    return IntegrityError(message, hint)


def _content(group: Group) -> tuple[tuple[str, int], ...]:
    return tuple((file.sha256, file.size) for file in group)
