"""Whether the engine makes progress: tokens move while requests are in it (pure)."""

from dataclasses import dataclass

from builder.launcher.metrics import Sample


@dataclass(frozen=True)
class Progress:
    """What is remembered from one look at the counters to the next."""

    fine_at: float
    """When all was fine last: tokens had moved, or nobody waited (monotonic seconds)."""
    tokens: float | None = None
    requests: int = 0
    is_reachable: bool = True


def observe(before: Progress, sample: Sample | None, now: float) -> Progress:
    """What is known after another look; `sample` is None if the engine did not answer.

    A counter that went down was reset, which is a change like any other. An engine that counts no
    tokens cannot be judged, so all is fine.
    """
    if sample is None:
        return Progress(before.fine_at, before.tokens, before.requests, is_reachable=False)
    requests = sample.requests or 0
    is_stuck = requests > 0 and sample.tokens is not None and sample.tokens == before.tokens
    fine_at = before.fine_at if is_stuck else now
    return Progress(fine_at, sample.tokens, requests)


def stall(progress: Progress, now: float, limit: float) -> str | None:
    """Why the engine counts as stalled after `limit` seconds without progress, if it does."""
    seconds = now - progress.fine_at
    if limit <= 0 or seconds < limit:
        return None
    if not progress.is_reachable:
        return f"the engine has not answered for {seconds:.0f} s"
    plural = "" if progress.requests == 1 else "s"
    return f"no token for {seconds:.0f} s with {progress.requests} unfinished request{plural}"
