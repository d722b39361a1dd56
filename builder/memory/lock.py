"""The forecast's questions as a lock asks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.memory.asked import of_serve
from builder.memory.config import from_config

if TYPE_CHECKING:
    from builder.lock import Lock
    from builder.lock.schema import Model
    from builder.memory.deployment import Serving
    from builder.memory.shape import ModelShape

_MAIN = "main"


def of_lock(lock: Lock) -> tuple[ModelShape, Serving]:
    """Return the main model of a lock and how its stack serves it.

    Raises:
        StackError: the lock does not say enough.
    """
    model = next((model for model in lock.models if model.role == _MAIN), None)
    if model is None:
        message = f"models: expected one with the role `{_MAIN}`, got none"
        raise StackError(message, "lock the stack again")
    shape = of_model(model)
    gpus = int(lock.stack.get("target", {}).get("count", 1))
    return shape, of_serve(lock.stack.get("serve", {}), _version(lock), gpus, shape)


def of_model(model: Model) -> ModelShape:
    """Return the shape of a locked model, with the bytes that its files hold."""
    return from_config(model.facts.config, model.facts.tensor_bytes)


def _version(lock: Lock) -> str:
    found = next((w.version for w in lock.wheels if w.name == lock.engine.distribution), None)
    version = found or lock.stack.get("engine", {}).get("version")
    if version is None:
        message = f"packages: expected a wheel of {lock.engine.distribution}, got none"
        raise StackError(message, "lock the stack again")
    return str(version)
