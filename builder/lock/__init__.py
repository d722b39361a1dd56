"""The lock: its schema, its text, and how it differs from a stack."""

from builder.lock.drift import Drift, changes, drift
from builder.lock.schema import (
    LOCK_VERSION,
    PACKER_VERSION,
    Base,
    DebianPackage,
    Engine,
    Facts,
    Gpu,
    Lock,
    Model,
    ModelFile,
    Pins,
    Suite,
    Wheel,
    with_layers,
)
from builder.lock.text import digest_of, dumps, loads, path_for, read, write

__all__ = [
    "LOCK_VERSION",
    "PACKER_VERSION",
    "Base",
    "DebianPackage",
    "Drift",
    "Engine",
    "Facts",
    "Gpu",
    "Lock",
    "Model",
    "ModelFile",
    "Pins",
    "Suite",
    "Wheel",
    "changes",
    "digest_of",
    "drift",
    "dumps",
    "loads",
    "path_for",
    "read",
    "with_layers",
    "write",
]
