"""Recipe + verified files → image, natively: nothing unpacked is executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.assemble.layers import Assembler
from builder.assemble.weights import unweighed, weight_layers, weights_of
from builder.oci.image import Image, make_image
from builder.recipe import created

if TYPE_CHECKING:
    from builder.assemble.layers import Places
    from builder.assemble.weights import Contents
    from builder.recipe import Recipe

__all__ = ["Assembler", "Inputs", "assemble", "unweighed", "weight_layers", "weights_of"]


@dataclass(frozen=True)
class Inputs:
    """The files an image is made of."""

    places: Places
    """Where wheels, packages and small files lie."""
    contents: Contents
    """Where weights lie, would lie or come from."""


def assemble(recipe: Recipe, assembler: Assembler, inputs: Inputs, name: str) -> Image:
    """Return the image of `recipe`; layers that are known cost a look-up."""
    layers = assembler.layers(inputs.places, inputs.contents)
    return make_image(name, recipe.platform, layers, recipe.config, created(recipe.epoch))
