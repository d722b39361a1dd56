"""`builder store`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from builder import console
from builder.errors import UsageError
from builder.units import human_bytes, human_seconds

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {
    **{unit: 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{unit: 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))},
}
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]+)")

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be.")]

store = typer.Typer(
    help="Look after the cache: what is in it, whether it is right, what can go.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(store, name="store")


@store.command()
def usage(*, json: Json = False) -> None:
    """Show how much is in the cache, by kind."""
    from builder.pipeline import storing

    found = storing.usage()
    if json:
        rows = [
            {"kind": row.kind, "count": row.count, "bytes": row.size, "oldest_seconds": row.idle}
            for row in found.rows
        ]
        values = {"folder": str(found.root), "bytes": found.size, "kinds": rows}
        console.emit_json({**values, "running": found.running, "gc_bytes": found.freed})
        return
    for row in found.rows:
        oldest = _age(row.idle)
        console.emit(f"{human_bytes(row.size):>10}  {row.count:>6}  {row.kind:<10}  {oldest}")
    console.emit(f"{human_bytes(found.size):>10}  {found.root}")
    console.note(f"builder store gc would remove {human_bytes(found.freed)}")
    if found.running:
        console.note(f"in use by {found.running} running")


@store.command()
def verify(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Sizes and records only; reads no content.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Compare everything in the cache with its digest; removes what is damaged."""
    from builder.pipeline import storing

    found = storing.verify_store(is_quick=quick, dry_run=dry_run)
    if json:
        rows = [{"path": str(each.item.path), "fault": each.fault} for each in found.damages]
        values = {"count": found.count, "bytes": found.size, "removed": found.is_removed}
        console.emit_json({**values, "damaged": rows})
    found.require_whole()
    console.note(f"{found.count} files, {human_bytes(found.size)} read: all as they should be")


@store.command()
def gc(
    *,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Since the last use: 30d, 12h.")
    ] = "30d",
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Of what stays: 50GB.")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove what was not used for long; never what a running build uses."""
    from builder.oci.collect import Limits
    from builder.pipeline import storing

    limits = Limits(
        _amount("--older-than", older_than, _SECONDS, "30d or 12h"),
        None if max_size is None else int(_amount("--max-size", max_size, _BYTES, "50GB")),
    )
    victims = storing.collect_garbage(limits, dry_run=dry_run)
    total = sum(victim.group.size for victim in victims)
    if json:
        rows = [row for victim in victims for row in _rows(victim)]
        console.emit_json({"removed": rows, "bytes": total, "dry_run": dry_run})
        return
    for victim in victims:
        first = victim.group.items[-1]
        size = human_bytes(victim.group.size)
        console.emit(f"{size:>10}  {victim.reason:<22}  {first.kind}/{first.path.name}")
    verb = "would remove" if dry_run else "removed"
    console.note(f"{verb} {len(victims)} things, {human_bytes(total)}")


def _rows(victim: Any) -> Sequence[dict[str, Any]]:
    return [
        {
            "kind": item.kind,
            "path": str(item.path),
            "bytes": item.size,
            "reason": victim.reason,
        }
        for item in victim.group.items
    ]


def _amount(flag: str, text: str, units: dict[str, int], example: str) -> float:
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2] not in units:
        message = f"{flag}: expected a number with a unit ({', '.join(units)}), got `{text}`"
        raise UsageError(message, f"give it as in {flag} {example}")
    return float(found[1]) * units[found[2]]


def _age(seconds: float) -> str:
    for unit in ("d", "h"):
        if seconds >= _SECONDS[unit]:
            return f"oldest {int(seconds // _SECONDS[unit])} {unit}"
    return f"oldest {human_seconds(seconds)}"
