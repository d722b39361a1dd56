"""What to know before building: registry limits, disk, layers that nobody has hashed.

Memory and compatibility will have their say in the same list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.oci.packing import MAX_LAYERS, MAX_WEIGHT_LAYERS
from builder.plan.layers import of_kind, total
from builder.plan.rates import human_rate
from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.oci.profiles import Profile
    from builder.plan.layers import PlannedLayer, Situation

Severity = Literal["error", "warning", "note"]
Layers = tuple["PlannedLayer", ...]

_IN_FLIGHT = 8
"""Blobs that a push sends at the same time: they share the line."""
_GB = 10**9
_ELSEWHERE = "push to another registry"


@dataclass(frozen=True)
class Finding:
    """Something to know before building; `id` is stable, for scripts."""

    id: str
    severity: Severity
    text: str
    hint: str


def findings(
    layers: Layers, manifest_bytes: int, cache_bytes: int, situation: Situation
) -> Iterator[Finding]:
    """Yield what to know, errors first."""
    yield from _layer_count(layers)
    if situation.limits is not None:
        yield from _layer_sizes(layers, situation.limits)
        yield from _manifest_size(manifest_bytes, situation.limits)
    yield from _free_disk(cache_bytes, situation)
    if situation.limits is not None:
        yield from _upload_time(layers, situation.limits, min(situation.bandwidths))
    yield from _unknown_digests(layers)


def _layer_count(layers: Layers) -> Iterator[Finding]:
    if len(layers) > MAX_LAYERS:
        text = f"{len(layers)} layers: container engines take {MAX_LAYERS}"
        yield Finding("image.layers", "error", text, "put fewer models into one image")


def _layer_sizes(layers: Layers, limits: Profile) -> Iterator[Finding]:
    largest = limits.layer_bytes
    if largest is None:
        return
    hint = _reshard(total(of_kind(layers, "weights")), largest)
    for layer in layers:
        if layer.size > largest:
            size = f"{'' if layer.is_exact else '~'}{human_bytes(layer.size)}"
            text = f"{layer.title}: {size}, {limits.name} takes {human_bytes(largest)} a layer"
            fix = hint if layer.kind == "weights" else _ELSEWHERE
            yield Finding("registry.layer-size", "error", text, fix)


def _reshard(weights: int, largest: int) -> str:
    """Shards must be small enough to be taken, and few enough to have a layer each."""
    shard = largest * 19 // 20 // _GB
    if shard * _GB * MAX_WEIGHT_LAYERS < weights:
        return f"{_ELSEWHERE}: so much does not fit into {MAX_WEIGHT_LAYERS} layers of this one"
    return f'save the model with save_pretrained(…, max_shard_size="{shard}GB"), or {_ELSEWHERE}'


def _manifest_size(size: int, limits: Profile) -> Iterator[Finding]:
    most = limits.manifest_bytes
    if most and size > most:
        text = f"the manifest has {size} bytes, {limits.name} takes {most}"
        yield Finding("registry.manifest-size", "error", text, _ELSEWHERE)


def _free_disk(cache_bytes: int, situation: Situation) -> Iterator[Finding]:
    free = situation.free_bytes
    if free is None or cache_bytes <= free:
        return
    text = f"the cache grows by {human_bytes(cache_bytes)}, but {human_bytes(free)} are free"
    hint = "free space, or set BUILDER_CACHE to a folder on a larger disk"
    if cache_bytes - situation.weight_download_bytes <= free:
        stream = "; --push with --stream keeps no weights"
        yield Finding("disk.cache", "warning", text, hint + stream)
    else:
        yield Finding("disk.cache", "error", text, hint)


def _upload_time(layers: Layers, limits: Profile, bandwidth: int) -> Iterator[Finding]:
    longest = limits.upload_seconds
    at_once = sorted((layer.size for layer in layers), reverse=True)[:_IN_FLIGHT]
    seconds = sum(at_once) * 8 / bandwidth
    if longest and seconds > longest:
        text = (
            f"{limits.name} ends an upload after {human_seconds(longest)}: the largest layers, "
            f"sent side by side, take {human_seconds(seconds)} at {human_rate(bandwidth)}"
        )
        yield Finding("registry.upload-time", "warning", text, "push from a faster line")


def _unknown_digests(layers: Layers) -> Iterator[Finding]:
    unknown = [layer for layer in of_kind(layers, "weights") if layer.digest is None]
    if unknown:
        text = (
            f"the lock has no digest for {len(unknown)} of the weight layers: a build reads "
            f"their {human_bytes(total(unknown))} once"
        )
        hint = "builder build adds them to the lock: later releases need no weights here"
        yield Finding("weights.no-digest", "note", text, hint)
