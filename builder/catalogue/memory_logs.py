"""Start-up logs of vLLM that people published: what the memory forecast is held against."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.units import GIB

_TABLE = "memory_logs.toml"
_AMOUNTS = ("total", "weights", "activation", "non_torch", "graphs", "expected", "kv", "free")


@dataclass(frozen=True, slots=True)
class MemoryLog:
    """One start of the engine.  Bytes are those of one GPU; None where nothing was logged."""

    address: str
    """Where it was published."""
    model: str
    """Key of `models`."""
    gpu: str
    version: str
    utilization: float
    max_model_len: int
    total_bytes: int
    """What the engine sees of the GPU."""
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    graphs_bytes: int | None = None
    expected_bytes: int | None = None
    """What the engine expected graphs to take, and from 0.20 on takes from the budget."""
    free_bytes: int | None = None
    """What was free before the engine took anything."""
    kv_bytes: int | None = None
    kv_tokens: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    legacy: bool | None = None
    """Version 0 of the engine, where both were there."""
    capability: str = ""
    """Compute capability of the GPU."""
    linked: bool = True
    """NVLink joins the GPUs."""
    eager: bool = False
    """No graphs."""
    note: str = ""

    @property
    def may_fit(self) -> bool:
        """Chosen by the address alone: numbers may be taken from it."""
        return hashlib.sha256(self.address.encode()).digest()[0] % 2 == 0


@dataclass(frozen=True, slots=True)
class MemoryLogs:
    """All logs, and the models they are about."""

    models: dict[str, dict[str, Any]]
    """Fields of `config.json`."""
    logs: tuple[MemoryLog, ...]
    unplaced: tuple[MemoryLog, ...]
    """Their address is not known: never used to fit."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Why a log that was found is not used, by address."""


@lru_cache
def memory_logs() -> MemoryLogs:
    """Return every log."""
    table = tomllib.loads((Path(__file__).parent / _TABLE).read_text(encoding="utf-8"))
    return MemoryLogs(
        models={name: row["config"] for name, row in table["models"].items()},
        logs=tuple(_log(row, table["gpus"]) for row in table["logs"]),
        unplaced=tuple(_log(row, table["gpus"]) for row in table["unplaced"]),
        dropped={row["address"]: row["defect"] for row in table["dropped"]},
    )


def _log(row: dict[str, Any], gpus: dict[str, Any]) -> MemoryLog:
    """Return a row with its GiB as bytes, and what its GPU can do."""
    names = {f"{name}_gib": f"{name}_bytes" for name in _AMOUNTS}
    fields: dict[str, Any] = {
        names.get(key, key): round(value * GIB) if key in names else value
        for key, value in row.items()
    }
    return MemoryLog(**fields, **gpus[row["gpu"]])
