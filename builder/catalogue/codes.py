"""The short names of sources in the tables, spelt out for those who do not have the table open."""

from __future__ import annotations

import re

NAMES = {
    "AIC": "github ai-dynamo/aiconfigurator",
    "ARCHM": "NVIDIA, CUDA toolkit, driver and architecture matrix",
    "CC": "NVIDIA, CUDA GPU compute capability",
    "CCL": "NVIDIA, legacy CUDA GPUs",
    "CTK132": "NVIDIA, CUDA Toolkit 13.2 release notes",
    "CTK134": "NVIDIA, CUDA Toolkit 13.4 release notes",
    "DOCS": "the engine's documents at that release",
    "DRV": "NVIDIA, supported drivers and CUDA toolkit versions",
    "ELF": "compiled code in the wheel",
    "FWD": "NVIDIA, CUDA forward compatibility",
    "KVFIT": "config.json and sizes of the hub, as github debaditc/kvfit has them",
    "LIC": "tags of the hub",
    "LLMD": "github jgchn/llm-d-planner, measured with 0.19.0",
    "NVCC": "the compiler's line in the compiled code",
    "READ": "read in the wheel",
    "SDIST": "the engine's source distribution",
    "WHEEL": "METADATA of the wheel",
}
"""Words by short name."""
_ANY = re.compile(rf"\b(?:{'|'.join(sorted(NAMES, key=len, reverse=True))})\b")
_STORED = re.compile(r"\bIDX (\d+)")


def spelt(source: str) -> str:
    """Return a source with the short names of the tables in words."""
    words = _ANY.sub(lambda found: NAMES[found[0]], source)
    return _STORED.sub(r"public file \1", words)
