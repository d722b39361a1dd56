"""What an engine takes at its start beside weights and cache, against figures of its own logs."""

from dataclasses import replace
from typing import Any

import pytest

from builder.catalogue.cards import known_card
from builder.memory import Limits, ModelShape, Split, engine, of_card
from builder.memory.allocator import slack_bytes
from builder.memory.start import Start
from builder.units import GIB, MIB

LARGE, SMALL = Limits(1024, 8192), Limits(256, 2048)


def shape_of(repo: str) -> ModelShape:
    return of_card(known_card(repo))


LLAMA = shape_of("meta-llama/Llama-3.1-8B-Instruct")
QWEN_MOE = shape_of("Qwen/Qwen3-30B-A3B")
SEEING = shape_of("Qwen/Qwen2.5-VL-7B-Instruct")


def start(shape: ModelShape = LLAMA, version: str = "0.19.0", **parts: Any) -> Start:
    found = Start(engine(version), shape, Split(), LARGE, "9.0", 2, 8192)
    return replace(found, **parts)


def test_the_sampler_of_the_profile_is_counted_tensor_by_tensor() -> None:
    # 1024 requests, 128,256 words: bfloat16 and float32 logits, probabilities, noise; a row of
    # the vocabulary for each of 132 multiprocessors; the step's result, and twice its rows
    words = 128256
    tensors = 1024 * words * (2 + 4 + 4 + 4) + 132 * words * 4 + (8192 + 2 * 1024) * 4096 * 2
    assert start().activation_bytes == tensors + 32 * MIB
    assert start().activation_bytes / GIB == pytest.approx(1.885, abs=0.001)


def test_experts_keep_their_buffers_beside_the_sampler() -> None:
    # 8192 tokens visit 8 experts: 768 wide or 2048 (the result), 1536 or 2048
    assert start(QWEN_MOE).experts_bytes == 8192 * 8 * (2048 + 2048) * 2
    with_experts = start(QWEN_MOE).activation_bytes
    alone = start(replace(QWEN_MOE, expert_workspace=False)).activation_bytes
    assert with_experts - alone == start(QWEN_MOE).experts_bytes


@pytest.mark.parametrize(
    ("version", "entry"),
    # before 0.17 it sorts; from 0.21 on FlashInfer masks
    [("0.16.0", 38.04), ("0.19.0", 14), ("0.22.0", 14)],
)
def test_bytes_of_an_entry_of_the_logits(version: str, entry: float) -> None:
    more, less = (
        start(version=version, limits=Limits(rows, 8192)).sampler_bytes for rows in (900, 800)
    )
    beside = 100 * 2 * 4096 * 2
    assert (more - less - beside) / (100 * 128256) == pytest.approx(entry, abs=0.01)


def test_few_requests_are_sorted_whatever_the_version() -> None:
    seven, eight = (start(limits=Limits(rows, 2048)).sampler_bytes for rows in (7, 8))
    assert seven > eight


@pytest.mark.parametrize(
    ("version", "repo", "second"),
    [
        ("0.21.0", "Qwen/Qwen3-8B", False),
        ("0.22.0", "Qwen/Qwen3-8B", True),
        ("0.22.0", "Qwen/Qwen3-32B-FP8", False),
        ("0.22.1", "meta-llama/Llama-3.1-8B-Instruct", False),
        ("0.23.0", "meta-llama/Llama-3.1-8B-Instruct", True),
        ("0.24.0", "Qwen/Qwen3-32B-FP8", True),
        ("0.24.0", "Qwen/Qwen2.5-7B-Instruct", False),
        ("0.24.0", "deepseek-ai/DeepSeek-V2-Lite-Chat", True),
        ("0.25.0", "Qwen/Qwen2.5-7B-Instruct", True),
        ("0.28.0", "Qwen/Qwen3-30B-A3B", False),
        ("0.28.0", "Qwen/Qwen3-Embedding-0.6B", False),
        ("0.29.0", "Qwen/Qwen3-30B-A3B", True),
    ],
)
def test_the_second_runner_takes_over_model_by_model(version: str, repo: str, second: bool) -> None:
    assert engine(version).second_runner(shape_of(repo)) is second


