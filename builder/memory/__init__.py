"""Does a model fit: weights, cache, activations, graphs and overhead of vLLM, without a GPU.

Pure: numbers in, numbers out.  Amounts are bytes of one GPU; where several share a model, of the
fullest one.  docs/memory.md says how the numbers come about and how far they are from logs.
"""

from builder.memory.answers import (
    fewest_gpus,
    highest_concurrency,
    largest_context,
    smallest_device,
    smallest_gpu,
)
from builder.memory.asked import of_serve, of_stack
from builder.memory.cache import CacheFormat, Layout, layout, token_bytes
from builder.memory.card import of_card
from builder.memory.config import from_config
from builder.memory.cpu import CpuForecast, on_cpu
from builder.memory.deployment import Device, Serving
from builder.memory.engine import Limits, Tier, engine
from builder.memory.forecast import Forecast, can_split, forecast
from builder.memory.lock import of_lock, of_model
from builder.memory.shape import Experts, Latent, ModelShape, Recurrent
from builder.memory.weights import Split, replicated_bytes, weight_bytes

__all__ = [
    "CacheFormat",
    "CpuForecast",
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
    "Tier",
    "can_split",
    "engine",
    "fewest_gpus",
    "forecast",
    "from_config",
    "highest_concurrency",
    "largest_context",
    "layout",
    "of_card",
    "of_lock",
    "of_model",
    "of_serve",
    "of_stack",
    "on_cpu",
    "replicated_bytes",
    "smallest_device",
    "smallest_gpu",
    "token_bytes",
    "weight_bytes",
]
