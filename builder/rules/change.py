"""Changes to a stack, and what each costs the people who make it.

Costs are an order, not an amount: a flag is changed more easily than a version, a version more
easily than the drivers of a fleet, and another card has to be bought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.stack import Stack

_COSTS: Mapping[str, float] = {
    "serve.env": 0.2,
    "serve.args.attention-backend": 0.3,
    "serve": 1.0,
    "engine.cuda": 0.5,
    "model.revision": 1.0,
    "model.files": 1.0,
    "resolve": 1.0,
    "base": 2.0,
    "target.count": 3.0,
    "engine.version": 3.0,
    "target.driver": 4.5,
    "model.repo": 5.0,
    "target.gpu": 6.0,
}
"""By field, or by the part it stands in.

A variable, or the backend of attention, picks one kernel or another, which no client sees; other
settings of `serve` change what clients get.  A field of `engine` moves libraries, a driver moves
hosts, a model has to be evaluated again, and a GPU has to be bought.
"""
_OTHER = 3.0


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the stack and its new value; None takes the field away."""

    place: str
    value: Any
    distance: float = 0.0
    """Orders values of one field, the nearer one first; what is far costs a step more."""

    @property
    def cost(self) -> float:
        """Return what it costs, for comparison only."""
        steps = self.place.split(".")
        names = (self.place, ".".join(steps[:2]), steps[0])
        known = next((_COSTS[name] for name in names if name in _COSTS), _OTHER)
        return known + self.distance

    def __str__(self) -> str:
        return f"leave out {self.place}" if self.value is None else f"{self.place}: {shown(self)}"


Move = tuple[Change, ...]
"""Changes that belong together."""


def shown(change: Change) -> str:
    """Return the new value as a stack writes it: versions in quotes."""
    value = change.value
    if isinstance(value, bool):
        return str(value).lower()
    quoted = change.place in {"engine.version", "engine.cuda", "target.driver"}
    return f'"{value}"' if quoted else str(value)


def described(move: Move) -> str:
    """Return a move in words."""
    return ", ".join(str(change) for change in move)


def cost(move: Move) -> float:
    """Return what a move costs."""
    return sum(change.cost for change in move)


def changed(stack: Stack, move: Move) -> Stack:
    """Return the stack after a move."""
    for change in move:
        stack = _set(stack, change.place.split(".", 2), change.value)
    return stack


def _set(part: Any, steps: list[str], value: Any) -> Any:
    """Set a field of frozen parts and mappings; a flag may hold dots, so it is the last step.

    Flags are named with dashes, however the stack writes them; variables as they are.
    """
    step, *rest = steps
    if isinstance(part, dict):
        others = {k: item for k, item in part.items() if step not in {k, k.replace("_", "-")}}
        return others if value is None else {**others, step: value}
    if rest:
        value = _set(getattr(part, step), rest, value)
    if value is None and isinstance(part, BaseModel):
        value = type(part).model_fields[step].get_default()
    return part.model_copy(update={step: value})
