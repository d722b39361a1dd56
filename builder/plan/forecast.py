"""Lock → forecast.  Pure: no network, no clock, no files.

Sizes of weight layers are exact; those of software that nobody packed yet are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.digest import of_bytes
from builder.oci.image import Image, make_image
from builder.oci.layer import MEDIA_TYPES, Layer
from builder.plan.findings import findings
from builder.plan.layers import of_kind, planned, total
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.lock import Lock
    from builder.plan.layers import Contents, PlannedLayer, Situation
    from builder.rules import Finding

_COPY = "blobs and unpacked copy"


@dataclass(frozen=True)
class Transfer:
    """What a release sends."""

    what: str
    size: int
    is_exact: bool
    seconds: tuple[float, ...]
    """At each bandwidth."""


@dataclass(frozen=True)
class Disk:
    """Bytes of disk taken beyond those in use now."""

    what: str
    size: int
    is_exact: bool
    remark: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """All that can be said before a byte moves."""

    name: str
    layers: tuple[PlannedLayer, ...]
    manifest_bytes: int
    situation: Situation
    transfers: tuple[Transfer, ...]
    disks: tuple[Disk, ...]
    findings: tuple[Finding, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return total(self.layers)

    @property
    def is_exact(self) -> bool:
        """Whether no layer's size is an estimate."""
        return all(layer.is_exact for layer in self.layers)


def forecast(
    lock: Lock,
    container: Mapping[str, Any],
    contents: Sequence[Contents],
    situation: Situation,
) -> Forecast:
    """Return what the image of `lock` costs; `container` is its `config`."""
    layers = tuple(planned(each) for each in contents)
    image = _stand_in(lock, container, layers)
    sent_anyway = len(image.manifest) + len(image.config)
    disks = tuple(_disks(layers, situation))
    found = findings(layers, len(image.manifest), disks[0].size, situation)
    return Forecast(
        name=lock.name,
        layers=layers,
        manifest_bytes=len(image.manifest),
        situation=situation,
        transfers=tuple(_transfers(layers, sent_anyway, situation.bandwidths)),
        disks=disks,
        findings=tuple(found),
    )


def _stand_in(lock: Lock, container: Mapping[str, Any], layers: Sequence[PlannedLayer]) -> Image:
    """Return an image whose manifest and config are as long as the real ones."""
    digest = of_bytes(b"")
    stand_ins = [
        Layer(
            digest=digest,
            size=layer.size,
            diff_id=digest,
            media_type=MEDIA_TYPES["none" if layer.kind == "weights" else "zstd"],
            title=layer.title,
            pieces=(),
        )
        for layer in layers
    ]
    return make_image(lock.name, lock.platform, stand_ins, container, "2026-01-01T00:00:00Z")


def _transfers(
    layers: tuple[PlannedLayer, ...], sent_anyway: int, bandwidths: Sequence[int]
) -> Iterator[Transfer]:
    def transfer(what: str, sent: tuple[PlannedLayer, ...]) -> Transfer:
        size = total(sent) + sent_anyway
        is_exact = all(layer.is_exact for layer in sent)
        return Transfer(what, size, is_exact, tuple(size * 8 / rate for rate in bandwidths))

    yield transfer("first push", layers)
    yield transfer("new weights", of_kind(layers, "weights", "names"))
    yield transfer("new engine", of_kind(layers, "wheels"))
    yield transfer("new settings", ())


def _disks(layers: tuple[PlannedLayer, ...], situation: Situation) -> Iterator[Disk]:
    is_exact = all(layer.is_exact for layer in layers)
    to_write = total(layer for layer in layers if not layer.is_exact)
    cache = situation.download_bytes + to_write
    without = cache - situation.weight_download_bytes
    whole, unpacked = total(layers), sum(layer.unpacked_bytes for layer in layers)
    shared = f"{human_bytes(cache + whole - _weights(layers))} where blocks are shared (XFS)"
    push = "weights go from their files"
    if without < cache and all(layer.digest for layer in of_kind(layers, "weights")):
        push = f"{human_bytes(without)} if the registry has the weights"

    yield Disk("the cache", cache, is_exact, _cache_remark(situation.download_bytes, to_write))
    yield Disk("with oci:DIR", cache + whole, is_exact, shared)
    yield Disk("with oci-archive:FILE", cache + whole, is_exact, "")
    yield Disk("with docker", cache + whole + unpacked, is_exact=False, remark=_COPY)
    yield Disk("with --push", cache, is_exact, push)
    if without < cache:
        yield Disk("with --push --stream", without, is_exact, "weights pass through")
    yield Disk("a node that runs it", whole + unpacked, is_exact=False, remark=_COPY)


def _weights(layers: tuple[PlannedLayer, ...]) -> int:
    return total(of_kind(layers, "weights"))


def _cache_remark(downloads: int, layers: int) -> str:
    parts = [f"downloads {human_bytes(downloads)}"] if downloads else []
    parts += [f"layers ~{human_bytes(layers)}"] if layers else []
    return ", ".join(parts) or "all is there"
