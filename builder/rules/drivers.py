"""Drivers of the hosts: what the image needs of them, and what the stack allows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder.catalogue.drivers import branch_of, branches, cuda_driver, full_driver, is_older, need
from builder.rules import settings
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.floor import compiled_floor, image_floor, ptx_floor, runs_ptx
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release
    from builder.rules.finding import Finding
    from builder.rules.floor import Floor
    from builder.rules.subject import Subject

_PLACE = "target.driver"
_FORWARD = "NVIDIA CUDA compatibility, forward compatibility"
_MATRIX = "NVIDIA, CUDA toolkit, driver and architecture matrix"
_SWITCH = "VLLM_ENABLE_CUDA_COMPATIBILITY"
_FOLDER = "VLLM_CUDA_COMPATIBILITY_PATH"
_SWITCH_SINCE = Version("0.17.0")
_NO_BOUND = "0"
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")


def oldest(subject: Subject) -> str | None:
    """Return the oldest driver that the stack allows; `0` where it allows any, None if unsaid."""
    asked = subject.stack.target.driver
    if asked is None:
        return None
    lower = [s.version for s in SpecifierSet(asked) if s.operator in {">=", ">", "==", "~=", "==="}]
    plain = [version.removesuffix(".*") for version in lower]
    # Drivers have numbers alone: an epoch or a word in a range bounds nothing.
    numbers = [version for version in plain if _NUMBERS.fullmatch(version)]
    return max(numbers, key=Version) if numbers else _NO_BOUND


def allows(asked: str, driver: str) -> bool:
    """Whether a range such as `>=535,<580` holds a driver, branch 590 by `590.9999`."""
    return SpecifierSet(asked).contains(driver, prereleases=True)


def from_floor(floor: Floor) -> str:
    """Write a range by branch, unless the floor lies behind the beginning of its branch."""
    return f">={branch_of(floor.driver)}"


@rule("driver-range", "a driver can satisfy the range that is asked for")
def driver_range(subject: Subject) -> Iterator[Finding]:
    """Refuse a range that no version satisfies, such as `>=580,<570`."""
    asked, floor = subject.stack.target.driver, floor_of(subject)
    if asked is None or any(allows(asked, version) for version in _ends(asked)):
        return
    text = f"no driver satisfies `{asked}`"
    least = from_floor(floor) if floor else None
    hint = f'write driver: "{least}"' if least else "write one lower bound, such as >=580"
    yield error(_PLACE, text, hint, "PEP 440", moves=((Change(_PLACE, least),),))


def _ends(asked: str) -> Iterator[str]:
    """Yield every end of a range and what lies just above: one of them is in it, or nothing is."""
    yield _NO_BOUND
    for part in SpecifierSet(asked):
        version = part.version.removesuffix(".*")
        yield from (version, f"{version}.0.0.1")


def floor_of(subject: Subject) -> Floor | None:
    """Return the oldest driver that runs the image on this GPU, None where nothing is known."""
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None:
        return None
    torch = subject.torch.cuda if subject.torch else release.cuda
    return image_floor(release.version, torch, gpu)


@rule("driver-unstated", "the stack says which drivers the hosts have")
def driver_unstated(subject: Subject) -> Iterator[Finding]:
    """Note what the hosts need where the stack does not say what they have."""
    floor = floor_of(subject)
    if floor is None or subject.stack.target.driver is not None:
        return
    text = f"the hosts need driver {floor.driver} or newer: {floor.reason}"
    hint = f'write driver: "{from_floor(floor)}", or what the hosts have: then it is judged'
    yield note(_PLACE, text, hint, floor.source)


@rule("driver-floor", "the hosts' drivers run the CUDA that the wheels were compiled with")
def driver_floor(subject: Subject) -> Iterator[Finding]:
    """Refuse a stack that allows hosts whose driver is older than the wheels' CUDA needs."""
    driver, release = oldest(subject), subject.release
    if driver is None or release is None:
        return
    floor = compiled_floor(release)
    if not is_older(driver, floor.driver):
        return
    text = f"{_allows(driver)}; {floor.reason}, which needs {floor.driver}"
    if _brings_package(subject) and _carries(subject, driver):
        ours = settings.is_of_wheels(subject)
        where = "on every host" if ours else "in the image"
        hint = f"see that cuda-compat for CUDA {release.cuda} is there {where}"
        text += "; it runs with the cuda-compat package alone, "
        text += "which this image does not hold" if ours else "and nobody knows if the image has it"
        yield warning(_PLACE, text, hint, _FORWARD)
        return
    hint = f'write driver: "{from_floor(floor)}" and leave older hosts out'
    moves = (_raise_to(from_floor(floor)), *_older_cuda(subject, driver))
    yield error(_PLACE, text, hint + _carried(subject, driver), floor.source, moves=moves)


