"""`builder build`: flags of outputs and registries, and what is printed at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import console, outputs, pipeline
from builder.cli import flags, render
from builder.cli.missing import show_missing
from builder.errors import UsageError
from builder.oci.layer import Compression
from builder.units import human_bytes

Stack = Annotated[Path, typer.Argument(metavar="STACK", help="The stack file.")]
OutputFlag = Annotated[
    list[str],
    typer.Option("--output", "-o", metavar="OUTPUT", help="oci:DIR, oci-archive:FILE or docker."),
]
PushFlag = Annotated[
    list[str], typer.Option("--push", metavar="REF", help="Send it to a registry, under this tag.")
]
MountFlag = Annotated[
    list[str],
    typer.Option(
        "--mount-from", metavar="REPO", help="Take layers over from there, same registry."
    ),
]
InsecureFlag = Annotated[
    list[str],
    typer.Option("--insecure-registry", metavar="HOST", help="Speak http with this registry."),
]
StreamFlag = Annotated[
    bool, typer.Option("--stream", help="Read weights from the hub, keep no copy here.")
]
CompressionFlag = Annotated[
    str, typer.Option("--compression", metavar="zstd|gzip|none", help="Of all but weights.")
]
ExecutorFlag = Annotated[
    str, typer.Option("--executor", metavar="native|buildkit", help="Who writes the layers.")
]
LockedFlag = Annotated[bool, typer.Option("--locked", help="Neither make nor complete a lock.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("build")(_build)


def _build(
    stack: Stack,
    *,
    gpu: flags.Gpu = None,
    output: OutputFlag = [],  # noqa: B006 - typer copies it
    push: PushFlag = [],  # noqa: B006
    mount_from: MountFlag = [],  # noqa: B006
    insecure_registry: InsecureFlag = [],  # noqa: B006
    stream: StreamFlag = False,
    compression: CompressionFlag = "zstd",
    executor: ExecutorFlag = "native",
    locked: LockedFlag = False,
    tag: Annotated[str | None, typer.Option(help="Tag of the image's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an archive.")] = False,
    dry_run: DryRun = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Assemble the image of a stack, or one for each GPU; prints its digest."""
    registries = _registries_of(push, mount_from, insecure_registry)
    options = pipeline.BuildOptions(
        compression=_compression_of(compression),
        outputs=(*_outputs_of(output, force=force), *registries),
        may_lock=not locked,
        tag=tag,
        is_streamed=stream,
        gpu=gpu,
    )
    if dry_run:
        _would_build(pipeline.forecast(stack, options), json=json)
        return
    if render.is_buildkit(executor):
        render.build(stack, options, json=json)
        return
    rows = [_shown(built, json=json) for built in pipeline.build_cells(stack, options)]
    if not options.outputs:
        console.note("kept in the cache; --output brings it to a folder, an archive or Docker")
    if json:
        render.emit_rows(rows)


def _shown(built: pipeline.Built, *, json: bool) -> dict[str, Any]:
    """Say what was built; one of several is known by its tag."""
    image = built.image
    console.note(f"{image.name}: {len(image.layers)} layers, {human_bytes(image.size)}")
    if not json:
        console.emit(image.digest)
    return _described(built)


def _would_build(forecast: pipeline.Forecast, *, json: bool) -> None:
    if json:
        rows = [{"title": title, "known": known} for title, known in forecast.layers]
        size = sum(item.size for item in forecast.downloads)
        console.emit_json({"layers": rows, "download_bytes": size})
        return
    for title, known in forecast.layers:
        console.emit(f"{'known' if known else 'write':>10}  {title}")
    show_missing(forecast.downloads, json=False)


def _compression_of(text: str) -> Compression:
    """Return the compression that a flag's value names."""
    for known in ("zstd", "gzip", "none"):
        if text == known:
            return known
    message = f"--compression: expected zstd, gzip or none, got `{text}`"
    raise UsageError(message)


def _outputs_of(texts: Sequence[str], *, force: bool) -> tuple[Any, ...]:
    """Return the outputs that flags name."""
    return tuple(outputs.parse(text, force=force) for text in texts)


def _registries_of(
    texts: Sequence[str], mount_from: Sequence[str], insecure: Sequence[str]
) -> tuple[outputs.Registry, ...]:
    """Return the registries that flags name."""
    if not texts:
        if mount_from or insecure:
            message = "--mount-from, --insecure-registry: say nothing without --push"
            raise UsageError(message, "add --push REF")
        return ()
    found = tuple(outputs.registry(text, mount_from, insecure) for text in texts)
    named = {name for each in found for name in (each.reference.host, each.reference.registry)}
    for host in insecure:
        if host not in named:
            message = f"--insecure-registry: `{host}` is not pushed to"
            raise UsageError(message, f"write HOST[:PORT] as in --push: {', '.join(sorted(named))}")
    return found


def _described_push(registry: outputs.Registry) -> dict[str, Any]:
    """Return what a push did as JSON shows it."""
    done = asdict(registry.pushed) if registry.pushed else {}
    return {"reference": str(registry.reference)} | done


def _described(built: pipeline.Built) -> dict[str, Any]:
    """Return an image as JSON shows it."""
    image = built.image
    registries = [output for output in built.outputs if isinstance(output, outputs.Registry)]
    return {
        "name": image.name,
        "gpu": built.locked.gpu,
        "digest": image.digest,
        "size": image.size,
        "lock": str(built.locked.lock_path),
        "layers": [
            {
                "title": layer.title,
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "size": layer.size,
                "media_type": layer.media_type,
            }
            for layer in image.layers
        ],
        "pushed": [_described_push(registry) for registry in registries],
    }
