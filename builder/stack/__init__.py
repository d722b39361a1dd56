"""The stack file: its schema, and how it is read with every fault named."""

from builder.stack.load import load, load_with_lines
from builder.stack.model import NO_GPU, Stack, canonical, from_canonical

__all__ = ["NO_GPU", "Stack", "canonical", "from_canonical", "load", "load_with_lines"]
