"""Numbers that logs say and no source states; docs/memory.md says from which logs they come."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fitted:
    """Numbers taken from logs."""

    sorting_bytes: float
    """Of the sampler that sorts the vocabulary, an entry of the logits beside the model's own."""
    pixel_bytes: int
    """Of the images of the profile, for each token that they become."""
    context_bytes: int
    """Outside of PyTorch where the driver's context is counted."""
    early_bytes: int
    """Outside of PyTorch on one GPU, until 0.16."""
    early_shared_bytes: int
    """The same with several GPUs: buffers of NCCL."""
    joined_bytes: int
    """What NCCL takes as GPUs meet, before anything is loaded."""
    driver_bytes: int
    """What the driver's context takes before the engine looks how much is free."""
    late_bytes: int
    late_shared_bytes: int
    pipeline_bytes: int
    layer_graph_bytes: int
    """Of one graph, for each layer."""
    experts_graph_bytes: int
    """The same for layers with experts."""


@lru_cache
def fitted() -> Fitted:
    """Return the numbers that were taken from logs."""
    text = (Path(__file__).parent / "fitted.toml").read_text(encoding="utf-8")
    return Fitted(**tomllib.loads(text))
