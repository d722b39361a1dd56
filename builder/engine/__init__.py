"""Run an image: a container engine, or a namespace sandbox, behind one small protocol."""

from __future__ import annotations

from builder.engine.protocol import Container, Engine, Mount, Running

__all__ = ["Container", "Engine", "Mount", "Running"]
