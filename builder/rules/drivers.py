"""Drivers of the hosts: what the image needs of them, and what the stack allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.catalogue.drivers import branches, cuda_driver, full_driver, need
from builder.catalogue.quantisation import attention
from builder.catalogue.releases import code
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_PLACE = "target.driver"
_TOOLKIT = "NVIDIA CUDA toolkit release notes, minimum driver versions"
_FORWARD = "NVIDIA CUDA compatibility, forward compatibility"
_COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"
_AMPERE = 8


class Floor(NamedTuple):
    """The oldest driver for something, and what asks for it."""

    driver: str
    reason: str
    source: str


def oldest(subject: Subject) -> str | None:
    """Return the oldest driver that the stack allows; `0` where it allows any, None if unsaid."""
    asked = subject.stack.target.driver
    if asked is None:
        return None
    lower = [s.version for s in SpecifierSet(asked) if s.operator in {">=", ">", "==", "~=", "==="}]
    plain = [version.removesuffix(".*") for version in lower]
    return max(plain, key=Version) if plain else "0"


def is_older(driver: str, floor: str) -> bool:
    """Compare as far as both say: `580` is any driver of its branch, so not older than 580.65."""
    short = min(len(driver.split(".")), len(floor.split(".")))
    return Version(_first(driver, short)) < Version(_first(floor, short))


def _first(version: str, parts: int) -> str:
    return ".".join(version.split(".")[:parts])


def branch_of(driver: str) -> int:
    """Return the branch of a driver: 580 for `580.65.06`."""
    return int(driver.partition(".")[0])


def cuda_of(release: Release, torch_cuda: str | None) -> str:
    """Return the newer one of the CUDA releases that engine and torch were compiled with."""
    known = [release.cuda, *([torch_cuda] if torch_cuda else [])]
    return max(known, key=Version)


def cuda_floor(subject: Subject) -> Floor | None:
    """Return what the compiled code asks of the driver, PTX not counted."""
    release = subject.release
    if release is None:
        return None
    cuda = cuda_of(release, subject.torch.cuda if subject.torch else None)
    reason = f"{subject.engine} is compiled with CUDA {cuda}"
    return Floor(cuda_driver(cuda.partition(".")[0]), reason, _TOOLKIT)


def ptx_floor(subject: Subject) -> Floor | None:
    """Return what the driver must be to compile the engine's PTX; None where none is needed.

    FlashAttention 2 comes as code for 8.0 and as PTX; minor-version compatibility does not cover
    PTX, so beyond 8.x the driver must be as new as the toolkit.
    """
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None or not release.ptx:
        return None
    if code(release.ptx, gpu.compute_capability) != "none":
        return None
    driver = full_driver(release.cuda)
    reason = f"{subject.engine} brings FlashAttention 2 as PTX of CUDA {release.cuda}"
    return Floor(driver, reason, f"{_TOOLKIT}; {_FORWARD}") if driver else None


def needs_ptx(subject: Subject) -> bool:
    """Whether the engine's first choice of attention runs from PTX: FlashAttention 3 is for 9.0."""
    gpu = subject.gpu
    if gpu is None or gpu.compute_capability == "9.0":
        return False
    return attention(subject.version, gpu.compute_capability, "auto") == "FLASH_ATTN"


@rule("driver-floor", "the hosts' drivers run the CUDA that the wheels were compiled with")
def driver_floor(subject: Subject) -> Iterator[Finding]:
    """Refuse a stack that allows hosts whose driver is older than the wheels' CUDA needs."""
    driver, floor = oldest(subject), cuda_floor(subject)
    if driver is None or floor is None or not is_older(driver, floor.driver):
        return
    text = f"{_allows(driver)}; {floor.reason}, which needs {floor.driver}"
    hint = f'write driver: ">={branch_of(floor.driver)}" and leave older hosts out'
    yield error(
        _PLACE,
        text,
        hint + _carried(subject, driver),
        floor.source,
        moves=(_raise_to(floor.driver), *_older_cuda(subject, driver)),
    )


def _allows(driver: str) -> str:
    return "allows any old driver" if driver == "0" else f"allows hosts with driver {driver}"


def _raise_to(driver: str) -> Move:
    """By branch, as long as every driver of the branch is new enough."""
    whole = branch_of(driver)
    return (Change(_PLACE, f">={whole}"),)


def _older_cuda(subject: Subject, driver: str) -> tuple[Move, ...]:
    def suits(row: Release) -> bool:
        return not is_older(driver, cuda_driver(row.cuda.partition(".")[0]))

    return other_releases(subject, suits)


def _carried(subject: Subject, driver: str) -> str:
    """Say whether NVIDIA's package would carry the newer CUDA: an image of ours has none."""
    gpu, release = subject.gpu, subject.release
    if gpu is None or release is None or driver == "0":
        return ""
    package = f"cuda-compat-{release.cuda.replace('.', '-')}"
    if gpu.kind != "datacentre":
        return f"; {package} does not help: it is for data-centre GPUs alone"
    if need(release.cuda, branch_of(driver)) == "package":
        return f"; NVIDIA's {package} would carry it on this branch, but is not in these images"
    return ""