def _allows(driver: str) -> str:
    return "allows any old driver" if driver == _NO_BOUND else f"allows hosts with driver {driver}"


def _raise_to(asked: str) -> Move:
    return (Change(_PLACE, asked),)


def _older_cuda(subject: Subject, driver: str) -> tuple[Move, ...]:
    def suits(row: Release) -> bool:
        return not is_older(driver, cuda_driver(row.cuda.partition(".")[0]))

    return other_releases(subject, suits)


def _brings_package(subject: Subject) -> bool:
    """Whether the stack makes the engine use a package: of the hosts, or of an image it names."""
    is_there = _FOLDER in subject.stack.serve.env or not settings.is_of_wheels(subject)
    return _is_on(subject) and is_there and Version(subject.version) >= _SWITCH_SINCE


def _is_on(subject: Subject) -> bool:
    return subject.stack.serve.env.get(_SWITCH, "0").strip().lower() in {"1", "true"}


def _carries(subject: Subject, driver: str) -> bool:
    """Whether NVIDIA's package carries the engine's CUDA on that branch of a data-centre GPU."""
    gpu, release = subject.gpu, subject.release
    if gpu is None or release is None or gpu.kind != "datacentre" or driver == _NO_BOUND:
        return False
    return need(release.cuda, branch_of(driver)) == "package"


def _carried(subject: Subject, driver: str) -> str:
    """Say whether NVIDIA's package would carry the newer CUDA: an image of ours has none."""
    gpu, release = subject.gpu, subject.release
    if gpu is None or release is None or driver == _NO_BOUND:
        return ""
    package = f"cuda-compat-{release.cuda.replace('.', '-')}"
    if gpu.kind == "geforce":
        return f"; {package} does not help: it is for data-centre GPUs alone"
    if gpu.kind != "datacentre":
        return f"; {package} is for data-centre GPUs and few others that NVIDIA names"
    if _carries(subject, driver) and not settings.is_of_wheels(subject):
        return f'; or, if the image has NVIDIA\'s {package}, write serve.env: {{{_SWITCH}: "1"}}'
    if _carries(subject, driver):
        return f"; NVIDIA's {package} would carry it on this branch, but is not in these images"
    return ""


@rule("driver-ptx", "the hosts' drivers can compile the PTX that the engine brings for the GPU")
def driver_ptx(subject: Subject) -> Iterator[Finding]:
    """Refuse, or speak of, drivers that run the compiled code and cannot compile the PTX."""
    driver, release, gpu = oldest(subject), subject.release, subject.gpu
    if driver is None or release is None or gpu is None:
        return
    floor = ptx_floor(release, gpu)
    if floor is None or not is_older(driver, floor.driver):
        return
    if is_older(driver, compiled_floor(release).driver):
        return  # it does not even run the compiled code: `driver-floor` says so
    text = f"{_allows(driver)}; {floor.reason}, which a driver older than {floor.driver} refuses"
    hint = f'write driver: ">={floor.driver}"'
    backend = settings.attention(subject)
    if runs_ptx(release, gpu, backend):
        moves = (_raise_to(f">={floor.driver}"), *_own_ptx(subject, driver))
        yield error(_PLACE, text, hint, floor.source, moves=moves)
        return
    text += f"; {backend} does without it here, but in few models"
    say = note if gpu.compute_capability == "9.0" else warning
    yield say(_PLACE, text, hint, floor.source)


def _own_ptx(subject: Subject, driver: str) -> Iterator[Move]:
    """Releases whose PTX the driver compiles, and Triton, which compiles its code by itself."""

    def suits(row: Release) -> bool:
        full = full_driver(row.cuda)
        return full is not None and not is_older(driver, full)

    model = subject.model
    if model is None or (model.task != "vision" and model.shape.latent is None):
        yield (Change(settings.attention_place(subject), "TRITON_ATTN"),)
    yield from other_releases(subject, suits)


