"""What is known of weight layers: which digest the layer has that these files make.

weights/<key>.json   named after the packer's version and the files in order

A layer's digest is a function of exactly that, so what is remembered never grows old.  Losing it
costs one more reading of the files.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from builder import files
from builder.digest import Digest, hex_of, of_bytes, parse
from builder.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class WeightMemo:
    """A folder of digests; several builds may read and write it at once."""

    def __init__(self, root: Path, packer: int) -> None:
        self._folder = root / "weights"
        self._packer = packer

    def recall(self, content: Sequence[tuple[str, int]]) -> Digest | None:
        """Return the digest of the layer made of files given as (sha256, size), if it is known.

        A damaged record is no knowledge: it holds a digest of itself.
        """
        inputs = self._inputs(content)
        try:
            record = json.loads(self._path(inputs).read_bytes())
            layer = parse(record["layer"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return layer if record == _record(inputs, layer) else None

    def remember(self, content: Sequence[tuple[str, int]], digest: Digest) -> None:
        """Record a digest; where that cannot be, the next build computes it again."""
        inputs = self._inputs(content)
        text = json.dumps(_record(inputs, digest), indent=1, sort_keys=True)
        with contextlib.suppress(HostError):
            files.write_atomic(self._path(inputs), text.encode())

    def _inputs(self, content: Sequence[tuple[str, int]]) -> dict[str, Any]:
        return {"packer": self._packer, "files": [[sha256, size] for sha256, size in content]}

    def _path(self, inputs: dict[str, Any]) -> Path:
        return self._folder / f"{hex_of(_digest(inputs))}.json"


def _record(inputs: dict[str, Any], layer: Digest) -> dict[str, Any]:
    record = {**inputs, "layer": layer}
    return {**record, "check": _digest(record)}


def _digest(value: dict[str, Any]) -> Digest:
    return of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
