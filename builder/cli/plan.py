"""`builder plan`: all that is known before a byte moves, on one screen."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder import console
from builder.cli import findings, flags, memory_bar
from builder.cli.colour import show
from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.cli.colour import Line
    from builder.oci.profiles import Profile
    from builder.pipeline.overview import Overview
    from builder.plan import Forecast, Pin, PlannedLayer
    from builder.rules import Finding, Verdict

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
    text = "Show pins, memory, layers, transfers, disk, limits and findings; no network."
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
    from builder.pipeline.overview import overview

    rates = tuple(plan.rate(text) for text in bandwidth) or planning.BANDWIDTHS
    found = overview(stack, planning.PlanOptions(push, rates, gpu))
    if json:
        console.emit_json(_json(found))
    else:
        show(screen(found))


def screen(found: Overview) -> Iterator[Line]:
    """Yield the lines of the answer, none longer than 80 characters if titles are plain."""
    forecast = found.forecast
    yield _head(found), "head"
    yield from _pins(found.pins)
    yield from memory_bar.section(found.checked.verdicts)
    if forecast is not None:
        yield from of_image(forecast)
    yield from _findings(found)


def of_image(forecast: Forecast) -> Iterator[Line]:
    """Yield what the image costs: layers, transfers, disk, the registry's limits."""
    yield from _layers(forecast.layers)
    yield from _transfers(forecast)
    yield from _disks(forecast)
    yield from _registry(forecast)
    yield from _of_layers(forecast.findings)


def _head(found: Overview) -> str:
    forecast, name = found.forecast, found.checked.stack.name
    if forecast is None:
        model = found.checked.verdicts[0].subject.model
        stored = model.shape.stored_bytes if model else None
        weights = f"; weights of {human_bytes(stored)}" if stored else ""
        return f"{name}: no lock yet, so no layers are known{weights}"
    size = _size(forecast.size, is_exact=forecast.is_exact)
    return f"{name}: {len(forecast.layers)} layers, {size}"


def _pins(pins: Sequence[Pin]) -> Iterator[Line]:
    width = max(len(pin.what) for pin in pins if len(pin.what) <= _TITLE)
    yield "", ""
    yield f"  {'pinned':<{width}}  because", "head"
    for pin in pins:
        begin, indent = f"  {pin.what:<{width}}  ", " " * (width + 4)
        if len(pin.what) > width:
            yield f"  {pin.what}", ""
            begin = indent
        yield from ((line, "") for line in findings.wrapped(pin.why, begin, indent))


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


# --- findings ------------------------------------------------------------------------------------


def _of_layers(found: Sequence[Finding]) -> Iterator[Line]:
    """Say what is alike of many layers once."""
    for _, run in groupby(found, key=lambda each: (each.rule, each.hint)):
        group = tuple(run)
        rest = len(group) - _FINDINGS
        yield "", ""
        for number, finding in enumerate(group[:_FINDINGS], 1):
            more = f", and {rest} more layers" if rest > 0 and number == _FINDINGS else ""
            yield from findings.claim(finding, "", f"{more} ({finding.rule})")
        yield from findings.hint(group[0])


def _findings(found: Overview) -> Iterator[Line]:
    """Errors and warnings in full; of notes, that there are some."""
    notes = 0
    cells = [(str(v.subject.stack.target.gpu), v.findings) for v in found.checked.verdicts]
    for finding, gpus in findings.grouped(cells):
        if finding.severity == "note":
            notes += 1
            continue
        yield "", ""
        only = "" if len(gpus) == len(cells) else f" ({', '.join(gpus)})"
        yield from findings.claim(finding, finding.place, f"{only} ({finding.rule})")
        yield from findings.hint(finding)
    yield from _nearest(found)
    if notes:
        yield "", ""
        plural = "note" if notes == 1 else "notes"
        yield f"  {notes} {plural}: builder check --notes", "dim"


def _nearest(found: Overview) -> Iterator[Line]:
    from builder.cli.check import nearest

    lines = list(nearest(found.checked))
    if lines:
        yield "", ""
        yield from lines


def _json(found: Overview) -> dict[str, Any]:
    """Return all of it; what is of layers only where there is a lock."""
    checked, forecast = found.checked, found.forecast
    values = {} if forecast is None else asdict(replace(forecast, findings=()))
    if forecast is not None:
        values |= {"size": forecast.size, "is_exact": forecast.is_exact}
    rows = [(each, checked.line(each.place)) for v in checked.verdicts for each in v.findings]
    rows += [(each, checked.line(each.place)) for each in (forecast.findings if forecast else ())]
    return values | {
        "name": checked.stack.name,
        "locked": forecast is not None,
        "pins": [asdict(pin) for pin in found.pins],
        "cells": [_cell(verdict) for verdict in checked.verdicts],
        "findings": [findings.described(finding, line) for finding, line in rows],
    }


def _cell(verdict: Verdict) -> dict[str, Any]:
    return {
        "gpu": verdict.subject.stack.target.gpu,
        "verdict": verdict.word,
        "nearest": findings.move(verdict.nearest),
        "memory": memory_bar.described(verdict.subject),
    }
