"""Which kind of answer a model gives, by what it says of itself and what it is told to do."""

from typing import Any

import pytest

from builder.catalogue import routes
from builder.launcher import warmup

SENTENCE = ("modules.json", "1_Pooling/config.json")

KINDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], routes.Kind]] = {
    "text": ("LlamaForCausalLM", (), {}, "generate"),
    "text and images": ("Gemma3ForConditionalGeneration", (), {}, "generate"),
    "encoder": ("BertModel", (), {}, "embed"),
    "encoder for text": ("T5ForTextEncoding", (), {}, "embed"),
    "sentence model on a decoder": ("Qwen3ForCausalLM", SENTENCE, {}, "embed"),
    "modules without pooling": ("Qwen3ForCausalLM", SENTENCE[:1], {}, "generate"),
    "classifier": ("BertForSequenceClassification", (), {}, "pool"),
    "reward": ("Qwen2ForRewardModel", (), {}, "pool"),
    "old language model": ("GPT2LMHeadModel", (), {}, "generate"),
    "nothing known": ("Grok1", (), {}, "generate"),
    "told to pool": ("LlamaForCausalLM", (), {"runner": "pooling"}, "embed"),
    "told to pool a classifier": (
        "BertForTokenClassification",
        (),
        {"runner": "pooling"},
        "pool",
    ),
    "told to generate": ("Qwen3ForCausalLM", SENTENCE, {"runner": "generate"}, "generate"),
    "told the task": ("LlamaForCausalLM", (), {"task": "embed"}, "embed"),
    "told to convert": ("LlamaForCausalLM", (), {"convert": "classify"}, "pool"),
    "told nothing": ("LlamaForCausalLM", (), {"task": "auto", "runner": "auto"}, "generate"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_for(name: str) -> None:
    architecture, files, args, expected = KINDS[name]
    assert routes.kind([architecture], files, args) == expected


def test_every_route_has_a_warm_up() -> None:
    for paths in routes.ROUTES.values():
        for path in paths:
            assert [step.route for step in warmup.plan([path], "m", 16)] == [path]
