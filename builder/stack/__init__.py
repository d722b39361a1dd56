"""The stack file: its schema, and how it is read with every fault named."""

from builder.stack.load import load
from builder.stack.model import Stack, canonical, from_canonical

__all__ = ["Stack", "canonical", "from_canonical", "load"]
