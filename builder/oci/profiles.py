"""What is known about a registry before the first byte is sent."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from builder import catalogue


@dataclass(frozen=True)
class Profile:
    """The limits of a kind of registry; None where none is known."""

    name: str
    """As people call it."""
    layer_bytes: int | None
    """Largest blob that it takes."""
    upload_seconds: int | None
    """Longest upload of one blob."""
    chunks: bool
    """Whether it takes a blob in several requests."""
    manifest_bytes: int
    """Largest manifest that it takes, or gives."""
    source: str
    """Who says how large a layer may be; empty where nobody does."""
    verified: bool
    """False where the limit of a layer is not the registry's own word."""


def profile(host: str) -> Profile:
    """Return what is known about the registry at `HOST[:PORT]`."""
    name = host.lower()
    rows = catalogue.registries().values()
    row = next((r for r in rows if any(fnmatchcase(name, p) for p in r.hosts)), None)
    row = row or catalogue.registries()["other"]
    return Profile(
        name=row.title,
        layer_bytes=row.layer_bytes,
        upload_seconds=row.upload_seconds,
        chunks=row.chunks,
        manifest_bytes=row.manifest_bytes,
        source=row.sources.get("layer_bytes", ""),
        verified="layer_bytes" not in row.unverified,
    )
