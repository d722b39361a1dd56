"""A remote file that is read in pieces: the directory and one member of a wheel of 500 MB."""

from __future__ import annotations

import io

from builder.errors import ResolveError
from builder.sources import web

_BLOCK = 1 << 16
_KEPT = 1 << 25


class Ranges(io.RawIOBase):
    """A seekable file at an address, of which only the blocks that are asked for are read.

    Blocks that were read are kept, the newest 32 MiB: neighbours in an archive cost one request.
    """

    def __init__(self, url: str, block: int = _BLOCK) -> None:
        super().__init__()
        self._url, self._size, self._at = url, web.size(url), 0
        self._block, self._blocks = block, dict[int, bytes]()

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, all that are left without it."""
        begin = self._at
        end = self._size if count < 0 else min(begin + count, self._size)
        if begin >= end:
            return b""
        numbers = range(begin // self._block, (end - 1) // self._block + 1)
        missing = [number for number in numbers if number not in self._blocks]
        if missing:
            self._load(missing[0], missing[-1] + 1)
        self._at = end
        joined = b"".join(self._blocks[number] for number in numbers)
        while len(self._blocks) * self._block > _KEPT:
            del self._blocks[next(iter(self._blocks))]
        start = numbers[0] * self._block
        return joined[begin - start : end - start]

    def _load(self, first: int, end: int) -> None:
        begin = first * self._block
        count = min(end * self._block, self._size) - begin
        with web.opened(self._url, begin, count) as (body, begins):
            if begins != begin:
                message = f"{web.redacted(self._url)}: serves no ranges"
                raise ResolveError(message, "use an index that offers METADATA beside its wheels")
            data = body.read(count)
        for number in range(first, end):
            at = (number - first) * self._block
            self._blocks[number] = data[at : at + self._block]
