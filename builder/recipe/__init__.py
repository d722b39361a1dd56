"""What an image is made of: a pure function of the lock."""

from builder.recipe.config import (
    MODELS,
    PREFIX,
    created,
    image_name,
    model_folder,
    name_in,
    served_name,
)
from builder.recipe.parts import (
    BasePart,
    LauncherPart,
    NamesPart,
    Part,
    Recipe,
    WeightsPart,
    WheelsPart,
    is_weight,
    pins,
    recipe,
)

__all__ = [
    "MODELS",
    "PREFIX",
    "BasePart",
    "LauncherPart",
    "NamesPart",
    "Part",
    "Recipe",
    "WeightsPart",
    "WheelsPart",
    "created",
    "image_name",
    "is_weight",
    "model_folder",
    "name_in",
    "pins",
    "recipe",
    "served_name",
]
