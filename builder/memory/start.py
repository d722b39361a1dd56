"""What the start of an engine takes beside weights and cache: the largest step, and graphs.

Everything here follows from vLLM's source: which tensors of the profile are alive together, and
which buffers kernels ask for.  Only the sampler that sorts, and the bytes of a captured graph,
are taken from logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.memory.fitted import fitted
from builder.units import MIB

if TYPE_CHECKING:
    from builder.memory.engine import Engine, Limits
    from builder.memory.shape import ModelShape
    from builder.memory.weights import Split

_FLOAT, _BYTE = 4, 8
_PATCH_BYTES = 14 * 14 * 3 * 2 * 2
"""Of a patch as the Qwen family cuts it: two frames of 14 x 14 points in three colours."""
_SAMPLED_BYTES = 3 * _FLOAT
"""An entry of the logits as float32, its probability, and the noise it is divided by."""
_FEW_ROWS = 8
"""Fewer requests are still sorted (`apply_top_k_top_p`)."""
_MULTIPROCESSORS = 132
"""Of an H100: each masks a row of the vocabulary at a time.  Others differ by some 40 MiB."""
_HOPPER, _BLACKWELL = "9", "10"
_WORKSPACE_BYTES = {_HOPPER: 32 * MIB, _BLACKWELL: 32 * MIB}
_OTHER_WORKSPACE_BYTES = 8 * MIB
"""Of cuBLAS, as PyTorch sets it (`getChosenWorkspaceSize`)."""

_SMALL_STEP, _LARGE_GRAPH, _LARGE_STEP = 8, 256, 16
_FIRST_GRAPHS = 3
"""Batches of 1, 2 and 4."""
_MAX_GRAPH, _V0_MAX_GRAPH, _HUGE_GRAPH = 512, 256, 1024
_FIRST_GRAPH_BYTES = 128 * MIB
"""Of the largest graph of any step: workspaces, and what alternates between its kernels.  106 to
152 MiB in those of the logs that may give numbers and say so."""
_SPLITS = 32
"""`flash_attn_max_num_splits_for_cuda_graph`: partial results that FlashAttention 3 may hold."""
_FLASHINFER_BYTES = 394 * MIB
"""`VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE`: attention of FlashInfer asks for it at once."""


@dataclass(frozen=True, slots=True)
class Start:
    """A model on one GPU, about to be profiled."""

    engine: Engine
    shape: ModelShape
    split: Split
    limits: Limits
    capability: str = ""
    """Of the GPU, such as `9.0`; empty where it is not known."""
    cache_element_bytes: int = 2
    context_tokens: int = 0

    @property
    def generation(self) -> str:
        """Return the first number of the compute capability."""
        return self.capability.partition(".")[0]

    @property
    def activation_bytes(self) -> int:
        """Return the peak of the largest step: its forward pass, or the sampler behind it."""
        kept = self.image_bytes + _WORKSPACE_BYTES.get(self.generation, _OTHER_WORKSPACE_BYTES)
        experts = self.experts_bytes
        forward = self.limits.batched_tokens * self.forward_elements * self.shape.dtype_bytes
        behind = self.sampler_bytes + (experts if self.engine.keeps_workspace else 0)
        return round(max(self.tower_bytes, kept + max(forward + experts, behind)))

    @property
    def sampler_bytes(self) -> float:
        """Return what is alive while a token is sampled for every request."""
        if self.shape.pools:
            return 0
        limits, shape = self.limits, self.shape
        rows = min(limits.sequences, limits.batched_tokens)
        # The result of the step, the rows of it that count, and as much random numbers.
        hidden = (limits.batched_tokens + 2 * rows) * shape.hidden * shape.dtype_bytes
        entry, masks = shape.dtype_bytes + _SAMPLED_BYTES, 0
        if self.engine.second_runner(shape):
            entry = shape.dtype_bytes
        elif self.engine.sorts or rows < _FEW_ROWS:
            return hidden + rows * shape.vocabulary * (shape.dtype_bytes + fitted().sorting_bytes)
        elif self.engine.masks_in_place:
            masks = min(rows, _MULTIPROCESSORS) * shape.vocabulary * _FLOAT
        return hidden + rows * shape.vocabulary * entry + masks

    @property
    def forward_elements(self) -> float:
        """Return the elements alive at once for each token, without experts.

        Three times the feed-forward width (gate, up and their product) or the queries, keys,
        values and their result; beside them the residual, the input and the output of the layer.
        """
        shape, split = self.shape, self.split
        width = shape.width
        if shape.experts:
            width = shape.experts.shared_width
            if shape.experts.dense_layers:
                width = max(width, shape.width)
        # What 8-bit matrices multiply is a copy of half the size beside the product.
        copies = 3.5 if _BYTE <= shape.linear_bits < _BYTE + 1 and shape.is_quantised else 3
        heads = 2 * (shape.heads + shape.kv_heads) * shape.head_width
        beside = (3 if self.engine.legacy else 4) + (2 if split.pipeline > 1 else 0)
        return max(copies * width, heads) / split.tensor + beside * shape.hidden

    @property
    def experts_bytes(self) -> float:
        """Return the buffers of the fused experts: each token once for every expert it visits.

        `workspace_shapes` in `fused_moe.py`: one for the activated width or the result, one for
        gate and up or the result.
        """
        if self.shape.experts is None or not self.shape.expert_workspace:
            return 0
        width, hidden = self.shape.experts.width / self.split.tensor, self.shape.hidden
        elements = max(width, hidden) + max(2 * width, hidden)
        tokens = self.limits.batched_tokens * self.shape.experts.per_token
        return tokens * elements * self.shape.dtype_bytes

    @property
    def image_bytes(self) -> float:
        """Return what images of the profile hold: their pixels, and the tokens made of them."""
        if not self.shape.vision_parameters or self.engine.legacy:
            return 0
        tower = self.shape.tower
        pixels = tower.patches * _PATCH_BYTES if tower else fitted().pixel_bytes
        return self._image_tokens * (self.shape.hidden * self.shape.dtype_bytes + pixels)

    @property
    def tower_bytes(self) -> float:
        """Return the step of a tower whose images and videos have no fixed size.

        It runs without the compiler: gate, up and product, beside them six tensors of its width.
        """
        tower = self.shape.tower
        if tower is None or self.engine.legacy:
            return 0
        elements = 3 * tower.width + 6 * tower.hidden
        return self._image_tokens * tower.patches * elements * self.shape.dtype_bytes

    @property
    def _image_tokens(self) -> int:
        batched = self.limits.batched_tokens
        tower = self.shape.tower
        return tower.tokens(self.context_tokens, batched) if tower else batched

    @property
    def graphs(self) -> int:
        """Return how many graphs are captured: for steps of any kind, and for those that decode."""
        sequences = self.limits.sequences
        if self.engine.legacy:
            return _sizes(min(_V0_MAX_GRAPH, sequences))
        if not self.engine.graphs_twice:
            return _FIRST_GRAPHS + min(_MAX_GRAPH, 2 * sequences) // _SMALL_STEP
        return _sizes(self._largest_graph) + _sizes(min(self._largest_graph, sequences))

    @property
    def graph_bytes(self) -> int:
        """Return what captured graphs take, counted or not.

        The buffers that a kernel asks for once serve all of them, largest first; beside that,
        each holds its own copy of what its kernels are launched with.
        """
        layers = -(-self.shape.layers // self.split.pipeline)
        shared = max(_FIRST_GRAPH_BYTES, self.attention_bytes)
        return round(shared + self.graphs * layers * self.each_graph_bytes)

    @property
    def each_graph_bytes(self) -> int:
        """Return what one graph takes for each layer."""
        constants = fitted()
        return constants.experts_graph_bytes if self.shape.experts else constants.layer_graph_bytes

    @property
    def attention_bytes(self) -> int:
        """Return the buffers that attention asks for in a graph that decodes."""
        shape = self.shape
        if not self.engine.graphs_twice:
            return 0
        fp8 = self.cache_element_bytes == 1 and not shape.latent
        fp8_elsewhere = fp8 and self.generation not in {"", _HOPPER}
        if self.generation == _BLACKWELL or fp8_elsewhere:
            return _FLASHINFER_BYTES
        if self.generation != _HOPPER or shape.dtype_bytes == _FLOAT:
            return 0
        width = shape.latent.rank if shape.latent else shape.head_width
        tokens = min(self._largest_graph, self.limits.sequences)
        return _SPLITS * tokens * shape.heads * width * _FLOAT // self.split.tensor

    @property
    def _largest_graph(self) -> int:
        huge = self.engine.large_graphs and self.generation == _BLACKWELL
        return min(_HUGE_GRAPH if huge else _MAX_GRAPH, 2 * self.limits.sequences)


def _sizes(largest: int) -> int:
    """Return how many batch sizes are captured: 1, 2, 4, then every 8th, beyond 256 every 16th."""
    small = min(largest, _LARGE_GRAPH) // _SMALL_STEP
    return _FIRST_GRAPHS + small + max(0, largest - _LARGE_GRAPH) // _LARGE_STEP
