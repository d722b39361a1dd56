"""Which kind of answer a model gives, and so on which routes an engine serves it.

vLLM decides the same way: what its flags say, then whether the repository is a Sentence
Transformers model, then how the name of the architecture ends (`_SUFFIX_TO_DEFAULTS` in
`vllm/config/model.py` of 0.20.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Kind = Literal["generate", "embed", "pool"]
"""Text; one vector for a text; something else that is read off a text, such as a class."""

ROUTES: Mapping[Kind, tuple[str, ...]] = {"embed": ("/v1/embeddings",), "pool": ("/pooling",)}
"""Text generation has the engine's own."""

_SENTENCE_MODULES = "modules.json"
"""File that makes a repository a Sentence Transformers model."""
_SENTENCE_POOLING = "Pooling/config.json"

_ENDINGS: tuple[tuple[str, Kind], ...] = (
    ("ForCausalLM", "generate"),
    ("ForConditionalGeneration", "generate"),
    ("ChatModel", "generate"),
    ("LMHeadModel", "generate"),
    ("ForTextEncoding", "embed"),
    ("EmbeddingModel", "embed"),
    ("Classification", "pool"),
    ("ClassificationModel", "pool"),
    ("ForRewardModeling", "pool"),
    ("RewardModel", "pool"),
    ("Model", "embed"),
)
"""The first that fits counts.  `/pooling` is served for rewards whatever they are made of."""
_TASKS: Mapping[str, Kind] = {
    "generate": "generate",
    "embed": "embed",
    "embedding": "embed",
    "classify": "pool",
    "score": "pool",
    "reward": "pool",
}
"""Values of `--task` of older releases, and of `--convert`."""


def kind(architectures: Collection[str], files: Collection[str], args: Mapping[str, Any]) -> Kind:
    """Say what a model is for, by its config, the paths of its files and the engine's flags."""
    flags = {name.replace("_", "-"): value for name, value in args.items()}
    for flag in ("task", "convert"):
        if asked := _TASKS.get(str(flags.get(flag))):
            return asked
    if flags.get("runner") == "generate":
        return "generate"
    named = _named(architectures)
    if flags.get("runner") == "pooling" or _is_sentence_model(files):
        return "pool" if named == "pool" else "embed"
    return named


def _named(architectures: Collection[str]) -> Kind:
    for name in architectures:
        for ending, meant in _ENDINGS:
            if name.endswith(ending):
                return meant
    return "generate"


def _is_sentence_model(files: Collection[str]) -> bool:
    has_pooling = any(path.endswith(_SENTENCE_POOLING) for path in files)
    return has_pooling and _SENTENCE_MODULES in files
