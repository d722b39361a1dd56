"""`builder smoke`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder import console, pipeline
from builder.cli import flags


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("smoke", help="Check an image in a container engine.")(_smoke)


def _smoke(
    target: Annotated[str, typer.Argument(metavar="STACK|REF", help="A stack file or an image.")],
    *,
    gpu: flags.Gpu = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="The lock of an image.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    report = pipeline.smoke(target, lock, gpu)
    console.emit_json(report.values()) if json else console.emit(report.table())
    console.note(report.summary)
    report.require_passed()