def test_the_second_runner_counts_no_graphs_at_first_and_samples_from_the_logits() -> None:
    counted = [engine(v).counts_graphs(LLAMA) for v in ("0.19.1", "0.20.0", "0.23.0", "0.29.0")]
    assert counted == [False, True, False, True]
    first, second = (start(version=v).activation_bytes for v in ("0.22.0", "0.23.0"))
    # the forward pass decides then
    assert second < first - GIB / 2


@pytest.mark.parametrize(
    ("repo", "split", "logged_mib"),
    # "Estimated FULL CUDA graph memory: N MiB first-capture" less that of one graph
    [
        ("meta-llama/Llama-3.1-8B-Instruct", Split(), 260 - 6),
        ("Qwen/Qwen3-30B-A3B", Split(), 266 - 10),
        ("moonshotai/Kimi-Dev-72B", Split(2), 266 - 10),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", Split(), 522 - 8),
    ],
)
def test_attention_asks_for_its_buffers_in_the_first_graph(
    repo: str, split: Split, logged_mib: int
) -> None:
    found = start(shape_of(repo), split=split).attention_bytes
    assert found / MIB == pytest.approx(logged_mib, abs=3)


@pytest.mark.parametrize(
    ("capability", "element_bytes", "mib"),
    [("9.0", 1, 256), ("8.9", 2, 0), ("8.9", 1, 394), ("10.0", 2, 394), ("", 1, 0)],
    ids=str,
)
def test_each_generation_attends_in_its_own_way(
    capability: str, element_bytes: int, mib: int
) -> None:
    found = start(capability=capability, cache_element_bytes=element_bytes)
    assert found.attention_bytes == mib * MIB


@pytest.mark.parametrize(
    ("version", "limits", "capability", "expected"),
    [
        # as their logs count them: for any step, largest 512, and for those that decode
        ("0.19.0", LARGE, "9.0", 51 + 51),
        ("0.22.0", SMALL, "8.9", 51 + 35),
        ("0.22.0", Limits(128, 2048), "8.9", 35 + 19),
        ("0.10.2", LARGE, "9.0", 67),
        ("0.28.0", LARGE, "10.0", 83 + 83),
        ("0.7.3", SMALL, "9.0", 35),
    ],
    ids=str,
)
def test_how_many_graphs_are_captured(
    version: str, limits: Limits, capability: str, expected: int
) -> None:
    assert start(version=version, limits=limits, capability=capability).graphs == expected


def test_a_video_as_long_as_the_context_decides() -> None:
    # Qwen2.5-VL with 128,000 tokens of context: its tower is profiled with a video of 114,688
    long, short = (
        start(SEEING, "0.23.0", limits=SMALL, capability="8.0", context_tokens=context)
        for context in (128000, 8192)
    )
    assert 14 * GIB < long.activation_bytes < 17 * GIB
    assert short.activation_bytes < 3 * GIB
    silent = replace(SEEING, tower=None)
    assert start(silent, limits=SMALL, context_tokens=128000).activation_bytes < GIB


def test_images_hold_their_pixels_and_their_tokens() -> None:
    gemma = shape_of("google/gemma-3-4b-it")
    blind = replace(gemma, vision_parameters=0)
    rest = start(gemma).activation_bytes - start(blind).activation_bytes
    # 32 images of 896 x 896 points in 8192 tokens of 2560 numbers
    assert rest == pytest.approx(32 * 896 * 896 * 3 * 2 + 8192 * 2560 * 2, rel=0.02)


def test_large_tensors_are_rounded_up() -> None:
    # Qwen2.5-72B on two GPUs: gate and up take 462 MiB, even; down 231 MiB, one left
    kimi = shape_of("moonshotai/Kimi-Dev-72B")
    assert slack_bytes(kimi, Split(2)) == 80 * MIB
    assert slack_bytes(kimi, Split(4)) == 80 * MIB * 3 // 2
    assert slack_bytes(LLAMA, Split()) == 0


def test_nccl_is_counted_while_the_baseline_is_taken_before_it() -> None:
    before, after = (engine(v).outside_bytes(Split(2), linked=True) for v in ("0.10.2", "0.11.0"))
    assert 0.9 * GIB < before - after < 1.1 * GIB
    alone = engine("0.19.0").outside_bytes(Split(), linked=True)
    assert engine("0.19.0").outside_bytes(Split(2), linked=False) == alone