@rule("driver-gpu", "the hosts' drivers know the GPU")
def driver_gpu(subject: Subject) -> Iterator[Finding]:
    """Refuse drivers from before, or after, those that support the GPU."""
    asked, driver, gpu = subject.stack.target.driver, oldest(subject), subject.gpu
    if asked is None or driver is None or gpu is None:
        return
    newest = gpu.architecture.newest_driver
    verified = "oldest_driver" not in gpu.unverified
    if driver != _NO_BOUND and branch_of(driver) < gpu.oldest_driver:
        text = f"{_allows(driver)}; {gpu.title} needs R{gpu.oldest_driver} or newer"
        hint = f'write driver: ">={gpu.oldest_driver}"'
        moves: tuple[Move, ...] = (_raise_to(f">={gpu.oldest_driver}"),)
        yield error(_PLACE, text, hint, gpu.source, moves=moves, verified=verified)
    elif newest is not None:
        yield from _after(subject, gpu, asked, newest)


def _after(subject: Subject, gpu: Gpu, asked: str, newest: int) -> Iterator[Finding]:
    """Speak of branches that have dropped the GPU: the whole range, or its open end."""
    least = floor_of(subject)
    bounded = f"{from_floor(least) if least else f'>={gpu.oldest_driver}'},<{newest + 1}"
    last = f"R{newest} is the last branch for {gpu.title}"
    hint, source = f'write driver: "{bounded}"', _MATRIX
    if branch_of(oldest(subject) or _NO_BOUND) > newest:
        moves = (_raise_to(bounded), *_modern(subject))
        yield error(_PLACE, f"asks for `{asked}`; {last}", hint, source, moves=moves)
    elif allows(asked, f"{newest + 1}.1"):
        yield note(_PLACE, f"allows newer branches; {last}", hint, source)


def _modern(subject: Subject) -> tuple[Move, ...]:
    def suits(gpu: Gpu) -> bool:
        return gpu.architecture.newest_driver is None

    return other_gpus(subject, suits)


@rule("cuda-compat", "CUDA's forward compatibility is asked for only where it works")
def cuda_compat(subject: Subject) -> Iterator[Finding]:
    """Speak of the switch that makes the engine use NVIDIA's package for older drivers."""
    gpu = subject.gpu
    if gpu is None or not subject.is_cuda or not _is_on(subject):
        return
    place = f"serve.env.{_SWITCH}"
    moves: tuple[Move, ...] = ((Change(place, None),),)
    if _FOLDER not in subject.stack.serve.env and settings.is_of_wheels(subject):
        text = "these images hold no cuda-compat package: the switch does nothing"
        source = f"{_FORWARD}; vllm/env_override.py of 0.33.0"
        yield warning(place, text, "leave it out", source, moves=moves)
    elif gpu.kind == "geforce":
        text = f"{gpu.title} is no data-centre GPU: the driver answers with error 803 or 804"
        yield error(place, text, "leave it out and update the hosts", _FORWARD, moves=moves)
    elif gpu.kind != "datacentre":
        text = f"cuda-compat is for data-centre GPUs and few others; nobody knows of {gpu.title}"
        yield warning(place, text, "leave it out", _FORWARD, moves=moves, verified=False)


@rule("driver-end-of-life", "NVIDIA still keeps the drivers' branch")
def driver_end_of_life(subject: Subject) -> Iterator[Finding]:
    """Note a branch that gets no security fixes any more, as of the stack's own date."""
    driver, as_of = oldest(subject), subject.stack.resolve.as_of
    if driver is None or driver == _NO_BOUND or as_of is None or subject.gpu is None:
        return
    row = next((row for row in branches() if row.branch == branch_of(driver)), None)
    if row is not None and row.end_of_life is not None and row.end_of_life < as_of:
        text = f"R{row.branch} got its last fixes in {row.end_of_life:%B %Y}"
        kept = [r.branch for r in branches() if r.end_of_life is None or r.end_of_life > as_of]
        hint = f"branches that get fixes: {', '.join(f'R{each}' for each in kept)}"
        yield note(_PLACE, text, hint, row.source, verified="end_of_life" not in row.unverified)
