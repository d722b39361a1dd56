"""What a registry would not take, known before a byte moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import console
from builder.errors import PublishError
from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.oci.image import Image
    from builder.oci.layer import Layer
    from builder.oci.profiles import Profile

_SLOW_LINE = 1_000_000
"""Bytes per second that every uplink has: needing no more is not worth a warning."""
_SHARD_PART = 0.9
"""How much of a layer limit a shard of a model should take at most."""


def too_large(layers: Sequence[Layer], limits: Profile) -> tuple[Layer, ...]:
    """Return the layers that a registry would refuse for their size."""
    limit = limits.layer_bytes
    return tuple(layer for layer in layers if limit is not None and layer.size > limit)


def check(image: Image, limits: Profile, place: str) -> None:
    """Refuse an image that the registry would not take; warn where its limit is hearsay.

    Raises:
        PublishError: a layer or the manifest is too large; all layers that are get named.
    """
    excess = too_large(image.layers, limits)
    if excess and limits.verified:
        raise PublishError(_told(excess, limits, place), _remedy(limits))
    if excess:
        console.warn(_told(excess, limits, place))
    most, actual = limits.manifest_bytes, len(image.manifest)
    if actual > most:
        message = f"{place}: {limits.name} takes manifests of up to {most} bytes, this has {actual}"
        raise PublishError(message, "push to another registry")


def _told(excess: Sequence[Layer], limits: Profile, place: str) -> str:
    takes = "takes layers of" if limits.verified else "is said to take layers of"
    listed = "".join(f"\n  {layer.title}: {layer.size} bytes" for layer in excess)
    most = f"{limits.layer_bytes} bytes ({limits.source})"
    return f"{place}: {limits.name} {takes} up to {most}:{listed}"


def _remedy(limits: Profile) -> str:
    shard = max(int((limits.layer_bytes or 0) * _SHARD_PART) // 10**9, 1)
    return (
        "push to another registry, or save the model in smaller files: "
        f'save_pretrained(folder, max_shard_size="{shard}GB")'
    )


def haste(sizes: Sequence[int], limits: Profile) -> str | None:
    """Return what to warn of if uploads of these sizes, side by side, may outlast their limit."""
    seconds = limits.upload_seconds
    if not seconds or sum(sizes) <= seconds * _SLOW_LINE:
        return None
    needed = human_bytes(-(-sum(sizes) // seconds))
    return (
        f"{limits.name} ends an upload after {human_seconds(seconds)}: "
        f"the largest {len(sizes)}, sent at once, need {needed}/s"
    )
