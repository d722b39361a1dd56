"""What some models refuse, release by release."""

from itertools import pairwise

import pytest

from builder.catalogue.limits import limits, no_float16, no_pipeline
from builder.catalogue.releases import releases


@pytest.mark.parametrize(
    ("architecture", "version", "refused"),
    [
        ("Gemma2ForCausalLM", "0.9.0", False),
        ("Gemma2ForCausalLM", "0.9.1", True),
        ("Gemma3ForCausalLM", "0.10.1", False),
        ("Gemma3ForCausalLM", "0.10.2", True),
        ("Plamo2ForCausalLM", "0.26.0", True),
        ("Plamo2ForCausalLM", "0.27.0", False),
        ("LlamaForCausalLM", "0.33.0", False),
    ],
)
def test_models_that_refuse_float16(architecture: str, version: str, *, refused: bool) -> None:
    assert (no_float16(architecture, version) is not None) == refused


@pytest.mark.parametrize(
    ("architecture", "version", "refused"),
    [
        ("BertModel", "0.8.0", True),
        ("XLMRobertaModel", "0.33.0", True),
        ("GptOssForCausalLM", "0.10.1.1", True),
        ("GptOssForCausalLM", "0.10.2", False),
        ("KimiVLForConditionalGeneration", "0.10.1", True),
        ("KimiVLForConditionalGeneration", "0.11.0", False),
        ("LlamaForCausalLM", "0.8.0", False),
    ],
)
def test_models_that_cannot_be_cut_into_stages(
    architecture: str, version: str, *, refused: bool
) -> None:
    assert (no_pipeline(architecture, version) is not None) == refused


@pytest.mark.parametrize("kind", ["float16", "pipeline"])
def test_rows_name_releases_and_say_each_thing_once(kind: str) -> None:
    known = list(releases())
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in limits(kind):
        end = known.index(row.until) if row.until else len(known)
        assert known.index(row.since) < end
        spans.setdefault(row.architecture, []).append((known.index(row.since), end))
    for own in spans.values():
        ordered = sorted(own)
        assert all(first[1] < then[0] for first, then in pairwise(ordered))