@rule("driver-ptx", "the hosts' drivers can compile the PTX that the engine brings for the GPU")
def driver_ptx(subject: Subject) -> Iterator[Finding]:
    """Refuse, or warn of, drivers that run the compiled code and cannot compile the PTX."""
    driver, floor, runs = oldest(subject), ptx_floor(subject), cuda_floor(subject)
    if driver is None or floor is None or not is_older(driver, floor.driver):
        return
    if runs is not None and is_older(driver, runs.driver):
        return  # it does not even run the compiled code: `driver-floor` says so
    text = f"{_allows(driver)}; {floor.reason}, which a driver older than {floor.driver} refuses"
    hint = f'write driver: ">={floor.driver}"'
    if needs_ptx(subject):
        moves = (((Change(_PLACE, f">={floor.driver}")),), *_own_ptx(subject, driver))
        yield error(_PLACE, text, hint, floor.source, moves=moves)
    else:
        text += "; the first choice of attention here is another"
        yield warning(_PLACE, text, hint, floor.source)


def _own_ptx(subject: Subject, driver: str) -> tuple[Move, ...]:
    def suits(row: Release) -> bool:
        full = full_driver(row.cuda)
        return full is not None and not is_older(driver, full)

    return other_releases(subject, suits)


@rule("driver-gpu", "the hosts' drivers know the GPU")
def driver_gpu(subject: Subject) -> Iterator[Finding]:
    """Refuse drivers from before, or after, those that support the GPU."""
    driver, gpu = oldest(subject), subject.gpu
    if driver is None or gpu is None:
        return
    newest = gpu.architecture.newest_driver
    verified = "oldest_driver" not in gpu.unverified
    if driver != "0" and branch_of(driver) < gpu.oldest_driver:
        text = f"{_allows(driver)}; {gpu.title} needs R{gpu.oldest_driver} or newer"
        hint = f'write driver: ">={gpu.oldest_driver}"'
        moves: tuple[Move, ...] = ((Change(_PLACE, f">={gpu.oldest_driver}"),),)
        yield error(_PLACE, text, hint, gpu.source, moves=moves, verified=verified)
    elif newest is not None and branch_of(driver) > newest:
        text = (
            f"asks for driver {driver}; R{newest} is the last branch for {gpu.title} "
            f"(compute capability {gpu.compute_capability})"
        )
        hint = f'write driver: ">={gpu.oldest_driver},<{newest + 1}"'
        moves = ((Change(_PLACE, f">={gpu.oldest_driver},<{newest + 1}"),), *_modern(subject))
        yield error(_PLACE, text, hint, gpu.architecture.source, moves=moves)


def _modern(subject: Subject) -> tuple[Move, ...]:
    def suits(gpu: Gpu) -> bool:
        return gpu.architecture.newest_driver is None

    return other_gpus(subject, suits)


@rule("cuda-compat", "CUDA's forward compatibility is asked for only where it works")
def cuda_compat(subject: Subject) -> Iterator[Finding]:
    """Speak of the switch that makes the engine use NVIDIA's package for older drivers."""
    gpu = subject.gpu
    value = subject.stack.serve.env.get(_COMPATIBILITY, "0")
    if gpu is None or value.lower() not in {"1", "true"}:
        return
    place = f"serve.env.{_COMPATIBILITY}"
    moves: tuple[Move, ...] = ((Change(place, None),),)
    if gpu.kind != "datacentre":
        text = f"{gpu.title} is no data-centre GPU: the driver answers with error 803 or 804"
        yield error(place, text, "leave it out and update the hosts", _FORWARD, moves=moves)
    else:
        text = "these images hold no cuda-compat package: the switch does nothing"
        yield warning(place, text, "leave it out", _FORWARD, moves=moves)


@rule("driver-end-of-life", "NVIDIA still keeps the drivers' branch")
def driver_end_of_life(subject: Subject) -> Iterator[Finding]:
    """Note a branch that gets no security fixes any more, as of the stack's own date."""
    driver, as_of = oldest(subject), subject.stack.resolve.as_of
    if driver is None or driver == "0" or as_of is None:
        return
    row = next((row for row in branches() if row.branch == branch_of(driver)), None)
    if row is not None and row.end_of_life is not None and row.end_of_life < as_of:
        text = f"R{row.branch} got its last fixes in {row.end_of_life:%B %Y}"
        kept = [r.branch for r in branches() if r.end_of_life is None or r.end_of_life > as_of]
        hint = f"branches that get fixes: {', '.join(f'R{each}' for each in kept)}"
        yield note(_PLACE, text, hint, row.source, verified="end_of_life" not in row.unverified)
