"""What changed in vLLM from version to version, as far as memory depends on it.

Its worker loads the weights, runs the largest batch once with the sampler behind it, and takes
the peak (`determine_available_memory` in `vllm/v1/worker/gpu_worker.py`; before version 1 of
its engine `determine_num_available_blocks` in `vllm/worker/worker.py`).  What that peak holds
changed: the context of the driver left it, the sampler stopped sorting, graphs entered it.
A second model runner (`vllm/v1/worker/gpu`) then took over, model by model: its profile samples
from the logits as they are, and does not look at graphs before 0.29.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.memory.fitted import fitted
from builder.units import GIB

if TYPE_CHECKING:
    from builder.memory.shape import ModelShape
    from builder.memory.weights import Split

_V1 = (0, 8)
"""Version 1 of the engine became the default."""
_BASELINE = (0, 6, 5)
"""What the driver held before is no longer counted; version 1 lost that for two releases."""
_V1_BASELINE = (0, 9, 1)
_JOINED_BASELINE = (0, 11)
"""What NCCL takes as GPUs meet is there before, and no longer counted either."""
_GROUPED_CACHE = (0, 10)
_FULL_GRAPHS = (0, 11)
"""Steps that only decode have graphs of their own."""
_KEPT_WORKSPACE = (0, 11)
"""The experts' buffers live on beside the sampler's."""
_NEW_SAMPLER = (0, 17)
_FLASHINFER_SAMPLER = (0, 21)
_GRAPHS_COUNTED = (0, 20)
"""`VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS` became 1, and utilisation 0.92 by default."""
_LIMITED_BATCHES = (0, 11, 1)
"""A step is no longer than all requests together."""
_SIZED_BATCHES = (0, 28)
"""Steps of 16384 tokens from 160 GiB on, and larger graphs on the GPUs that have so much."""
_SMALL_A100, _SMALL_SPARK = (0, 9), (0, 33)
"""Limits of smaller GPUs in spite of their memory."""
_LARGE_BYTES, _HUGE_BYTES = 70 * GIB, 160 * GIB
_CHUNKED_FROM = 32768

_SECOND_RUNNER = (0, 22)
_SECOND_FOR_QUANTISED, _SECOND_FOR_DENSE, _SECOND_FOR_ALL = (0, 24), (0, 25), (0, 29)
_FIRST_ON_SECOND = frozenset({"Qwen3ForCausalLM"})
_DENSE_ON_SECOND = _FIRST_ON_SECOND | {"LlamaForCausalLM", "MistralForCausalLM"}
_EXPERTS_ON_SECOND = frozenset(
    {"DeepseekV2ForCausalLM", "GraniteMoeForCausalLM", "Qwen2MoeForCausalLM"}
)
_LLAMA_ON_SECOND = (0, 23)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the engine takes in one step."""

    sequences: int
    batched_tokens: int


@dataclass(frozen=True, slots=True)
class Tier:
    """What the default limits depend on."""

    total_bytes: int
    is_a100: bool = False
    is_spark: bool = False


@dataclass(frozen=True, slots=True)
class Engine:
    """A version of vLLM."""

    version: tuple[int, ...]
    legacy: bool
    """Version 0 of its engine."""

    @property
    def sorts(self) -> bool:
        """The sampler sorts the vocabulary."""
        return self.version < _NEW_SAMPLER

    @property
    def masks_in_place(self) -> bool:
        """The sampler keeps a row of the vocabulary for each multiprocessor (Triton)."""
        return _NEW_SAMPLER <= self.version < _FLASHINFER_SAMPLER

    @property
    def utilisation(self) -> float:
        """The default of `gpu_memory_utilization`."""
        return 0.92 if self.version >= _GRAPHS_COUNTED else 0.9

    @property
    def keeps_workspace(self) -> bool:
        """The buffers of the experts live on beside the sampler's."""
        return self.version >= _KEPT_WORKSPACE

    @property
    def graphs_twice(self) -> bool:
        """Steps that only decode have graphs beside those of any step."""
        return not self.legacy and self.version >= _FULL_GRAPHS

    @property
    def large_graphs(self) -> bool:
        """On large GPUs graphs reach to 1024 tokens."""
        return self.version >= _SIZED_BATCHES

    @property
    def groups_cache(self) -> bool:
        """Layers with a window give back what they no longer see."""
        return not self.legacy and self.version >= _GROUPED_CACHE

    @property
    def bounds_steps(self) -> bool:
        """A step is never longer than all requests together."""
        return self.version >= _LIMITED_BATCHES

    def counts_graphs(self, shape: ModelShape) -> bool:
        """Graphs are taken from the budget, not from what lies beyond it."""
        if self.second_runner(shape):
            return self.version >= _SECOND_FOR_ALL
        return self.version >= _GRAPHS_COUNTED

    def second_runner(self, shape: ModelShape) -> bool:
        """Whether the second model runner is the default for a model (`config/vllm.py`)."""
        if self.version < _SECOND_RUNNER or self.version >= _SECOND_FOR_ALL:
            return self.version >= _SECOND_FOR_ALL
        if shape.pools or (shape.is_quantised and self.version < _SECOND_FOR_QUANTISED):
            return False
        if self.version < _SECOND_FOR_DENSE:
            both = _DENSE_ON_SECOND | _EXPERTS_ON_SECOND
            some = _DENSE_ON_SECOND if self.version < _SECOND_FOR_QUANTISED else both
            first = _FIRST_ON_SECOND if self.version < _LLAMA_ON_SECOND else some
            return shape.architecture in first
        dense = shape.experts is None and shape.recurrent is None
        return dense or shape.architecture in _EXPERTS_ON_SECOND

    def limits(self, tier: Tier, context_tokens: int) -> Limits:
        """Return the default limits on a device."""
        if self.legacy:
            chunked = context_tokens > _CHUNKED_FROM
            return Limits(256, 2048 if chunked else max(2048, context_tokens))
        a100 = tier.is_a100 and self.version >= _SMALL_A100
        spark = tier.is_spark and self.version >= _SMALL_SPARK
        if tier.total_bytes < _LARGE_BYTES or a100 or spark:
            return Limits(256, 2048)
        sized = self.version >= _SIZED_BATCHES and tier.total_bytes >= _HUGE_BYTES
        return Limits(1024, 16384 if sized else 8192)

    def outside_bytes(self, split: Split, *, linked: bool) -> int:
        """Return what the engine holds outside of PyTorch and counts.

        Without NVLink between the GPUs no log may give a number: then it is that of one.
        """
        constants = fitted()
        baseline = _BASELINE if self.legacy else _V1_BASELINE
        context = constants.context_bytes if self.version < baseline else 0
        if self.version >= _NEW_SAMPLER:
            shared, alone = constants.late_shared_bytes, constants.late_bytes
        else:
            shared, alone = constants.early_shared_bytes, constants.early_bytes
        if split.tensor > 1 and linked:
            joined = constants.joined_bytes if self.version < _JOINED_BASELINE else 0
            return max(context, shared) + joined
        return max(context, constants.pipeline_bytes if split.pipeline > 1 else alone)


@lru_cache
def engine(version: str, *, legacy: bool | None = None) -> Engine:
    """Return what is known of a version such as `0.20.2`.

    Raises:
        StackError: it is no version.
    """
    found = re.match(r"(?:\d+!)?v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    if found is None:
        message = f"engine.version: expected a version such as `0.20.2`, got `{version}`"
        raise StackError(message, "write the version of a published vLLM")
    numbers = tuple(int(part or 0) for part in found.groups())
    return Engine(numbers, numbers < _V1 if legacy is None else legacy)
