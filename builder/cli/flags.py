"""Flags that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Gpu = Annotated[
    str | None, typer.Option("--gpu", metavar="NAME", help="One GPU of a stack with several.")
]
