"""`builder render`, and `builder build --executor buildkit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder import console, pipeline
from builder.cli import flags
from builder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def register(app: typer.Typer) -> None:
    """Add the command."""
    help_text = "Write the Dockerfile and build context of a stack; prints the command to build it."
    app.command("render", help=help_text)(_render)


def _render(
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="The stack file.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write.")],
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Put the weights in: the folder is enough.")
    ] = False,
    gpu: flags.Gpu = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag of the image's name.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder with other things in it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write no folder, print the command.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    options = pipeline.RenderOptions(output, standalone, force, dry_run, tag, gpu)
    context = pipeline.render(stack, options)
    if json:
        console.emit_json({"folder": str(context.folder), "command": list(context.command)})
        return
    console.note(f"{'would write' if dry_run else 'wrote'} {output}; in that folder run:")
    console.emit(shlex.join(context.command))


def is_buildkit(executor: str) -> bool:
    """Tell whether a flag's value names BuildKit."""
    if executor not in ("native", "buildkit"):
        message = f"--executor: expected native or buildkit, got `{executor}`"
        raise UsageError(message)
    return executor == "buildkit"


def build(stack: Path, options: pipeline.BuildOptions, *, json: bool) -> None:
    """Build with BuildKit and print the digests that it gave."""
    rows = []
    for context, digest in pipeline.build_with_buildkit(stack, options):
        name = context.contexts.name
        console.note(f"{name}: built by BuildKit, which chooses its own compression")
        rows.append({"name": name, "digest": digest})
        if not json:
            console.emit(digest)
    if json:
        emit_rows(rows)


def emit_rows(rows: Sequence[Any]) -> None:
    """Print the JSON of one image, or the list of those of several."""
    console.emit_json(rows[0] if len(rows) == 1 else rows)
