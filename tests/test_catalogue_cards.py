"""Cards of models: their numbers fit together."""

from collections.abc import Callable

import pytest

from builder.catalogue import cards, quantisation
from builder.catalogue.cards import ModelCard
from builder.errors import StackError
from builder.units import GIB

ALL = cards.cards().values()
RECOMPUTED = [
    card for card in ALL if not card.architecture.startswith(("Deepseek", "GptOss", "XLM"))
]
EXTRAS: dict[str, Callable[[ModelCard], int]] = {
    "Qwen2": lambda card: (card.heads + 2 * card.kv_heads) * card.head_dim,  # biases
    "Qwen3": lambda card: 2 * card.head_dim,  # norms of queries and keys
    "Gemma2": lambda card: 2 * card.hidden,  # norms after as well as before
    "Gemma3": lambda card: 2 * card.hidden + 2 * card.head_dim,
}


def recomputed(card: ModelCard) -> int:
    """Count the parameters of a decoder from its dimensions."""
    embeddings = card.vocab * card.hidden * (1 if card.tied else 2)
    attention = 2 * card.hidden * (card.heads + card.kv_heads) * card.head_dim
    width = card.expert_intermediate if card.experts else card.intermediate
    feed_forward = 3 * card.hidden * (width or 0)
    if card.experts:
        feed_forward = card.experts * (feed_forward + card.hidden)
    extra = next((f(card) for key, f in EXTRAS.items() if card.architecture.startswith(key)), 0)
    layer = attention + feed_forward + 2 * card.hidden + extra
    return embeddings + card.layers * layer + card.hidden + card.vision_parameters


@pytest.mark.parametrize("card", RECOMPUTED, ids=lambda card: card.repo)
def test_dimensions_give_the_number_of_parameters(card: ModelCard) -> None:
    assert recomputed(card) == card.parameters


@pytest.mark.parametrize("card", ALL, ids=lambda card: card.repo)
def test_card_is_plausible(card: ModelCard) -> None:
    assert card.heads % card.kv_heads == 0
    assert (card.latent is None) == (card.latent_rope is None)
    assert card.latent is None or card.kv_heads == 1
    assert (card.window is None) == (card.full_layers is None)
    assert (card.full_layers or 0) <= card.layers
    assert (card.experts is None) == (card.experts_per_token is None)
    assert card.scheme is None or card.scheme in quantisation.schemes()
    assert card.scheme is None or card.weight_bytes
    assert (card.active_parameters or 0) < card.parameters
    assert card.task != "vision" or card.vision_parameters


@pytest.mark.parametrize(
    ("repo", "gib"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 14.99),
        ("Qwen/Qwen2.5-7B-Instruct", 14.25),
        ("Qwen/Qwen3-8B", 15.27),
        ("google/gemma-2-9b-it", 17.22),
        ("google/gemma-3-27b-it", 51.45),
        ("microsoft/phi-4", 27.39),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 67.72),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", 5.38),
        ("RedHatAI/Mistral-Small-3.1-24B-Instruct-2503-quantized.w8a8", 24.07),
        ("Qwen/Qwen3-235B-A22B-FP8", 4 * 55.19),
    ],
)
def test_weights_are_near_what_an_engine_loaded(repo: str, gib: float) -> None:
    found = cards.known_card(repo)
    assert found.tensor_bytes / GIB == pytest.approx(gib, rel=0.015)


def test_spot_facts() -> None:
    llama = cards.known_card("meta-llama/Llama-3.3-70B-Instruct")
    assert (llama.layers, llama.heads, llama.kv_heads, llama.head_dim) == (80, 64, 8, 128)
    assert (llama.vocab, llama.context, llama.gated) == (128256, 131072, True)
    deepseek = cards.known_card("deepseek-ai/DeepSeek-R1")
    assert (deepseek.latent, deepseek.latent_rope, deepseek.scheme) == (512, 64, "fp8-block")
    assert deepseek.tensor_bytes == 2 * 3_918_786_560 + 680_571_043_840 + 4 * 41_555_600
    gemma = cards.known_card("google/gemma-3-27b-it")
    assert (gemma.window, gemma.full_layers, gemma.layers) == (1024, 10, 62)
    embedding = cards.known_card("BAAI/bge-m3")
    assert (embedding.task, embedding.files, embedding.dtype) == ("embedding", "pickle", "float32")


def test_row_that_is_like_another_takes_over_its_dimensions() -> None:
    original = cards.known_card("meta-llama/Llama-3.3-70B-Instruct")
    quantised = cards.known_card("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic")
    assert quantised.layers == original.layers
    assert (quantised.scheme, original.scheme) == ("fp8", None)
    assert quantised.source != original.source
    assert "weight_bytes" in quantised.unverified


def test_alias_leads_to_its_card_and_is_used_once() -> None:
    names = [name for card in ALL for name in (card.repo, *card.aliases)]
    assert len(set(names)) == len(names)
    for card in ALL:
        for name in (card.repo, *card.aliases):
            assert cards.card(name) is card


def test_unknown_model_comes_with_near_ones() -> None:
    assert cards.card("nobody/nothing") is None
    with pytest.raises(StackError) as caught:
        cards.known_card("meta-llama/Llama-3.3-70B")
    assert caught.value.message == "unknown model `meta-llama/Llama-3.3-70B`"
    assert "meta-llama/Llama-3.3-70B-Instruct" in caught.value.hint
