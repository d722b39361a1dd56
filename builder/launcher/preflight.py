"""Rules: what the host must have for this image, judged before the engine starts (pure).

`judge(host, require)` lists every fault at once: what is wrong, what was found, what to do. The
first one that is fatal gives the exit code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from builder.launcher.exits import ExitCode
from builder.launcher.host import Folder, Host
from builder.launcher.nvml import Card, Driver, NoDriver
from builder.launcher.spec import Require

_MEMORY_TOLERANCE = 0.02
"""The same card reports a little more or less memory with ECC and from driver to driver."""

_GIB = 2**30
_MIB = 2**20


@dataclass(frozen=True)
class Finding:
    """One thing that the host lacks, or that is worth a word."""

    fault: str
    found: str
    hint: str
    code: ExitCode | None
    """None: a note, the engine may start."""


def judge(host: Host, require: Require) -> tuple[Finding, ...]:
    """Everything to say about this host, the driver first."""
    return (*_gpus(host, require), *_shm(host, require), *_cache(host))


def fatal(findings: Iterable[Finding]) -> ExitCode | None:
    """The exit code of the first finding that has one."""
    return next((finding.code for finding in findings if finding.code is not None), None)


def _gpus(host: Host, require: Require) -> Iterator[Finding]:
    match host.driver:
        case None:
            return
        case NoDriver(reason):
            yield _no_driver(reason, require)
        case Driver() as driver:
            yield from _old_driver(driver, require)
            cards = _visible(driver.cards, host.visible_devices)
            yield from _too_few(cards, host, require)
            for card in cards:
                yield from _card(card, require)


def _no_driver(reason: str, require: Require) -> Finding:
    return Finding(
        fault=f"this image needs {_wanted(require)}, and the NVIDIA driver cannot be asked",
        found=reason,
        hint="docker run --gpus all, on a host with the NVIDIA driver and its container toolkit",
        code=ExitCode.NO_DRIVER,
    )


def _old_driver(driver: Driver, require: Require) -> Iterator[Finding]:
    if require.driver and _numbers(driver.version) < _numbers(require.driver):
        cuda = f" (CUDA {driver.cuda[0]}.{driver.cuda[1]})" if driver.cuda else ""
        yield Finding(
            fault=f"the NVIDIA driver is too old: this image needs {require.driver} or newer",
            found=f"driver {driver.version}{cuda}",
            hint="update the host's driver, or use an image that is built for an older CUDA",
            code=ExitCode.OLD_DRIVER,
        )


def _too_few(cards: tuple[Card, ...], host: Host, require: Require) -> Iterator[Finding]:
    if len(cards) >= require.gpus:
        return
    hidden = host.visible_devices is not None
    because = f", CUDA_VISIBLE_DEVICES={host.visible_devices}" if hidden else ""
    yield Finding(
        fault=f"too few GPUs: this image needs {_wanted(require)}",
        found=f"{len(cards)} visible{because}",
        hint=f"docker run --gpus {require.gpus} or --gpus all, and check CUDA_VISIBLE_DEVICES",
        code=ExitCode.TOO_FEW_GPUS,
    )


def _card(card: Card, require: Require) -> Iterator[Finding]:
    if card.fault:
        hint = "nvidia-smi on the host says more; the engine may fail on this GPU"
        yield Finding(f"{_named(card)} cannot be read in full", card.fault, hint, None)
    if card.is_split:
        hint = "give a slice with --gpus device=MIG-..., and plan memory for the slice"
        yield Finding(f"{_named(card)} is in MIG mode", "its memory is not checked", hint, None)
    yield from _capability(card, require)
    yield from _memory(card, require)


def _capability(card: Card, require: Require) -> Iterator[Finding]:
    wanted, got = require.compute_capability, card.capability
    # Machine code for X.y runs on X.z with z >= y and on no other major version.
    if wanted is None or got is None or (got[0] == wanted[0] and got[1] >= wanted[1]):
        return
    yield Finding(
        fault=f"{_named(card)} is another kind of GPU than this image was built for"
        f" (compute capability {wanted[0]}.{wanted[1]}{_catalogue_name(require)})",
        found=f"compute capability {got[0]}.{got[1]}",
        hint="use an image for this GPU, or choose the right one with --gpus device=N",
        code=ExitCode.WRONG_CAPABILITY,
    )


def _memory(card: Card, require: Require) -> Iterator[Finding]:
    if card.memory_bytes is None or card.is_split:
        return
    if card.memory_bytes >= require.memory_bytes * (1 - _MEMORY_TOLERANCE):
        return
    yield Finding(
        fault=f"{_named(card)} has too little memory: the model was planned for"
        f" {require.memory_bytes / _GIB:.1f} GiB{_catalogue_name(require)}",
        found=f"{card.memory_bytes / _GIB:.1f} GiB",
        hint="use an image for this GPU, or choose a larger one with --gpus device=N",
        code=ExitCode.TOO_LITTLE_MEMORY,
    )


def _shm(host: Host, require: Require) -> Iterator[Finding]:
    if host.shm_bytes >= require.shm_bytes:
        return
    megabytes = -(-require.shm_bytes // _MIB)
    yield Finding(
        fault=f"shared memory is too small: the engine needs {megabytes} MiB in /dev/shm",
        found=f"{host.shm_bytes // _MIB} MiB",
        hint=f"docker run --shm-size {megabytes}m, or --ipc=host; "
        "Kubernetes: an emptyDir with medium Memory at /dev/shm",
        code=ExitCode.SMALL_SHM,
    )


def _cache(host: Host) -> Iterator[Finding]:
    for path in host.passed_over:
        hint = f"make it writable for uid {host.user}, or caches are lost with the container"
        found = f"not writable for uid {host.user}, using {host.cache.path}"
        yield Finding(f"the cache folder {path} is not used", found, hint, None)
    yield from _folder(host.cache, host.user, "compiled kernels and caches")
    if host.tmp.path != host.cache.path:
        yield from _writable(host.tmp, host.user, "temporary files")


def _folder(folder: Folder, user: int, use: str) -> Iterator[Finding]:
    yield from _writable(folder, user, use)
    if folder.is_noexec:
        yield Finding(
            fault=f"{folder.path} is mounted noexec: compiled kernels there cannot be loaded",
            found="noexec, the default of docker's --tmpfs",
            hint="docker run --tmpfs /tmp:exec, or mount a volume at /cache",
            code=ExitCode.CACHE,
        )


def _writable(folder: Folder, user: int, use: str) -> Iterator[Finding]:
    if not folder.is_writable:
        yield Finding(
            fault=f"{folder.path} cannot be written: no place for {use}",
            found=f"not there or not writable for uid {user}",
            hint="docker run --tmpfs /tmp:exec, or mount a writable volume at /cache",
            code=ExitCode.CACHE,
        )


def _visible(cards: tuple[Card, ...], devices: str | None) -> tuple[Card, ...]:
    """The cards that CUDA_VISIBLE_DEVICES leaves over; by UUID it is not followed."""
    if devices is None:
        return cards
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if not all(name.lstrip("-").isdigit() for name in names):
        return cards
    by_index = {card.index: card for card in cards}
    visible: list[Card] = []
    for name in names:
        card = by_index.get(int(name))
        if card is None:
            break  # CUDA, too, stops at the first one that does not exist
        visible.append(card)
    return tuple(visible)


def _wanted(require: Require) -> str:
    plural = "" if require.gpus == 1 else "s"
    return f"{require.gpus} GPU{plural}" + _catalogue_name(require)


def _catalogue_name(require: Require) -> str:
    return f", {require.gpu}" if require.gpu else ""


def _named(card: Card) -> str:
    return f"GPU {card.index} ({card.name})"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
