"""What the forecast is asked about: a GPU as the engine sees it, and what a deployment wants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.memory.engine import Engine, Limits, Tier, engine
from builder.memory.fitted import fitted
from builder.memory.shape import as_loaded
from builder.memory.weights import Split
from builder.units import GIB

if TYPE_CHECKING:
    from builder.catalogue import Gpu
    from builder.memory.shape import ModelShape

_HOST_BYTES = 16 * GIB
"""What system and programs take of a memory that they share with the GPU: a DGX Spark has 101 to
102 of 121.7 GiB free after its start (its row in gpus.toml), and most of that was let go."""
_SMALL = ("A100", "A800")
_SPARK, _LINKED = "12.1", "nvlink"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the engine sees it."""

    name: str
    total_bytes: int
    capability: str = ""
    """Such as `9.0`; empty where it is not known."""
    unified: bool = False
    """Its memory is the host's."""
    linked: bool = True
    """NVLink joins it to its neighbours: only then does NCCL keep large buffers."""

    @classmethod
    def of(cls, gpu: Gpu) -> Device:
        """Return a GPU of the catalogue."""
        return cls(
            gpu.title, gpu.usable_bytes, gpu.compute_capability, gpu.unified, gpu.link == _LINKED
        )

    def free_bytes(self, split: Split) -> int:
        """Return what is free when an engine starts alone: asked for more, it refuses to."""
        joined = fitted().joined_bytes if split.tensor > 1 and self.linked else 0
        return self.total_bytes - joined - (_HOST_BYTES if self.unified else fitted().driver_bytes)

    @property
    def tier(self) -> Tier:
        """What the engine's default limits depend on."""
        small = any(name in self.name for name in _SMALL)
        return Tier(self.total_bytes, is_a100=small, is_spark=self.capability == _SPARK)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a deployment asks of the engine; None stands for the engine's default."""

    version: str
    context_tokens: int
    concurrency: int = 1
    """Requests of full length that must fit at once."""
    sequences: int | None = None
    """`max_num_seqs`."""
    batched_tokens: int | None = None
    """`max_num_batched_tokens`."""
    utilisation: float | None = None
    """`gpu_memory_utilization`."""
    split: Split = field(default_factory=Split)
    dtype_bytes: int | None = None
    """`dtype`; None: as the files, but 16 bits where they hold 32."""
    cache_element_bytes: int | None = None
    """1 for an fp8 cache; None: as the model's dtype."""
    block_tokens: int = 16
    eager: bool = False
    """No graphs."""
    pools: bool | None = None
    """The model gives vectors or classes; None: as its config says."""
    offload_bytes: int = 0
    """`cpu_offload_gb`: weights of each GPU that stay in the memory of the host."""
    cache_bytes: int | None = None
    """`kv_cache_memory_bytes`: the cache has this size, whatever the utilisation."""
    online_bits: float | None = None
    """Of a weight that the engine quantises as it loads it; None: as the files."""
    drafts: bool = False
    """The model's own layers for speculative decoding are loaded."""
    legacy: bool | None = None
    """Version 0 of the engine, where both were there."""

    @property
    def engine(self) -> Engine:
        """Return what is known of the engine's version."""
        return engine(self.version, legacy=self.legacy)

    @property
    def requests(self) -> int:
        """Return how many of the requests come to each replica."""
        return -(-self.concurrency // self.split.data)

    def loaded(self, shape: ModelShape) -> ModelShape:
        """Return what the engine makes of a model."""
        found = as_loaded(shape, self.dtype_bytes, drafts=self.drafts)
        if self.online_bits and not found.is_quantised:
            found = replace(found, linear_bits=self.online_bits, stored_bytes=None)
        return found if self.pools is None else replace(found, pools=self.pools)

    def limits(self, shape: ModelShape, device: Device) -> Limits:
        """Return how much the engine takes in one step."""
        version = self.engine
        found = version.limits(device.tier, self.context_tokens)
        sequences, tokens = self.sequences or found.sequences, self.batched_tokens
        if tokens is None:
            tokens = found.batched_tokens
            if not shape.cached:
                # Without a cache a request cannot be cut into steps: the longest is one.
                tokens = max(tokens, self.context_tokens)
            if version.bounds_steps:
                tokens = min(tokens, sequences * self.context_tokens)
        return Limits(sequences if self.sequences else min(sequences, tokens), tokens)
