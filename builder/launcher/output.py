"""What the launcher writes: the engine's bytes unchanged, and its own lines between them."""

import contextlib
import os
import threading


class Output:
    """Standard output and error, shared by threads; a launcher's line never splits another."""

    def __init__(self, out: int = 1, err: int = 2) -> None:
        """Write to the file descriptors `out` and `err`."""
        self._out = out
        self._err = err
        self._lock = threading.Lock()
        self._line_is_open = False

    def pass_on(self, chunk: bytes) -> None:
        """Write what the engine wrote, at once and unchanged."""
        with self._lock:
            _write(self._out, chunk)
            self._line_is_open = not chunk.endswith(b"\n")

    def say(self, text: str) -> None:
        """Write one line of the launcher's own to standard output."""
        self._line(self._out, text)

    def complain(self, text: str) -> None:
        """Write one line of the launcher's own to standard error."""
        self._line(self._err, text)

    def _line(self, where: int, text: str) -> None:
        with self._lock:
            if self._line_is_open:
                _write(self._out, b"\n")
                self._line_is_open = False
            _write(where, f"launcher: {text}\n".encode("utf-8", "replace"))


def _write(where: int, content: bytes) -> None:
    # A reader that went away must stop neither the engine nor its shutdown.
    with contextlib.suppress(OSError):
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(where, rest) :]
