"""Recipe + verified files → image, natively: nothing unpacked is executed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.assemble.layers import Assembler
from builder.oci.image import Image, make_image
from builder.recipe import created

if TYPE_CHECKING:
    from builder.assemble.layers import Places
    from builder.recipe import Recipe

__all__ = ["Assembler", "assemble"]


def assemble(recipe: Recipe, assembler: Assembler, places: Places, name: str) -> Image:
    """Return the image of `recipe`; layers that are known cost a look-up."""
    layers = assembler.layers(places)
    return make_image(name, recipe.platform, layers, recipe.config, created(recipe.epoch))
