"""The memory of one GPU as a bar of characters, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.cli.findings import wrapped
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.cli.colour import Line
    from builder.memory import Forecast
    from builder.rules import Subject, Verdict

_WIDTH = 72
_SIGNS = {
    "weights": "W",
    "activations": "A",
    "outside PyTorch": "o",
    "graphs": "g",
    "cache": ":",
}
_UNUSED = "."


def bar(found: Forecast) -> Iterator[Line]:
    """Yield a bar over all the memory of the GPU, and what its signs stand for."""
    total = found.device.total_bytes
    if sum(size for _, size in found.bar) > total:
        yield f"  {legend(found)}", ""
        return
    drawn = "".join(_SIGNS[name] * round(size * _WIDTH / total) for name, size in found.bar)
    yield f"  [{drawn[:_WIDTH]:{_UNUSED}<{_WIDTH}}]", "good" if found.fits else "error"
    yield f"  {legend(found)}", ""


def legend(found: Forecast) -> str:
    """`W weights 67.7  A activations 1.9  …`."""
    parts = [f"{_SIGNS[name]} {name.split()[0]} {size / GIB:.1f}" for name, size in found.bar]
    return "  ".join(parts)


def words(found: Forecast) -> str:
    """Say in one line what is taken, and what is left for requests of full length."""
    if found.excess_bytes:
        return f"asks for {found.excess_bytes / GIB:.1f} GiB more than is free at the start"
    if not found.fits:
        return f"{_taken(found)}: {-found.spare_bytes / GIB:.1f} GiB more are needed"
    if not found.request_bytes:
        return f"{_taken(found)}; it keeps no cache"
    requests = found.cache_bytes // found.request_bytes
    plural = "" if requests == 1 else "s"
    return f"{_taken(found)}, cache for {found.cache_tokens:,} tokens: {requests} request{plural}"


def _taken(found: Forecast) -> str:
    used = sum(size for name, size in found.bar if name != "cache")
    return f"{used / GIB:.1f} of {found.budget_bytes / GIB:.1f} GiB taken"


def section(verdicts: Sequence[Verdict]) -> Iterator[Line]:
    """Yield the memory of each cell: one gets a bar, several a line each."""
    found = [(str(each.subject.stack.target.gpu), each.memory) for each in verdicts]
    known = [(gpu, memory) for gpu, memory in found if memory is not None]
    if not known:
        return
    yield "", ""
    tokens = verdicts[0].subject.context
    yield f"  memory of one GPU in GiB; a request has up to {tokens:,} tokens", "head"
    for gpu, memory in known:
        text = f"{gpu}: {words(memory)}"
        look = "" if memory.fits else "error"
        yield from ((line, look) for line in wrapped(text, "  ", "    "))
        if len(known) == 1:
            yield from bar(memory)
            yield from _fits(verdicts)


def _fits(verdicts: Sequence[Verdict]) -> Iterator[Line]:
    from builder.rules.memory import answers

    fits = next(filter(None, (answers(verdict.subject) for verdict in verdicts)), None)
    if fits is not None:
        smallest = f"; the smallest GPU for it is {fits.gpu}" if fits.gpu else ""
        text = f"longest context here: {fits.context:,} tokens{smallest}"
        yield from ((line, "") for line in wrapped(text, "  ", "    "))


def described(subject: Subject) -> dict[str, Any] | None:
    """Return a forecast as JSON shows it: bytes of one GPU, and what would fit."""
    from builder.rules.memory import answers
    from builder.rules.served import forecast_of

    found, fits = forecast_of(subject), answers(subject)
    if found is None or fits is None:
        return None
    return {
        "largest_context": fits.context,
        "highest_concurrency": fits.requests,
        "smallest_gpu": fits.gpu,
        "fits": found.fits,
        "close": found.is_close,
        "total_bytes": found.device.total_bytes,
        "budget_bytes": found.budget_bytes,
        "weights_bytes": found.weights_bytes,
        "activation_bytes": found.activation_bytes,
        "outside_bytes": found.outside_bytes,
        "graphs_bytes": found.graphs_bytes,
        "graphs_counted": found.graphs_counted,
        "cache_bytes": found.cache_bytes,
        "cache_tokens": found.cache_tokens,
        "needed_bytes": found.needed_bytes,
        "spare_bytes": found.spare_bytes,
    }
