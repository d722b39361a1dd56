"""Content digests as values: always `sha256:<64 hex digits>`, as in the OCI image specification."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, BinaryIO, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Digest = NewType("Digest", str)

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
_BLOCK = 1 << 20


def parse(text: str) -> Digest:
    """Return `text` as a digest, or raise ValueError."""
    if not _PATTERN.fullmatch(text):
        message = f"expected `sha256:` and 64 hex digits, got `{text}`"
        raise ValueError(message)
    return Digest(text)


def from_hex(hexadecimal: str) -> Digest:
    """Return the digest with these 64 hex digits."""
    return parse(f"sha256:{hexadecimal}")


def hex_of(digest: Digest) -> str:
    """Return the 64 hex digits."""
    return digest.removeprefix("sha256:")


def of_bytes(data: bytes) -> Digest:
    """Return the digest of `data`."""
    return from_hex(hashlib.sha256(data).hexdigest())


def of_chunks(chunks: Iterable[bytes]) -> Digest:
    """Return the digest of a stream."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return from_hex(state.hexdigest())


def of_file(file: BinaryIO) -> Digest:
    """Return the digest of what is left to read in `file`."""
    return of_chunks(iter(lambda: file.read(_BLOCK), b""))


def sha256_of(path: Path) -> str:
    """Return the 64 hex digits of a file's content, as locks hold them."""
    with path.open("rb") as file:
        return hex_of(of_file(file))
