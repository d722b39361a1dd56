"""A package index on this machine, which pip's settings name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.sources import index
from tests.file_server import Site, serving


@contextmanager
def serving_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Site]:
    """Serve from a cache of its own; pages and files are put there by the test."""
    monkeypatch.setenv("BUILDER_CACHE", str(folder / "cache"))
    with serving() as site:
        monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
        index.settings.cache_clear()
        yield site
    index.settings.cache_clear()
