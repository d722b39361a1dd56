"""The commands that make an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from builder import __version__, console, pipeline
from builder.cli import build, check, matrix, plan, render, run, smoke, store
from builder.cli.missing import show_missing
from builder.errors import Interrupted, StaleLockError, UsageError
from builder.units import human_bytes


class Commands(TyperGroup):
    """Ends a command on Ctrl-C with our words and exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            message = "interrupted"
            hint = "run the command again: it goes on where this one stopped"
            raise Interrupted(message, hint) from None


app = typer.Typer(
    cls=Commands,
    name="builder",
    help="Build container images for GPU inference from a pinned stack.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

StackPath = Annotated[Path, typer.Argument(metavar="STACK", help="The stack file.")]
StackPaths = Annotated[list[Path], typer.Argument(metavar="STACK...", help="Stack files.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        console.emit(f"builder {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and data.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Build container images for GPU inference from a pinned stack."""
    del version, debug  # the one ends the program, the other is read by main
    console.configure(quiet=quiet)


@app.command()
def lock(
    stacks: StackPaths,
    *,
    check: Annotated[bool, typer.Option("--check", help="Fail if a lock is stale.")] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Move every pin to its newest.")
    ] = False,
    upgrade_pin: Annotated[
        list[str],
        typer.Option(
            "--upgrade-pin", "-P", metavar="PIN", help="Move base, wheels, model, or one package."
        ),
    ] = [],  # noqa: B006 - typer copies it
    allow_expired: Annotated[
        bool, typer.Option("--allow-expired-index", help="Accept a Debian index past its date.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Resolve stacks and write their locks."""
    chosen = ("*",) if upgrade else tuple(upgrade_pin)
    if check and (chosen or dry_run):
        message = "--check: moves no pin, so --upgrade and --dry-run say nothing beside it"
        raise UsageError(message)
    options = pipeline.LockOptions(chosen, allow_expired, dry_run)
    if check:
        _check(stacks, json=json)
        return
    rows = [_locked(path, options) for path in stacks]
    if json:
        console.emit_json(rows)


def _check(stacks: Sequence[Path], *, json: bool) -> None:
    """Look at every lock, then fail if one is stale."""
    rows, faults = [], []
    for path in stacks:
        locked, differences = pipeline.drift(path)
        names = [str(difference) for difference in differences]
        rows.append({"stack": str(path), "lock": str(locked.lock_path), "differences": names})
        if differences:
            faults.append(pipeline.stale(locked, differences))
        else:
            console.note(f"{locked.lock_path} is up to date")
    if json:
        console.emit_json(rows)
    if faults:
        raise StaleLockError("\n".join(each.message for each in faults), faults[0].hint)


def _locked(path: Path, options: pipeline.LockOptions) -> dict[str, Any]:
    result = pipeline.lock(path, options)
    for change in result.changes:
        console.note(f"  {change}")
    verb = "would write" if options.dry_run else "wrote"
    state = verb if result.is_written else "unchanged"
    locked = result.locked
    count = len(locked.lock.wheels), len(locked.lock.base.packages)
    console.note(f"{state} {locked.lock_path}: {count[0]} wheels, {count[1]} Debian packages")
    return {
        "stack": str(path),
        "lock": str(locked.lock_path),
        "written": result.is_written,
        "changes": list(result.changes),
    }


@app.command()
def fetch(
    stack: StackPath,
    *,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Lay the files out for a site without network."),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Download and verify everything a lock names."""
    if dry_run:
        show_missing(pipeline.missing(stack), json=json)
        return
    locked, places = pipeline.fetch(stack, into)
    total = sum(path.stat().st_size for path in places.values())
    console.note(f"{len(places)} files, {human_bytes(total)}, as {locked.lock_path} names them")
    if json:
        console.emit_json({digest: str(path) for digest, path in sorted(places.items())})


build.register(app)
check.register(app)
matrix.register(app)
plan.register(app)
run.register(app)
render.register(app)
smoke.register(app)
store.register(app)
