"""The engine's last lines, and which of them tell why it died (pure)."""

import re
from collections import deque
from collections.abc import Sequence

KEPT_LINES = 200
_KEPT_BYTES = 2000
"""Of one line; the rest is counted, not kept."""

_RECORD = re.compile(
    r"^(?:\([^)]* pid=\d+\)\s)?"
    r"(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:,.]+ \[[^\]]*\] ?)?"
)
"""What vLLM puts before each line: `(EngineCore pid=7) ERROR 05-10 12:00:00 [core.py:70] `."""

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NOISE = re.compile(r"\d+%\||\b(?:it|s|B)/(?:s|it)\b.*\]|^\s*[\^~]+\s*$")
"""Progress bars, and the marks under a line of a traceback."""

_TRACEBACK = "Traceback (most recent call last)"
_ERROR = re.compile(
    r"(?:^|[\s\[(])(?:ERROR|CRITICAL|FATAL|Fatal)[\s\]):]|\b[eE]rror: |\w+(?:Error|Exception):"
)
_ELSEWHERE = "root cause above"
"""vLLM's front process says so in the last traceback; the one before it is worth reading."""


class Tail:
    """The last lines of a stream of bytes that may break anywhere."""

    def __init__(self) -> None:
        """Start empty."""
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._open = bytearray()
        self._dropped = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._extend(part)
            self._lines.append(self._text())
            self._open.clear()
            self._dropped = 0
        self._extend(rest)

    def lines(self) -> list[str]:
        """The last lines, an unfinished one included."""
        return [*self._lines, self._text()] if self._open else list(self._lines)

    def _extend(self, part: bytes) -> None:
        # A carriage return starts the line anew: of a progress bar the last state is kept.
        after = part.rstrip(b"\r").rsplit(b"\r", 1)
        if len(after) > 1:
            self._open.clear()
            self._dropped = 0
        room = max(0, _KEPT_BYTES - len(self._open))
        self._open += after[-1][:room]
        self._dropped += max(0, len(after[-1]) - room)

    def _text(self) -> str:
        text = _COLOUR.sub("", self._open.decode("utf-8", "replace")).rstrip()
        return f"{text}... (+{self._dropped} bytes)" if self._dropped else text


def useful(lines: Sequence[str], limit: int = 16) -> list[str]:
    """At most `limit` lines that tell why the engine ended.

    The last traceback that does not point to an earlier one; else the lines that speak of errors;
    else the last ones.
    """
    told = [line for line in lines if line.strip() and not _NOISE.search(_message(line))]
    tracebacks = _tracebacks(told)
    pointed = [block for block in tracebacks if not any(_ELSEWHERE in line for line in block)]
    chosen = (pointed or tracebacks)[-1:]
    if chosen:
        return _shortened(chosen[0], limit)
    errors = [line for line in told if _ERROR.search(line)]
    return (errors or told)[-limit:]


def _message(line: str) -> str:
    return _RECORD.sub("", line, count=1)


def _tracebacks(lines: Sequence[str]) -> list[list[str]]:
    blocks: list[list[str]] = []
    is_open = names_exception = False
    for line in lines:
        message = _message(line)
        if _TRACEBACK in message:
            blocks.append([])
            is_open, names_exception = True, False
        elif not message[:1].isspace():
            # The first line that is not indented names the exception, the second is another matter.
            is_open, names_exception = is_open and not names_exception, True
        if is_open:
            blocks[-1].append(line)
    return blocks


def _shortened(block: list[str], limit: int) -> list[str]:
    if len(block) <= limit:
        return block
    return [block[0], "  ...", *block[2 - limit :]]
