"""Does a model fit: weights, cache, activations, graphs and overhead of vLLM, without a GPU.

Pure: numbers in, numbers out.  Amounts are bytes of one GPU; where several share a model, of the
fullest one.  docs/memory.md says how the numbers come about and how far they are from logs.
"""

from builder.memory.cache import CacheFormat, Layout, layout, token_bytes
from builder.memory.engine import Limits, engine
from builder.memory.forecast import (
    Device,
    Forecast,
    Serving,
    forecast,
    highest_concurrency,
    largest_context,
    smallest_device,
)
from builder.memory.lock import of_lock, of_model
from builder.memory.shape import Experts, Latent, ModelShape, Recurrent, from_config
from builder.memory.weights import Split, replicated_bytes, weight_bytes

__all__ = [
    "CacheFormat",
    "Device",
    "Experts",
    "Forecast",
    "Latent",
    "Layout",
    "Limits",
    "ModelShape",
    "Recurrent",
    "Serving",
    "Split",
    "engine",
    "forecast",
    "from_config",
    "highest_concurrency",
    "largest_context",
    "layout",
    "of_lock",
    "of_model",
    "replicated_bytes",
    "smallest_device",
    "token_bytes",
    "weight_bytes",
]
