"""What vLLM counts before it gives the rest to the cache, by version.

Its worker loads the weights, runs the largest batch once with the sampler behind it, and takes
the peak (`determine_available_memory` in `vllm/v1/worker/gpu_worker.py`; before version 1 of
its engine `determine_num_available_blocks` in `vllm/worker/worker.py`).  What that peak holds
changed: the context of the driver left it, the sampler stopped sorting, graphs entered it.
`fitted.toml` holds the few numbers that no source states; docs/memory.md says from what they come.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.units import GIB

if TYPE_CHECKING:
    from builder.memory.shape import ModelShape
    from builder.memory.weights import Split

_V1 = (0, 8)
"""Version 1 of the engine became the default."""
_BASELINE = (0, 6, 5)
"""What the driver held before is no longer counted; version 1 lost that for two releases."""
_V1_BASELINE = (0, 9, 2)
_GROUPED_CACHE = (0, 10)
_KEPT_WORKSPACE = (0, 11)
"""The experts' buffers live on beside the sampler's."""
_NEW_SAMPLER = (0, 17)
_GRAPHS_COUNTED = (0, 20)
"""`VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS` became 1, and utilisation 0.92 by default."""
_LIMITED_BATCHES = (0, 11, 1)
"""A step is no longer than all requests together."""
_SIZED_BATCHES = (0, 28)
"""Steps of 16384 tokens from 160 GiB on."""
_SMALL_A100, _SMALL_SPARK = (0, 9), (0, 33)
"""Limits of smaller GPUs in spite of their memory."""
_LARGE_BYTES, _HUGE_BYTES = 70 * GIB, 160 * GIB
_CHUNKED_FROM = 32768
_SMALL_STEP, _LARGE_GRAPH, _LARGE_STEP = 8, 256, 16
_FIRST_GRAPHS = 3
"""Batches of 1, 2 and 4."""
_MAX_GRAPH, _V0_MAX_GRAPH = 512, 256


@dataclass(frozen=True, slots=True)
class Fitted:
    """Numbers taken from logs."""

    sorting_bytes: float
    """Of the sampler that sorts the vocabulary, an entry of the logits."""
    sampling_bytes: float
    """Of the one that came after it."""
    context_bytes: int
    """Outside of PyTorch where the driver's context is counted."""
    early_bytes: int
    """Outside of PyTorch on one GPU, until 0.16."""
    early_shared_bytes: int
    """The same with several GPUs: buffers of NCCL."""
    late_bytes: int
    late_shared_bytes: int
    pipeline_bytes: int
    graph_bytes: int
    """Of a set of graphs, however small."""
    layer_graph_bytes: int
    """Of one graph, for each layer."""
    experts_graph_bytes: int
    """Of a set of graphs, on top, where layers have experts."""


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
    def utilisation(self) -> float:
        """The default of `gpu_memory_utilization`."""
        return 0.92 if self.version >= _GRAPHS_COUNTED else 0.9

    @property
    def counts_graphs(self) -> bool:
        """Graphs are taken from the budget, not from what lies beyond it."""
        return self.version >= _GRAPHS_COUNTED

    @property
    def groups_cache(self) -> bool:
        """Layers with a window give back what they no longer see."""
        return not self.legacy and self.version >= _GROUPED_CACHE

    @property
    def bounds_steps(self) -> bool:
        """A step is never longer than all requests together."""
        return self.version >= _LIMITED_BATCHES

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

    def activation_bytes(self, shape: ModelShape, split: Split, limits: Limits) -> int:
        """Return the peak of the largest step: its forward pass, or the sampler behind it."""
        experts = _experts_bytes(shape, split, limits)
        kept = experts if self.version >= _KEPT_WORKSPACE else 0
        elements = forward_elements(shape, split, legacy=self.legacy)
        forward = limits.batched_tokens * elements * shape.dtype_bytes + experts
        # A row of logits as the model made it, and the sampler's own copies of it.
        constants = fitted()
        each = shape.dtype_bytes + (
            constants.sorting_bytes if self.sorts else constants.sampling_bytes
        )
        rows = 0 if shape.pools else min(limits.sequences, limits.batched_tokens)
        return round(max(forward, kept + rows * shape.vocabulary * each))

    def outside_bytes(self, split: Split) -> int:
        """Return what the engine holds outside of PyTorch and counts."""
        constants = fitted()
        baseline = _BASELINE if self.legacy else _V1_BASELINE
        context = constants.context_bytes if self.version < baseline else 0
        if self.version >= _NEW_SAMPLER:
            shared, alone = constants.late_shared_bytes, constants.late_bytes
        else:
            shared, alone = constants.early_shared_bytes, constants.early_bytes
        if split.tensor > 1:
            return max(context, shared)
        return max(context, constants.pipeline_bytes if split.pipeline > 1 else alone)

    def graph_bytes(self, shape: ModelShape, split: Split, limits: Limits) -> int:
        """Return what captured graphs take, counted or not."""
        constants = fitted()
        layers = self.graphs(limits) * -(-shape.layers // split.pipeline)
        experts = constants.experts_graph_bytes if shape.experts else 0
        return constants.graph_bytes + layers * constants.layer_graph_bytes + experts

    def graphs(self, limits: Limits) -> int:
        """Return how many graphs are captured: for steps of any kind, and for those that decode."""
        if self.legacy:
            return _graphs(min(_V0_MAX_GRAPH, limits.sequences))
        largest = min(_MAX_GRAPH, 2 * limits.sequences)
        return _graphs(largest) + _graphs(min(largest, limits.sequences))


@lru_cache
def engine(version: str, *, legacy: bool | None = None) -> Engine:
    """Return what is known of a version such as `0.20.2`.

    Raises:
        StackError: it is no version.
    """
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        message = f"engine.version: expected a version such as `0.20.2`, got `{version}`"
        raise StackError(message, "write the version of a published vLLM")
    numbers = tuple(int(part or 0) for part in found.groups())
    old = numbers < _V1 if legacy is None else legacy
    return Engine(numbers, old)


@lru_cache
def fitted() -> Fitted:
    """Return the numbers that were taken from logs."""
    text = (Path(__file__).parent / "fitted.toml").read_text(encoding="utf-8")
    return Fitted(**tomllib.loads(text))


def forward_elements(shape: ModelShape, split: Split, *, legacy: bool) -> float:
    """Return the elements alive at once for each token, without experts.

    Three times the feed-forward width (gate, up and their product) or the queries, keys, values
    and their result; beside them the residual, the input and the output of the layer.
    """
    width = shape.width
    if shape.experts:
        width = shape.experts.shared_width
        if shape.experts.dense_layers:
            width = max(width, shape.width)
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_width
    beside = (3 if legacy else 4) + (2 if split.pipeline > 1 else 0)
    return max(3 * width, heads) / split.tensor + beside * shape.hidden


def _experts_bytes(shape: ModelShape, split: Split, limits: Limits) -> float:
    """Return the buffers of the fused experts: each token once for every expert it visits."""
    if shape.experts is None or not shape.expert_workspace:
        return 0
    width = shape.experts.width / split.tensor
    elements = shape.experts.per_token * (max(2 * width, shape.hidden) + width)
    return limits.batched_tokens * elements * shape.dtype_bytes


def _graphs(largest: int) -> int:
    """Return how many batch sizes are captured: 1, 2, 4, then every 8th, beyond 256 every 16th."""
    small = min(largest, _LARGE_GRAPH) // _SMALL_STEP
    return _FIRST_GRAPHS + small + max(0, largest - _LARGE_GRAPH) // _LARGE_STEP
