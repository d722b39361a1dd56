"""`builder plan`: the forecast on one screen."""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder import console
from builder.cli import flags
from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.oci.profiles import Profile
    from builder.plan import Finding, Forecast, PlannedLayer

Line = tuple[str, str]
"""A text, and how it looks where there is colour."""

_STYLES = {"head": "1", "error": "1;31", "warning": "33", "note": "36", "dim": "2"}
_WIDTH = 80
_TITLE = 38
"""Characters of a layer's title that fit."""
_APART = 4
"""Layers of one kind that get a line each; more of them share one."""
_FINDINGS = 3
"""Findings of one kind that are shown; JSON has them all."""

_MOVES = {
    "base": "Debian packages",
    "wheels": "engine",
    "launcher": "builder",
    "weights": "its file; shared",
    "names": "model, its name",
}
_KINDS = {"wheels": "big wheels", "weights": "weight layers"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    text = "Forecast layers, sizes, transfers, disk and registry limits; no network."
    app.command("plan", help=text)(_plan)


def _plan(
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="The stack file.")],
    *,
    gpu: flags.Gpu = None,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REF", help="Where to; else the stack's image.repository."),
    ] = None,
    bandwidth: Annotated[
        list[str],
        typer.Option("--bandwidth", metavar="RATE", help="Such as 10Gbit/s or 1.25GB/s."),
    ] = [],  # noqa: B006 - typer copies it
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    from builder import plan
    from builder.pipeline import planning

    rates = tuple(plan.rate(text) for text in bandwidth) or planning.BANDWIDTHS
    forecast = planning.plan_stack(stack, planning.PlanOptions(push, rates, gpu))
    if json:
        console.emit_json(_json(forecast))
        return
    show = coloured if has_colour(is_terminal=sys.stdout.isatty()) else _plain
    console.emit("\n".join(show(line) for line in screen(forecast)))


def has_colour(*, is_terminal: bool) -> bool:
    """Tell whether lines may be coloured."""
    is_dull = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return is_terminal and not is_dull


def _plain(line: Line) -> str:
    return line[0]


def coloured(line: Line) -> str:
    """Return a line as terminals show it in colour."""
    text, style = line
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style else text


def screen(forecast: Forecast) -> Iterator[Line]:
    """Yield the lines of the answer, none longer than 80 characters if titles are plain."""
    count = len(forecast.layers)
    size = _size(forecast.size, is_exact=forecast.is_exact)
    yield f"{forecast.name}: {count} layers, {size}", "head"
    yield from _layers(forecast.layers)
    yield from _transfers(forecast)
    yield from _disks(forecast)
    yield from _registry(forecast)
    yield from _findings(forecast.findings)


def _size(count: int, *, is_exact: bool) -> str:
    return f"{'' if is_exact else '~'}{human_bytes(count)}"


# --- layers --------------------------------------------------------------------------------------


def _layers(layers: Sequence[PlannedLayer]) -> Iterator[Line]:
    yield "", ""
    yield f"  {'layers':<{_TITLE + 9}}{'size':>12}  changes with", "head"
    number = 1
    for group in _lines(layers):
        last = number + len(group) - 1
        numbers = str(number) if last == number else f"{number}-{last}"
        number = last + 1
        title, size = _cut(_title(group)), _group_size(group)
        yield f"  {numbers:<7}  {title:<{_TITLE}}{size:>12}  {_MOVES[group[0].kind]}", ""


def _lines(layers: Sequence[PlannedLayer]) -> Iterator[tuple[PlannedLayer, ...]]:
    """Yield the layers of every line: neighbours of one kind share one if there are many."""
    for _, run in groupby(layers, key=lambda layer: (layer.kind, layer.is_one_wheel)):
        group = tuple(run)
        if group[0].kind in _KINDS and len(group) > _APART:
            yield group
        else:
            yield from ((layer,) for layer in group)


def _title(group: Sequence[PlannedLayer]) -> str:
    first = group[0]
    if len(group) == 1:
        packages = f", {first.files} packages" if first.kind == "base" else ""
        return f"{first.title}{packages}"
    largest = max(group, key=lambda layer: layer.size)
    size = _size(largest.size, is_exact=largest.is_exact)
    return f"{len(group)} {_KINDS[first.kind]}, up to {size}"


def _group_size(group: Sequence[PlannedLayer]) -> str:
    total = sum(layer.size for layer in group)
    return _size(total, is_exact=all(layer.is_exact for layer in group))


def _cut(text: str) -> str:
    return text if len(text) <= _TITLE else f"{text[: _TITLE - 1]}…"


# --- the rest ------------------------------------------------------------------------------------


def _transfers(forecast: Forecast) -> Iterator[Line]:
    from builder.plan import human_rate

    rates = "".join(f"{human_rate(rate):>16}" for rate in forecast.situation.bandwidths)
    yield "", ""
    yield f"  {'a release sends':<19}{'at most':>12}{rates}", "head"
    for each in forecast.transfers:
        times = "".join(f"{human_seconds(seconds):>16}" for seconds in each.seconds)
        yield f"  {each.what:<19}{_size(each.size, is_exact=each.is_exact):>12}{times}", ""


def _disks(forecast: Forecast) -> Iterator[Line]:
    yield "", ""
    yield "  disk, on top of what is used now", "head"
    for each in forecast.disks:
        size = _size(each.size, is_exact=each.is_exact)
        yield f"  {each.what:<24}{size:>12}  {each.remark}".rstrip(), ""


def _registry(forecast: Forecast) -> Iterator[Line]:
    situation = forecast.situation
    limits = situation.limits
    yield "", ""
    if limits is None:
        yield "  no registry is named: give --push REF, or image.repository in the stack", "dim"
        return
    yield f"  {situation.repository}", "head"
    yield f"  {_limits(limits)}; the manifest has {human_bytes(forecast.manifest_bytes)}", ""


def _limits(limits: Profile) -> str:
    if limits.layer_bytes is None:
        return "no limit of a layer's size is known"
    doubt = "" if limits.verified else "perhaps "
    time = f" in {human_seconds(limits.upload_seconds)}" if limits.upload_seconds else ""
    return f"{limits.name} takes layers of {doubt}up to {human_bytes(limits.layer_bytes)}{time}"


def _findings(findings: Sequence[Finding]) -> Iterator[Line]:
    for _, run in groupby(findings, key=lambda finding: (finding.id, finding.hint)):
        group = tuple(run)
        first, rest = group[0], len(group) - _FINDINGS
        texts = [finding.text for finding in group[:_FINDINGS]]
        texts += [f"and {rest} more layers"] if rest > 0 else []
        yield "", ""
        for text in texts:
            yield from ((line, first.severity) for line in _wrapped(first.severity, text))
        yield from ((line, "") for line in _wrapped("hint", first.hint))


def _wrapped(word: str, text: str) -> list[str]:
    indent = " " * (len(word) + 2)
    return textwrap.wrap(f"{word}: {text}", _WIDTH, subsequent_indent=indent)


def _json(forecast: Forecast) -> dict[str, Any]:
    values = asdict(forecast)
    return {**values, "size": forecast.size, "is_exact": forecast.is_exact}
