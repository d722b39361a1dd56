"""The container: shared memory, its processes and GPUs, what it may write, its memory."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from packaging.version import Version

from builder import catalogue
from builder.catalogue.flags import default
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule
from builder.rules.variables import is_on, place_of
from builder.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_PARALLEL_BYTES = GIB
"""What the lock asks of several processes (see `builder.resolve`)."""
_EXECUTOR = "distributed-executor-backend"
_WITHOUT_RAY = Version("0.18.0")
"""First release whose wheel does not require ray (METADATA of 0.17.1 and 0.18.0)."""
_RAY = "METADATA of vLLM 0.17.1 and 0.18.0"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_GIVEN = "NVIDIA_VISIBLE_DEVICES"
_ABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
_WRITABLE = ("/cache", "/tmp", "/dev/shm")  # noqa: S108 - folders of the container
_REPLACED = "HOME"
"""The launcher takes another folder where this one cannot be written."""
_FOLDERS = (
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "NUMBA_CACHE_DIR", "TORCH_HOME"),
    *("FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "DG_JIT_CACHE_DIR", "OUTLINES_CACHE_DIR"),
    *("HF_HOME", "HF_HUB_CACHE", "MPLCONFIGDIR", "PYTHONPYCACHEPREFIX", "TMPDIR"),
    *("BUILDER_CACHE", _REPLACED),
)
_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_LAUNCHER = "docs/launcher.md"
_TOOLKIT = "NVIDIA Container Toolkit, environment variables"


@rule("shared-memory", "processes that work together have the shared memory for it")
def shared_memory(subject: Subject) -> Iterator[Finding]:
    """Note what the container must be started with, and warn of what slows the exchange down."""
    needed = catalogue.engine(subject.stack.engine.name).shm_bytes
    if subject.count > 1:
        needed = max(needed, _PARALLEL_BYTES)
    if needed:
        size = f"{needed // GIB}g" if needed >= GIB else f"{needed // MIB}m"
        text = f"needs {size} of shared memory; Docker gives 64m, and the launcher refuses less"
        hint = f"docker run --shm-size {size}, or a memory-backed emptyDir at /dev/shm"
        place = "target.count" if subject.count > 1 else "engine.name"
        yield note(place, text, hint, _LAUNCHER)
    if subject.gpu is not None and subject.count > 1:
        yield from _slowed(subject)


def _slowed(subject: Subject) -> Iterator[Finding]:
    """What switches off the fast ways between GPUs."""
    gpu = subject.gpu
    linked = gpu is not None and gpu.link == "nvlink"
    found = []
    if is_on(subject, "NCCL_SHM_DISABLE"):
        found.append((place_of("NCCL_SHM_DISABLE"), "shared memory between the processes"))
    if linked and is_on(subject, "NCCL_P2P_DISABLE"):
        found.append((place_of("NCCL_P2P_DISABLE"), "NVLink between the GPUs"))
    if linked and "disable-custom-all-reduce" in subject.args:
        found.append(("serve.args.disable-custom-all-reduce", "the engine's own sums over NVLink"))
    for place, what in found:
        name = place.rpartition(".")[2]
        text = f"{name} switches off {what}: every token of {subject.count} GPUs pays for it"
        moves: tuple[Move, ...] = ((Change(place, None),),)
        source = "NCCL, environment variables; vllm/config/parallel.py of 0.20.2"
        yield warning(place, text, "leave it out", source, moves=moves)


@rule("single-card", "processes and GPUs of the container fit together")
def single_card(subject: Subject) -> Iterator[Finding]:
    """Refuse executors that cannot start here, and fewer visible GPUs than are used."""
    if not _has_ray(subject):
        yield from _no_ray(subject)
    ranks = subject.tensor * subject.pipeline
    if subject.args.get(_EXECUTOR) == "uni" and ranks > 1 and subject.is_cuda:
        place = f"serve.args.{_EXECUTOR}"
        text = f"uni is one process for one GPU; the other {ranks - 1} are waited for"
        moves: tuple[Move, ...] = ((Change(place, "mp"),),)
        source = "vllm/v1/executor/uniproc_executor.py of 0.20.2: it starts rank 0 alone"
        yield error(place, text, "leave it out: mp is taken", source, moves=moves)
    if subject.gpu is not None:
        yield from _devices(subject)
        yield from _runtime(subject)


def _has_ray(subject: Subject) -> bool:
    """Ask the lock, else the requirements of the release."""
    if subject.lock is not None:
        return any(wheel.name == "ray" for wheel in subject.lock.wheels)
    left_out = "ray" in subject.stack.resolve.exclude
    return subject.is_cuda and Version(subject.version) < _WITHOUT_RAY and not left_out


def _no_ray(subject: Subject) -> Iterator[Finding]:
    for flag in (_EXECUTOR, "data-parallel-backend"):
        if subject.args.get(flag) == "ray":
            place = f"serve.args.{flag}"
            hint = "write mp: the GPUs of one container need no ray"
            moves: tuple[Move, ...] = ((Change(place, "mp"),),)
            if subject.stack.runtime is not None:
                text = f"{subject.engine} does not bring ray; nobody knows if the image has it"
                yield warning(place, text, hint, _RAY, moves=moves, verified=False)
                continue
            text = f"ray is not in the image: {subject.engine} does not bring it"
            yield error(place, text, hint, _RAY, moves=moves)


def _devices(subject: Subject) -> Iterator[Finding]:
    """`CUDA_VISIBLE_DEVICES` counts among the GPUs that the container was given."""
    value = subject.stack.serve.env.get(_VISIBLE)
    if value is None:
        return
    place, source = place_of(_VISIBLE), "NVIDIA CUDA C++ programming guide, environment variables"
    moves: tuple[Move, ...] = ((Change(place, None),),)
    listed = [each.strip() for each in value.split(",") if each.strip()]
    hint = "leave it out: whoever starts the container says which GPUs it gets"
    if len(listed) < subject.count:
        text = f"shows {len(listed)} GPUs to the engine, target.count is {subject.count}"
        yield error(place, text, hint, source, moves=moves)
    elif not all(each.isdecimal() for each in listed):
        text = f'"{value}" names GPUs of one host'
        yield warning(place, text, hint, source, moves=moves)
    elif any(int(each) >= subject.count for each in listed):
        text = f'"{value}" counts among the GPUs that the container gets: of {subject.count} the '
        text += f"last is {subject.count - 1}"
        yield warning(place, text, hint, source, moves=moves)


def _runtime(subject: Subject) -> Iterator[Finding]:
    """What the container toolkit reads before the container starts."""
    env = subject.stack.serve.env
    given, abilities = env.get(_GIVEN), env.get(_ABILITIES)
    if given is not None and given != "all":
        text = f'"{given}" chooses GPUs on every host, unless whoever starts the container does'
        hint = "leave it out: --gpus, or the cluster, gives them"
        moves: tuple[Move, ...] = ((Change(place_of(_GIVEN), None),),)
        yield warning(place_of(_GIVEN), text, hint, _TOOLKIT, moves=moves)
    words = {each.strip() for each in (abilities or "all").split(",")}
    if "all" not in words and not {"compute", "utility"} <= words:
        text = f'"{abilities}" lacks compute, which CUDA needs, or utility, which the launcher does'
        moves = ((Change(place_of(_ABILITIES), None),),)
        hint = "leave it out: the image says compute,utility"
        yield error(place_of(_ABILITIES), text, hint, _TOOLKIT, moves=moves)


@rule("cache-folder", "caches lie where the container may write")
def cache_folder(subject: Subject) -> Iterator[Finding]:
    """Warn of folders that exist and can be written only with a volume of somebody's."""
    for name in _FOLDERS:
        value = subject.stack.serve.env.get(name)
        if value is None or _may_be_written(value):
            continue
        place = place_of(name)
        text = f"{value} is outside /cache and /tmp: the image's user may not write there"
        hint = "leave it out: caches go below /cache, where a volume may be, else /tmp/cache"
        moves: tuple[Move, ...] = ((Change(place, None),),)
        if name == _REPLACED:
            text += "; the launcher takes /tmp/home instead"
            yield note(place, text, hint, _LAUNCHER)
        else:
            yield warning(place, text, hint, _LAUNCHER, moves=moves)


