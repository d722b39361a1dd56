"""Lock, store and registry profile → Forecast.  Looks at this machine, changes nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import fetch as fetcher
from builder import plan
from builder.assemble import Assembler
from builder.digest import of_bytes
from builder.lock import PACKER_VERSION
from builder.oci.memo import WeightMemo
from builder.oci.profiles import profile
from builder.oci.store import Store
from builder.oci.weights import WeightFile, weight_layer
from builder.recipe import (
    BasePart,
    LauncherPart,
    NamesPart,
    Part,
    WeightsPart,
    WheelsPart,
    is_weight,
    pins,
    recipe,
)
from builder.reference import parse
from builder.sources import model_layers
from builder.sources.downloads import Downloads
from builder.sources.own import launcher_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.oci.layer import Layer
    from builder.pipeline.locking import Locked
    from builder.recipe import Recipe

BANDWIDTHS = (10**9, 10**10)
"""Bits per second of an ordinary line and of a good one."""

_KINDS: dict[type[Part], plan.Kind] = {
    BasePart: "base",
    WheelsPart: "wheels",
    LauncherPart: "launcher",
    NamesPart: "names",
}


@dataclass(frozen=True)
class PlanOptions:
    """What to forecast for."""

    push: str | None = None
    """Where to; None: the stack's own repository."""
    bandwidths: tuple[int, ...] = BANDWIDTHS
    gpu: str | None = None
    """The cell; None: all of them."""


def plan_lock(locked: Locked, cache: Path, options: PlanOptions) -> plan.Forecast:
    """Say what the image of a lock costs, with a cache such as `cache`."""
    asked = recipe(locked.lock)
    known = Assembler(asked, Store(cache), "zstd").recalled()
    memo = WeightMemo(cache, PACKER_VERSION)
    contents = [
        _weights(part, memo) if isinstance(part, WeightsPart) else _software(part, layer)
        for part, layer in zip(asked.parts, known, strict=True)
    ]
    situation = _situation(locked, cache, _needed(asked, known), options)
    return plan.forecast(locked.lock, asked.config, contents, situation)


def _needed(asked: Recipe, known: Sequence[Layer | None]) -> frozenset[str]:
    """Return the sha256 of every locked file that a build may have to read."""
    pairs = zip(asked.parts, known, strict=True)
    return frozenset(pin.sha256 for part, layer in pairs if layer is None for pin in pins(part))


def _situation(
    locked: Locked, cache: Path, needed: frozenset[str], options: PlanOptions
) -> plan.Situation:
    downloads = Downloads(cache)
    software = [w for w in fetcher.missing(locked.lock, downloads) if w.sha256 in needed]
    model = fetcher.absent_weights(locked.lock, needed, downloads)
    sizes = [item.size for item in software] + [file.size for file in model]
    repository = options.push or locked.lock.stack.get("image", {}).get("repository")
    reference = parse(repository) if repository else None
    return plan.Situation(
        download_bytes=sum(sizes),
        download_files=len(sizes),
        weight_download_bytes=sum(file.size for file in model if is_weight(file)),
        free_bytes=_free(cache),
        bandwidths=options.bandwidths,
        repository=reference.name if reference else None,
        limits=profile(reference.host) if reference else None,
    )


def _free(cache: Path) -> int:
    nearest = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free


def _software(part: Part, known: Layer | None) -> plan.Contents:
    inputs = [pin.size for pin in pins(part)]
    if isinstance(part, LauncherPart):
        inputs = [len(content) for content in launcher_files().values()]
    return plan.Contents(
        title=part.title,
        kind=_KINDS[type(part)],
        files=len(inputs),
        input_bytes=sum(inputs),
        size=known.size if known else None,
        digest=known.digest if known else None,
    )


def _weights(part: WeightsPart, memo: WeightMemo) -> plan.Contents:
    """Describe a layer whose files nobody needs to have read."""
    nowhere = Path()
    described = [WeightFile(nowhere, file.sha256, file.size) for file in part.files]
    return plan.Contents(
        title=part.title,
        kind="weights",
        files=len(part.files),
        input_bytes=sum(file.size for file in part.files),
        size=weight_layer(described, of_bytes(b""), part.title).size,
        digest=model_layers.known(part.files, memo),
    )
