"""The parts of an image that a build context takes as the native executor writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder.assemble.layers import Assembler
from builder.recipe import NamesPart, WeightsPart, WheelsPart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.assemble.layers import Places
    from builder.oci.layer import Layer
    from builder.oci.store import Store
    from builder.recipe import Recipe

_FOLDERS = ("prefix", "launcher", "model")
"""What the small parts are called, in the recipe's order."""


class ContextParts:
    """The base, and the small parts, of one recipe; wheels and weights are BuildKit's."""

    def __init__(self, recipe: Recipe, store: Store) -> None:
        python = next(part.python for part in recipe.parts if isinstance(part, WheelsPart))
        prefix = WheelsPart((), python, has_prefix=True, title="prefix")
        base, *own = (p for p in recipe.parts if not isinstance(p, WheelsPart | WeightsPart))
        self._recipe = recipe
        self._base = Assembler(replace(recipe, parts=(base, prefix)), store, "zstd")
        self._small = Assembler(replace(recipe, parts=(prefix, *own)), store, "none")

    def needs(self) -> frozenset[str]:
        """Return the sha256 of every locked file that a context is made of."""
        needed = set(self._base.needs())
        for part in self._recipe.parts:
            if isinstance(part, WheelsPart):
                needed |= {wheel.sha256 for wheel in part.wheels}
            elif isinstance(part, WeightsPart | NamesPart):
                needed |= {file.sha256 for file in part.files}
        return frozenset(needed)

    def layers(self, places: Places) -> tuple[Layer, Mapping[str, Layer]]:
        """Return the base, and the small parts, uncompressed, by name."""
        small = dict(zip(_FOLDERS, self._small.layers(places, {}), strict=True))
        return self._base.layers(places, {})[0], small
