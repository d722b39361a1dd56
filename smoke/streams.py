"""A stream that is under way when its container is told to stop."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smoke.containers import Box

LONGEST = 400
"""Tokens: long enough to be told to stop in the middle, short enough to end within a drain."""
BEFORE_SIGNAL = 3
"""Chunks that arrive before the signal is sent."""
STOP_GRACE = 15
"""Seconds the launcher takes at most after the drain, see docs/launcher.md."""
ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Drain:
    """What followed from SIGTERM in mid-stream."""

    events: list[str]
    """What the client got, the whole stream."""
    after_signal: int
    """How many of them came later than the signal."""
    readiness: int
    """What `/readyz` said meanwhile."""
    code: int | None
    """Exit code, None if it did not end in time."""
    seconds: float
    """From the signal to the end of the container."""

    @property
    def finish_reason(self) -> str | None:
        """Why the engine ended the stream; None if it did not."""
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        return reasons[-1] if reasons else None


def drain(box: Box) -> Drain:
    """Stop the container in mid-stream and see what comes of it."""
    events = stream(box)
    before = [next(events) for _ in range(BEFORE_SIGNAL)]
    begin = time.monotonic()
    box.container.kill(signal="SIGTERM")
    readiness = box.probe("/readyz").status
    after = list(events)
    left = float(box.image.serve["drain"]) + STOP_GRACE - (time.monotonic() - begin)
    code = box.await_end(left)
    seconds = time.monotonic() - begin
    if code is None:
        box.container.kill()
    return Drain([*before, *after], len(after), readiness, code, seconds)


def stream(box: Box) -> Iterator[str]:
    """Yield the events of one long answer as they come over the published port."""
    connection = http.client.HTTPConnection("127.0.0.1", box.port(), timeout=ANSWER_SECONDS)
    tokens = min(LONGEST, int(box.image.serve["max_model_len"] or 2 * LONGEST) // 2)
    body = {"model": box.image.serve["model"], "prompt": "Hello", "stream": True}
    text = json.dumps({**body, "max_tokens": tokens, "ignore_eos": True})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", text, headers)
    answer = connection.getresponse()
    try:
        while line := answer.readline():
            if line.startswith(b"data: "):
                yield line[6:].strip().decode()
    except (OSError, http.client.HTTPException):
        return  # cut off: what came so far tells
    finally:
        connection.close()
