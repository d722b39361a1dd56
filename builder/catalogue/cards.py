"""Well-known models: what their configuration says, so that a stack can be judged without a hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from builder.catalogue.tables import pick, read, table

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model repository on the hub."""

    repo: str
    architecture: str
    """The class that its configuration names."""
    task: Literal["chat", "vision", "embedding", "text"]
    parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    """What is cached for a token; 1 for latent attention."""
    head_dim: int
    intermediate: int
    """Width of a dense layer; of an expert where all layers have experts."""
    vocab: int
    context: int
    """The longest sequence that its configuration allows."""
    dtype: Literal["bfloat16", "float16", "float32"]
    licence: str
    gated: bool
    """The hub gives it only to accounts that accepted its terms."""
    source: str
    tied: bool = False
    """Input and output embeddings are one tensor."""
    active_parameters: int | None = None
    """What one token passes, where that is not all."""
    experts: int | None = None
    experts_per_token: int | None = None
    expert_intermediate: int | None = None
    shared_experts: int = 0
    dense_layers: int = 0
    """Layers without experts, where others have them."""
    latent: int | None = None
    """Width of the latent that is cached instead of keys and values (MLA)."""
    latent_rope: int | None = None
    """Width of the rotated key that is cached beside it."""
    window: int | None = None
    """Tokens that a layer with a sliding window sees."""
    full_layers: int | None = None
    """Layers that see everything, where others have a window."""
    vision_parameters: int = 0
    """Of `parameters`, never quantised or split."""
    vision_heads: int | None = None
    """Attention heads of the vision tower."""
    scheme: str | None = None
    """Of `quantisation.toml`, where the weights are quantised."""
    group: int | None = None
    """Weights that share a scale, where the format leaves that open."""
    weight_bytes: int | None = None
    """Of all tensors, where that is not the parameters in `dtype`."""
    files: Literal["safetensors", "pickle"] = "safetensors"
    remote_code: bool = False
    """The engine must run Python of the repository."""
    aliases: tuple[str, ...] = ()
    """Other repositories with the same weights' shapes."""
    unverified: tuple[str, ...] = ()

    @property
    def tensor_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return self.weight_bytes or self.parameters * self.dtype_bytes

    @property
    def dtype_bytes(self) -> int:
        """Return the bytes of one number in `dtype`."""
        return _BYTES[self.dtype]


def card(repo: str) -> ModelCard | None:
    """Return the card of a repository, None where there is none."""
    known = cards()
    if repo in known:
        return known[repo]
    return next((each for each in known.values() if repo in each.aliases), None)


def known_card(repo: str) -> ModelCard:
    """Return the card of a repository, or say which are alike."""
    return card(repo) or pick("model", cards(), repo)


@lru_cache
def cards() -> dict[str, ModelCard]:
    """Return every card by repository."""
    return {repo: read(ModelCard, _row(repo), f"models.toml: {repo}") for repo in table("models")}


def _row(repo: str) -> dict[str, Any]:
    """`like` takes over what another row says."""
    own = {"repo": repo, **table("models")[repo]}
    like = own.pop("like", None)
    if like is None:
        return own
    taken = {key: value for key, value in _row(like).items() if key not in _OWN}
    return {**taken, **own}


_OWN = {"repo", "source", "unverified", "aliases", "weight_bytes", "scheme", "group"}
"""What a row never takes over: it is about that repository alone."""
