"""Number formats and methods beyond the table of cases."""

from dataclasses import replace

import pytest

from builder.rules import Change, Subject, changed, find, of_config, of_repo
from builder.rules.numbers import in_force
from builder.rules.precision import in_effect
from tests.rule_case import Case, subject

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def of(repo: str, gpu: str, version: str = "0.20.2", **args: object) -> Subject:
    stack = {
        "target": {"gpu": gpu},
        "engine": {"version": version},
        "model": {"repo": repo},
        "serve": {"args": args},
    }
    return subject(Case("a case", "a source", stack))


def test_nothing_is_said_of_a_stack_on_the_cpu() -> None:
    ours = of("RedHatAI/Qwen2.5-7B-Instruct-fp8-dynamic", "t4-16gb", "0.13.0", dtype="bfloat16")
    stack = changed(ours.stack, (Change("target.gpu", "none"),))
    for name in ("quantisation-capability", "quantisation-method", "dtype", "attention-backend"):
        assert list(find(name)(replace(ours, stack=stack))) == []


@pytest.mark.parametrize(
    ("repo", "gpu", "version", "computed"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "h100-sxm-80gb", "0.20.2", "bfloat16"),
        ("Qwen/Qwen2.5-7B-Instruct", "t4-16gb", "0.20.2", "float16"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "h100-sxm-80gb", "0.20.2", "float16"),
        ("google/gemma-2-9b-it", "t4-16gb", "0.20.2", "float32"),
        ("google/gemma-2-9b-it", "t4-16gb", "0.9.0", "float16"),
        ("BAAI/bge-m3", "h100-sxm-80gb", "0.20.2", "float16"),
    ],
)
def test_what_is_computed_in(repo: str, gpu: str, version: str, computed: str) -> None:
    assert in_effect(of(repo, gpu, version)) == computed


def test_a_written_format_wins_and_none_is_known_without_a_model() -> None:
    ours = of("Qwen/Qwen2.5-7B-Instruct", "h100-sxm-80gb", dtype="half")
    assert in_effect(ours) == "float16"
    assert in_effect(replace(of("Qwen/Qwen2.5-7B-Instruct", "t4-16gb"), model=None)) is None


@pytest.mark.parametrize(
    ("repo", "gpu", "version", "names"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "a100-sxm-80gb", "0.13.0", ["awq_marlin"]),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "t4-16gb", "0.13.0", ["awq"]),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "a100-sxm-80gb", "0.24.0", ["auto_awq"]),
        ("openai/gpt-oss-20b", "h100-sxm-80gb", "0.19.1", ["mxfp4"]),
        ("openai/gpt-oss-20b", "h100-sxm-80gb", "0.20.2", ["gpt_oss_mxfp4"]),
        ("Qwen/Qwen2.5-7B-Instruct", "h100-sxm-80gb", "0.20.2", []),
    ],
)
def test_the_method_that_loads_the_weights(
    repo: str, gpu: str, version: str, names: list[str]
) -> None:
    assert [each.name for each in in_force(of(repo, gpu, version))] == names


def test_heads_of_a_vision_tower_are_read() -> None:
    tower = {**CONFIG, "vision_config": {"num_heads": 16}}
    assert of_config("m", tower, None).vision_heads == 16
    tower = {**CONFIG, "vision_config": {"num_attention_heads": 12}}
    assert of_config("m", tower, None).vision_heads == 12
    assert of_config("m", CONFIG, None).vision_heads is None
    known = of_repo("google/gemma-3-4b-it")
    assert known
    assert known.vision_heads == 16


@pytest.mark.parametrize(
    ("gpu", "version", "cache", "backend"),
    [
        ("a100-sxm-80gb", "0.20.2", "fp8", "FLASHINFER"),
        ("l40s-48gb", "0.20.2", "fp8", "FLASHINFER"),
        ("h100-sxm-80gb", "0.20.2", "fp8", "FLASH_ATTN"),
        ("gb10-128gb", "0.20.2", "fp8", "FLASHINFER"),
    ],
)
def test_which_backend_reads_an_8_bit_cache(
    gpu: str, version: str, cache: str, backend: str
) -> None:
    ours = of("Qwen/Qwen2.5-7B-Instruct", gpu, version, **{"kv-cache-dtype": cache})
    found = list(find("kv-cache-dtype")(ours))
    assert [each.severity for each in found] == ["note"]
    assert f"(attention: {backend})" in found[0].text


def test_a_4_bit_cache_is_for_blackwell_before_others_take_it() -> None:
    for gpu, version, refused in [
        ("b200-180gb", "0.24.0", False),
        ("rtx-5090-32gb", "0.24.0", True),
        ("rtx-5090-32gb", "0.32.0", False),
    ]:
        ours = of("Qwen/Qwen2.5-7B-Instruct", gpu, version, **{"kv-cache-dtype": "nvfp4"})
        assert bool(list(find("kv-cache-dtype")(ours))) == refused


def test_attention_of_a_dgx_spark_is_quiet() -> None:
    ours = of("Qwen/Qwen2.5-7B-Instruct", "gb10-128gb")
    for name in ("attention-backend", "kv-cache-dtype", "dtype", "quantisation-method"):
        assert list(find(name)(ours)) == []
