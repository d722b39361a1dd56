"""What to know before building: registry limits, disk, layers that nobody has hashed.

They are findings like those of the rules, and have pages like theirs (`TITLES`); they look at the
layers to be and at this machine, not at the stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.oci.packing import MAX_LAYERS, MAX_WEIGHT_LAYERS
from builder.plan.layers import of_kind, total
from builder.plan.rates import human_rate
from builder.rules import Finding
from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.oci.profiles import Profile
    from builder.plan.layers import PlannedLayer, Situation
    from builder.rules import Severity

Layers = tuple["PlannedLayer", ...]

_IN_FLIGHT = 8
"""Blobs that a push sends at the same time: they share the line."""
_GB = 10**9
_ENGINES = "containerd mounts 127 layers at most, less those it adds itself"
_MACHINE = "free bytes of the cache's disk"
_ELSEWHERE = "push to another registry"
_REPOSITORY = "image.repository"

TITLES = {
    "image-layers": "container engines take as many layers",
    "registry-layer-size": "the registry takes layers as large",
    "registry-manifest-size": "the registry takes a manifest as long",
    "registry-upload-time": "the registry waits as long for an upload",
    "disk-cache": "the cache's disk has room",
    "weights-no-digest": "the lock knows the digests of weight layers",
}
"""What holds where nothing is found, by id."""


def _finding(name: str, severity: Severity, text: str, hint: str, source: str) -> Finding:
    place = "model" if name.startswith("weights") else _REPOSITORY
    return Finding(severity, place, text, hint, source, rule=name)


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
        hint = "put fewer models into one image"
        yield _finding("image-layers", "error", text, hint, _ENGINES)


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
            yield _finding("registry-layer-size", "error", text, fix, limits.source)


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
        yield _finding("registry-manifest-size", "error", text, _ELSEWHERE, limits.source)


def _free_disk(cache_bytes: int, situation: Situation) -> Iterator[Finding]:
    free = situation.free_bytes
    if free is None or cache_bytes <= free:
        return
    text = f"the cache grows by {human_bytes(cache_bytes)}, but {human_bytes(free)} are free"
    hint = "free space, or set BUILDER_CACHE to a folder on a larger disk"
    if cache_bytes - situation.weight_download_bytes <= free:
        stream = "; --push with --stream keeps no weights"
        yield _finding("disk-cache", "warning", text, hint + stream, _MACHINE)
    else:
        yield _finding("disk-cache", "error", text, hint, _MACHINE)


def _upload_time(layers: Layers, limits: Profile, bandwidth: int) -> Iterator[Finding]:
    longest = limits.upload_seconds
    at_once = sorted((layer.size for layer in layers), reverse=True)[:_IN_FLIGHT]
    seconds = sum(at_once) * 8 / bandwidth
    if longest and seconds > longest:
        text = (
            f"{limits.name} ends an upload after {human_seconds(longest)}: the largest layers, "
            f"sent side by side, take {human_seconds(seconds)} at {human_rate(bandwidth)}"
        )
        hint = "push from a faster line"
        yield _finding("registry-upload-time", "warning", text, hint, limits.source)


def _unknown_digests(layers: Layers) -> Iterator[Finding]:
    unknown = [layer for layer in of_kind(layers, "weights") if layer.digest is None]
    if unknown:
        text = (
            f"the lock has no digest for {len(unknown)} of the weight layers: a build reads "
            f"their {human_bytes(total(unknown))} once"
        )
        hint = "builder build adds them to the lock: later releases need no weights here"
        yield _finding("weights-no-digest", "note", text, hint, "the lock")
