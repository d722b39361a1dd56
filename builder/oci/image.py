"""An image: its layers, its config and its manifest, as the OCI image specification has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.digest import Digest, of_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.oci.layer import Layer

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Image:
    """An image whose identity is the digest of its manifest."""

    name: str
    """What people call it: `repository:tag`, or the stack's name."""
    platform: str
    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> Digest:
        """Digest of the manifest."""
        return of_bytes(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(layer.size for layer in self.layers) + len(self.config) + len(self.manifest)


def canonical(value: Any) -> bytes:
    """Return the one JSON text of `value` that digests are computed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """Return what points at a small blob."""
    return {"mediaType": media_type, "digest": of_bytes(data), "size": len(data)}


def make_image(
    name: str,
    platform: str,
    layers: Sequence[Layer],
    container: Mapping[str, Any],
    created: str,
) -> Image:
    """Return the image of `layers`, lowest first, run as `container` says (`config` in OCI)."""
    system, architecture = platform.split("/")
    config = {
        "architecture": architecture,
        "os": system,
        "created": created,
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [
            {"created": created, "created_by": "builder", "comment": layer.title}
            for layer in layers
        ],
    }
    config_bytes = canonical(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config_bytes),
        "layers": [
            {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            for layer in layers
        ],
    }
    return Image(name, platform, tuple(layers), config_bytes, canonical(manifest))
