"""Remote files of which a part is enough."""

from __future__ import annotations

import io

from builder.errors import ResolveError
from builder.sources import web


class Ranges(io.RawIOBase):
    """A remote file of which only what is asked for is read."""

    def __init__(self, url: str, block: int = 1 << 16) -> None:
        """Read `block` bytes at least with each request."""
        super().__init__()
        self._url, self._size, self._at = url, web.size(url), 0
        self._block = block
        self._known, self._begins = b"", 0

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def readable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere; nothing is asked for yet."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        end = self._size if count < 0 else min(self._at + count, self._size)
        if not self._begins <= self._at <= end <= self._begins + len(self._known):
            self._load(max(end - self._at, self._block))
        start = self._at - self._begins
        self._at = end
        return self._known[start : end - self._begins]

    def _load(self, count: int) -> None:
        with web.opened(self._url, self._at) as (body, begins):
            if begins != self._at:
                message = f"{web.redacted(self._url)}: serves no ranges"
                raise ResolveError(message, "use an index that offers METADATA beside its wheels")
            self._known, self._begins = body.read(count), begins
