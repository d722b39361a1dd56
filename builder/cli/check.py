"""`builder check` and `builder explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder import console
from builder.cli import findings, memory_bar
from builder.cli.colour import show
from builder.errors import BuilderError, StackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.cli.colour import Line
    from builder.pipeline.checking import Checked
    from builder.rules import Verdict

_STYLES = {"refused": "error", "works with warnings": "warning", "works": "good"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    text = "Judge stacks by all rules: drivers, kernels, memory, flags; no network."
    app.command("check", help=text)(_check)
    app.command("explain", help="Print the page of a rule, or list all rules.")(_explain)


def _check(
    stacks: Annotated[list[Path], typer.Argument(metavar="STACK...", help="Stack files.")],
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Show what is good to know.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    checked, faults = _all(stacks)
    if json:
        console.emit_json([*map(described, checked), *faults])
    elif checked:
        show(line for each in checked for line in screen(each, notes=notes))
    _require(checked, faults, strict=strict)


def _all(paths: Sequence[Path]) -> tuple[list[Checked], list[dict[str, Any]]]:
    """Check every stack; a file that is wrong does not hide what is said of the others."""
    from builder.pipeline import checking

    checked, faults = [], []
    for path in paths:
        try:
            checked.append(checking.check(path))
        except BuilderError as fault:
            if len(paths) == 1 and not isinstance(fault, StackError):
                raise  # of a lock: it has an exit code of its own
            console.fail(fault.message, fault.hint)
            faults.append({"stack": str(path), "verdict": "invalid", "fault": fault.message})
    return checked, faults


def _require(checked: Sequence[Checked], faults: Sequence[dict[str, Any]], *, strict: bool) -> None:
    bad = [str(fault["stack"]) for fault in faults]
    for each in checked:
        words = {verdict.word for verdict in each.verdicts}
        if "refused" in words or (strict and "works with warnings" in words):
            bad.append(str(each.path))
    if bad:
        count = len(checked) + len(faults)
        strictly = " or warned of" if strict else ""
        message = f"{len(bad)} of {count} {'stack' if count == 1 else 'stacks'} refused{strictly}"
        message += f": {', '.join(bad)}"
        raise StackError(message, "builder explain RULE says more" if checked else "")


def screen(checked: Checked, *, notes: bool) -> Iterator[Line]:
    """Yield the lines of the answer for one stack."""
    for verdict in checked.verdicts:
        yield _head(checked, verdict), _STYLES[verdict.word]
        if found := verdict.memory:
            yield from (
                (line, "") for line in findings.wrapped(memory_bar.words(found), "  ", "    ")
            )
    yield from _findings(checked, notes=notes)
    yield from nearest(checked)


def _head(checked: Checked, verdict: Verdict) -> str:
    gpu, count = _gpu(verdict), verdict.subject.count
    where = "CPU" if gpu == "none" else f"{count} x {gpu}" if count > 1 else gpu
    return f"{checked.path}: {verdict.word} on {where}"


def _findings(checked: Checked, *, notes: bool) -> Iterator[Line]:
    cells = [(_gpu(verdict), verdict.findings) for verdict in checked.verdicts]
    hidden: list[str] = []
    for finding, gpus in findings.grouped(cells):
        if finding.severity == "note" and not notes:
            hidden.append(finding.rule)
            continue
        place = f"{checked.path}:{checked.line(finding.place)}: {finding.place}"
        only = "" if len(gpus) == len(cells) else f" ({', '.join(gpus)})"
        yield from findings.lines(finding, place, only)
    if hidden:
        said = f"notes (--notes shows them): {', '.join(dict.fromkeys(hidden))}"
        yield from ((line, "dim") for line in findings.wrapped(said, "  ", "    "))


def _gpu(verdict: Verdict) -> str:
    return str(verdict.subject.stack.target.gpu)


def nearest(checked: Checked) -> Iterator[Line]:
    """Yield the nearest cell that works for every cell that is refused, and one for all."""
    from builder.rules import described as words

    refused = [verdict for verdict in checked.verdicts if verdict.word == "refused"]
    several = len(checked.verdicts) > 1
    if several and refused:
        found = words(checked.nearest) if checked.nearest else "none was found: split the stack"
        yield from _said(f"nearest that works for all GPUs: {found}", is_found=checked.nearest)
    for verdict in refused:
        cell = f"{_gpu(verdict)} alone: " if several else ""
        text = f"{cell}no change was found after which it works"
        if verdict.nearest is not None:
            text = f"{cell}nearest that works: {words(verdict.nearest)}"
        yield from _said(text, is_found=verdict.nearest)


def _said(text: str, *, is_found: object) -> Iterator[Line]:
    look = "good" if is_found else "error"
    yield from ((line, look) for line in findings.wrapped(text, "  ", "    "))


def described(checked: Checked) -> dict[str, Any]:
    """Return the verdicts on a stack as JSON shows them."""
    return {
        "stack": str(checked.path),
        "name": checked.stack.name,
        "verdict": max((v.word for v in checked.verdicts), key=list(_STYLES)[::-1].index),
        "nearest": findings.move(checked.nearest),
        "cells": [_cell(checked, verdict) for verdict in checked.verdicts],
    }


def _cell(checked: Checked, verdict: Verdict) -> dict[str, Any]:
    return {
        "gpu": verdict.subject.stack.target.gpu,
        "count": verdict.subject.count,
        "verdict": verdict.word,
        "findings": [
            findings.described(each, checked.line(each.place)) for each in verdict.findings
        ],
        "nearest": findings.move(verdict.nearest),
        "memory": memory_bar.described(verdict.subject),
    }


def _explain(
    rule: Annotated[str | None, typer.Argument(metavar="[RULE]", help="Id of a rule.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    from builder.plan import TITLES
    from builder.rules import find, rules
    from builder.rules.pages import page

    if rule is None:
        rows = {each.id: each.title for each in rules().values()} | TITLES
        width = max(map(len, rows))
        text = "\n".join(f"{name:<{width}}  {title}" for name, title in rows.items())
        console.emit_json(rows) if json else console.emit(text)
        return
    title = TITLES[rule] if rule in TITLES else find(rule).title
    text = page(rule)
    value = {"rule": rule, "title": title, "page": text}
    console.emit_json(value) if json else console.emit(_folded(text))


def _folded(page: str) -> str:
    """Return a page in lines of 80 characters; items of lists are indented."""
    lines = []
    for line in page.rstrip().splitlines():
        later = "  " if line.startswith("- ") else ""
        lines += findings.wrapped(line, "", later) or [""]
    return "\n".join(lines)
