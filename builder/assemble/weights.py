"""Weight layers of a recipe: described from the lock, read only where no digest is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from builder import console
from builder.oci.layer import Content
from builder.oci.weights import WeightFile, identities, side_by_side, weigh, weight_layer
from builder.recipe import Recipe, WeightsPart
from builder.sources.model_layers import known, remember

if TYPE_CHECKING:
    from builder.oci.layer import Layer
    from builder.oci.memo import WeightMemo

Contents = Mapping[str, Content]
"""Where each weight file lies, would lie, or comes from, by its sha256."""


def weights_of(recipe: Recipe) -> tuple[WeightsPart, ...]:
    """Return the parts of a recipe that are weights."""
    return tuple(part for part in recipe.parts if isinstance(part, WeightsPart))


def unweighed(parts: Sequence[WeightsPart], memo: WeightMemo) -> frozenset[str]:
    """Return the sha256 of every file that must be read because nobody knows its layer."""
    unknown = [part for part in parts if known(part.files, memo) is None]
    return frozenset(file.sha256 for part in unknown for file in part.files)


def weight_layers(
    parts: Sequence[WeightsPart], contents: Contents, memo: WeightMemo
) -> dict[WeightsPart, Layer]:
    """Return the layer of every part.

    Raises:
        IntegrityError: a file that had to be read is not what the lock says.
    """
    chosen = {part: _files(part, contents) for part in parts}
    digests = {part: digest for part in parts if (digest := known(part.files, memo))}
    unknown = [part for part in parts if part not in digests]
    total = sum(file.size for part in unknown for file in part.files)
    read_as = identities(file for part in unknown for file in chosen[part])
    with console.progress(f"weigh {len(unknown)} layers of weights", total) as bar:
        weighed = side_by_side(weigh, [chosen[part] for part in unknown], bar.advance)
    for part, digest in zip(unknown, weighed, strict=True):
        remember(part.files, digest, memo)
        digests[part] = digest
    return {
        part: weight_layer(chosen[part], digests[part], f"weights {part.title}", read_as)
        for part in parts
    }


def _files(part: WeightsPart, contents: Contents) -> list[WeightFile]:
    return [WeightFile(contents[file.sha256], file.sha256, file.size) for file in part.files]
