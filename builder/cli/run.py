"""`builder run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from builder import console, pipeline
from builder.cli import flags
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.engine.session import EngineName

_ENGINE_HELP = "docker or sandbox; without it, Docker where it answers."


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", help="Run the image of a stack here, or any image of Docker's.")(_run)


def _run(
    target: Annotated[str, typer.Argument(metavar="STACK|REF", help="A stack file or an image.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGS...]", help="For the engine; they win."),
    ] = None,
    *,
    gpu: flags.Gpu = None,
    engine: Annotated[str | None, typer.Option("--engine", help=_ENGINE_HELP)] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port on this machine.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command line; start nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
) -> None:
    from builder.engine.session import Options

    options = Options(engine_of(engine), port, tuple(arguments or ()))
    session = pipeline.run(target, options, gpu)
    if not dry_run:
        raise typer.Exit(session.run())
    if json:
        console.emit_json({"argv": list(session.argv), "url": session.url, "model": session.model})
    else:
        console.emit(session.command)


def engine_of(text: str | None) -> EngineName | None:
    """Return the engine that a flag's value names."""
    match text:
        case None | "docker" | "sandbox":
            return text
        case _:
            message = f"--engine: expected docker or sandbox, got `{text}`"
            raise UsageError(message)
