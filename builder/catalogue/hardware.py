"""GPUs as one orders them, and what their architectures can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from builder.catalogue.nearest import nearest
from builder.catalogue.tables import named, pick, read, table
from builder.units import GIB, MIB

_GB = 10**9
_CONTEXT_BYTES = round(0.5 * GIB)
_CONTEXT_SHARE = 0.0032
"""What the engine does not see of a GPU: a fixed part and a share, more than was ever measured."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What all GPUs of one compute capability have in common."""

    name: str
    """The compute capability, such as `9.0`."""
    title: str
    oldest_cuda: str
    """First CUDA release that compiles for it."""
    bf16: bool
    """Tensor cores multiply bfloat16."""
    fp8: bool
    fp4: bool
    source: str
    newest_cuda: str | None = None
    """Last CUDA release that compiles for it, where one dropped it."""
    newest_driver: int | None = None
    """Last driver branch, where one dropped it."""
    family: str | None = None
    """Code for the family, such as `100f`, runs on it besides code for its own capability."""
    unverified: tuple[str, ...] = ()

    @property
    def sm(self) -> str:
        """Return how compilers write it, such as `90`."""
        return self.name.replace(".", "")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as one orders it: a model with a form and an amount of memory."""

    name: str
    """Key of the catalogue, such as `h100-sxm-80gb`."""
    title: str
    aliases: tuple[str, ...]
    """What people write; several GPUs may share one."""
    compute_capability: str
    """Such as `9.0`."""
    kind: Literal["datacentre", "workstation", "geforce", "soc"]
    """What it is sold for; packages of newer CUDA for older drivers are for `datacentre`."""
    sold_bytes: int
    """The number on the box."""
    memory_bytes: int
    """What `nvidia-smi` prints as `memory.total`."""
    bandwidth_bytes: int
    """Of its memory, a second."""
    link: Literal["nvlink", "bridge", "pcie", "none"]
    """To its neighbours in a host; `bridge`: pairs may be joined, more go over PCIe."""
    link_bytes: int
    """From one GPU to its neighbours, one way, a second; for `bridge` what PCIe gives."""
    oldest_driver: int
    """Oldest driver branch, such as `520`."""
    arch: str
    """`amd64` or `arm64`: the hosts it is sold with."""
    source: str
    visible_bytes: int | None = None
    """What the engine sees of it, where that was measured."""
    unified: bool = False
    """Its memory is the host's."""
    one_market: bool = False
    """Made to the export rules of one country, and sold there alone."""
    unverified: tuple[str, ...] = ()
    """Keys of its row whose figures have no source."""

    @property
    def verified(self) -> bool:
        """Whether a real one was seen printing `memory_bytes`."""
        return "memory_mib" not in self.unverified

    @property
    def usable_bytes(self) -> int:
        """Return what an engine sees: measured, else estimated on the low side."""
        if self.visible_bytes is not None:
            return self.visible_bytes
        return self.memory_bytes - _CONTEXT_BYTES - round(_CONTEXT_SHARE * self.memory_bytes)

    @property
    def architecture(self) -> Architecture:
        """Return what its compute capability can do."""
        return architecture(self.compute_capability)


def architecture(capability: str) -> Architecture:
    """Return the architecture of a compute capability such as `9.0`."""
    return pick("compute capability", architectures(), capability)


@lru_cache
def architectures() -> dict[str, Architecture]:
    """Return every architecture by its compute capability."""
    return named(Architecture, "architectures")


def gpu(name: str) -> Gpu:
    """Return the GPU of that name."""
    found = gpus().get(name)
    return found or pick("GPU", gpus(), name, similar_gpus(name))


@lru_cache
def gpus() -> dict[str, Gpu]:
    """Return every GPU by name."""
    return {name: _gpu(name, row) for name, row in table("gpus").items()}


def similar_gpus(text: str) -> tuple[str, ...]:
    """Return the names of the GPUs that `text` may mean, best first."""
    titles = {name: (name, item.title, *item.aliases) for name, item in gpus().items()}
    return nearest(text, titles)


_UNITS = {
    "sold_gb": ("sold_bytes", _GB),
    "memory_mib": ("memory_bytes", MIB),
    "visible_gib": ("visible_bytes", GIB),
    "bandwidth_gbs": ("bandwidth_bytes", _GB),
    "link_gbs": ("link_bytes", _GB),
}
"""The table is in the units that people write."""


def _gpu(name: str, row: dict[str, Any]) -> Gpu:
    facts: dict[str, Any] = {"name": name}
    for key, value in row.items():
        field, unit = _UNITS.get(key, (key, None))
        is_number = type(value) in (int, float)
        facts[field] = round(value * unit) if unit and is_number else value
    return read(Gpu, facts, f"gpus.toml: {name}")
