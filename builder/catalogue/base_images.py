"""What is known of base images by their names: the glibc inside."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from builder.catalogue.tables import listed


@dataclass(frozen=True, slots=True)
class BaseImage:
    """Images whose reference fits a pattern."""

    pattern: str
    glibc: str
    source: str


def glibc(reference: str) -> str | None:
    """Return the glibc of an image such as `registry.access.redhat.com/ubi9/ubi`, if known."""
    found = (row for row in _images() if fnmatchcase(reference.lower(), row.pattern))
    row = next(found, None)
    return row.glibc if row else None


@lru_cache
def _images() -> tuple[BaseImage, ...]:
    return listed(BaseImage, "base_images", "image")
