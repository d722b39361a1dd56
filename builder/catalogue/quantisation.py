"""How the engine runs quantised weights and caches on each compute capability.

Two gates stand one after the other: a *method* (`--quantization`, or what the checkpoint names)
refuses GPUs below its floor at start-up, and a *scheme* (what the weights are) then runs natively,
as weights that are unpacked on the way (`weight-only`), or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from packaging.version import Version

from builder.catalogue.spans import between
from builder.catalogue.tables import listed

How = Literal["native", "weight-only", "refused"]


@dataclass(frozen=True, slots=True)
class Floor:
    """The oldest compute capability that a method takes, from a release on."""

    since: str
    capability: str | None = None
    """None: the method is there, but its floor was not found in the source."""
    dtypes: tuple[str, ...] = ()
    """What it multiplies in; empty where that was not found."""


@dataclass(frozen=True, slots=True)
class Method:
    """A quantisation method of vLLM, as `--quantization` names it."""

    name: str
    floors: tuple[Floor, ...]
    source: str
    removed: str | None = None
    """First release without it."""
    replacement: str = ""
    deprecated: str | None = None
    """First release that refuses it without `--allow-deprecated-quantization`."""
    restored: str | None = None
    """First release that takes it without that again."""
    loads: tuple[str, ...] = ()
    """Other names in checkpoints whose weights it takes; `any`: whatever they say."""
    online: bool = False
    """It quantises 16-bit weights while it loads them."""
    unverified: tuple[str, ...] = ()

    def is_deprecated(self, version: str) -> bool:
        """Whether a release wants `--allow-deprecated-quantization` for it."""
        return self.deprecated is not None and between(version, self.deprecated, self.restored)

    def takes(self, checkpoint: str) -> bool:
        """Whether it loads weights that their configuration calls so."""
        return checkpoint == self.name or "any" in self.loads or checkpoint in self.loads

    def floor(self, version: str) -> Floor | None:
        """Return the floor in a release, None where the method is not offered."""
        asked = Version(version)
        if self.removed is not None and asked >= Version(self.removed):
            return None
        past = [floor for floor in self.floors if Version(floor.since) <= asked]
        return past[-1] if past else None


@dataclass(frozen=True, slots=True)
class Scheme:
    """What the weights of a checkpoint are."""

    name: str
    title: str
    weight_bits: int
    methods: tuple[str, ...]
    """Methods that load it."""
    source: str
    group: int | None = None
    """Weights that share a scale, where the format fixes it."""
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """How a scheme runs on a range of compute capabilities."""

    scheme: str
    how: How
    minimum: str
    since: str
    source: str
    maximum: str | None = None
    until: str | None = None
    """First release for which it is no longer so."""
    note: str = ""
    unverified: tuple[str, ...] = ()

    def covers(self, version: str, capability: str) -> bool:
        """Whether it speaks of a release and a compute capability."""
        return between(version, self.since, self.until) and within(
            capability, self.minimum, self.maximum
        )


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention backend of vLLM, or one kernel of it, and caches that it takes."""

    name: str
    since: str
    minimum: str
    kv_cache: tuple[str, ...]
    """Values of `--kv-cache-dtype` that it takes."""
    source: str
    maximum: str | None = None
    until: str | None = None
    """First release for which it is no longer so."""
    mla: bool = False
    unverified: tuple[str, ...] = ()

    def there(self, version: str) -> bool:
        """Whether a release has it."""
        return between(version, self.since, self.until)

    def runs(self, version: str, capability: str, kv_cache: str) -> bool:
        """Whether a release runs it on a compute capability, with such a cache."""
        return (
            kv_cache in self.kv_cache
            and self.there(version)
            and within(capability, self.minimum, self.maximum)
        )


@dataclass(frozen=True, slots=True)
class Order:
    """In which order releases try their attention backends."""

    since: str
    mla: bool
    majors: tuple[int, ...]
    """Major compute capabilities; empty for all others."""
    backends: tuple[str, ...]
    source: str
    until: str | None = None
    """First release for which it is no longer so."""


@dataclass(frozen=True, slots=True)
class CacheType:
    """A value of `--kv-cache-dtype`."""

    name: str
    since: str
    source: str
    bits: int | None = None
    """Of one element; None where it follows the model or packs several things."""
    unverified: tuple[str, ...] = ()


def within(capability: str, minimum: str, maximum: str | None = None) -> bool:
    """Whether a compute capability such as `8.6` lies in a range; both ends belong to it."""
    asked = _numbers(capability)
    return _numbers(minimum) <= asked and (maximum is None or asked <= _numbers(maximum))


@lru_cache(maxsize=4096)
def path(scheme: str, version: str, capability: str) -> Path | None:
    """Return how a scheme runs there, None where no source says."""
    found = (each for each in paths() if each.scheme == scheme)
    return next((each for each in found if each.covers(version, capability)), None)


def attention(version: str, capability: str, kv_cache: str, *, mla: bool = False) -> str | None:
    """Return the backend that a release chooses, None where no backend takes that cache."""
    return next(iter(choices(version, capability, kv_cache, mla=mla)), None)


@lru_cache(maxsize=4096)
def choices(version: str, capability: str, kv_cache: str, *, mla: bool = False) -> tuple[str, ...]:
    """Return the backends that take a cache there, in the order in which they are tried."""
    rows = [row for row in attentions() if row.mla == mla]
    fits = {row.name for row in rows if row.runs(version, capability, kv_cache)}
    own = [row for row in orders() if row.mla == mla and between(version, row.since, row.until)]
    major = _numbers(capability)[0]
    order = next((row for row in own if major in row.majors), None)
    order = order or next((row for row in own if not row.majors), None)
    return tuple(name for name in order.backends if name in fits) if order else ()


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


@lru_cache
def methods() -> dict[str, Method]:
    """Return the quantisation methods by name."""
    return {row.name: row for row in listed(Method, "quantisation", "method")}


@lru_cache
def schemes() -> dict[str, Scheme]:
    """Return the schemes by name."""
    return {row.name: row for row in listed(Scheme, "quantisation", "scheme")}


@lru_cache
def paths() -> tuple[Path, ...]:
    """Return how schemes run."""
    return listed(Path, "quantisation", "path")


@lru_cache
def cache_types() -> dict[str, CacheType]:
    """Return the values of `--kv-cache-dtype` by name."""
    return {row.name: row for row in listed(CacheType, "attention", "cache")}


@lru_cache
def attentions() -> tuple[Attention, ...]:
    """Return the attention backends."""
    return listed(Attention, "attention", "backend")


@lru_cache
def orders() -> tuple[Order, ...]:
    """Return in which order backends are tried."""
    return listed(Order, "attention", "order")