def _may_be_written(folder: str) -> bool:
    path = PurePosixPath(folder)
    return ".." not in path.parts and any(path.is_relative_to(each) for each in _WRITABLE)


@rule("cpu-memory", "the memory for the cache on the CPU is written down")
def cpu_memory(subject: Subject) -> Iterator[Finding]:
    """Note what the CPU engine takes by default: half of a machine, or nearly all of it."""
    serve = subject.stack.serve
    if subject.is_cuda or serve.env.get(_SPACE) or "kv-cache-memory-bytes" in subject.args:
        return
    asked = Version(subject.version)
    source = "vllm/platforms/cpu.py of 0.12.0, 0.13.0 and 0.20.2, vllm/v1/worker/cpu_worker.py"
    hint = f'write serve.env: {{{_SPACE}: "4"}}, in GiB'
    if asked < Version("0.13.0"):
        text = f"{subject.engine} takes 4 GiB for the cache by default"
    elif asked < Version("0.20.0"):
        text = f"{subject.engine} takes half of a NUMA node's memory for the cache by default"
    else:
        yield from _share_of_host(subject, hint, source)
        return
    yield note(place_of(_SPACE), text, hint, source)


def _share_of_host(subject: Subject, hint: str, source: str) -> Iterator[Finding]:
    """From 0.20.0 on the engine takes a share of the host, whatever the container may use."""
    share = subject.stack.serve.gpu_memory_utilization
    row = default("gpu_memory_utilization", subject.version)
    taken = share if share is not None else float(row.value) if row else None
    if taken is None:
        return
    text = (
        f"{subject.engine} takes {taken:.0%} of a NUMA node's memory, weights included, and does "
        f"not start where less is free"
    )
    if share is not None:
        yield note("serve.gpu_memory_utilization", text, hint, source)
        return
    moves: tuple[Move, ...] = ((Change(place_of(_SPACE), "4"),),)
    yield warning(place_of(_SPACE), text, hint, source, moves=moves)
