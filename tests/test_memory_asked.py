"""What rules ask of the forecast: shapes of cards, stacks as questions, answers about GPUs."""

import timeit
from dataclasses import replace
from typing import Any

import pytest

from builder.catalogue import gpu, gpus
from builder.catalogue.cards import ModelCard, cards, known_card
from builder.catalogue.memory_logs import memory_logs
from builder.catalogue.quantisation import schemes
from builder.errors import StackError
from builder.memory import (
    CacheFormat,
    Device,
    ModelShape,
    Serving,
    Split,
    can_split,
    fewest_gpus,
    forecast,
    from_config,
    highest_concurrency,
    largest_context,
    layout,
    of_card,
    of_serve,
    of_stack,
    on_cpu,
    smallest_device,
    smallest_gpu,
    token_bytes,
    weight_bytes,
)
from builder.memory.formats import named_format
from builder.memory.weights import buffer_bytes
from builder.stack.model import Stack
from builder.units import GIB

LLAMA = of_card(known_card("meta-llama/Llama-3.1-8B-Instruct"))
LLAMA_70B = of_card(known_card("meta-llama/Llama-3.3-70B-Instruct"))
BGE = of_card(known_card("BAAI/bge-m3"))
H100, L4 = Device.of(gpu("h100-sxm-80gb")), Device.of(gpu("l4-24gb"))
SERVING = Serving(version="0.20.2", context_tokens=8192)
ALL = [pytest.param(card, id=repo) for repo, card in cards().items()]


def asked(**parts: Any) -> Serving:
    return replace(SERVING, **parts)


# --- cards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", ALL)
def test_weights_of_a_card_are_its_tensors(card: ModelCard) -> None:
    shape = replace(of_card(card), expert_padding=1)
    loaded = weight_bytes(shape, Split()) - buffer_bytes(shape, Split())
    # arXiv 2412.19437, section 2.2: 671 of 685 billion parameters are the model without its drafts
    drafts = 11.6e9 if shape.draft_layers else 0
    assert loaded == pytest.approx(card.tensor_bytes - drafts, rel=0.01)


@pytest.mark.parametrize("card", ALL)
def test_weights_of_a_card_follow_from_its_dimensions(card: ModelCard) -> None:
    shape = replace(of_card(card), stored_bytes=None, expert_padding=1)
    counted = weight_bytes(shape, Split()) - buffer_bytes(shape, Split())
    drafts = 11.6e9 if shape.draft_layers else 0
    assert counted == pytest.approx(card.tensor_bytes - drafts, rel=0.02)


@pytest.mark.parametrize("card", ALL)
def test_a_card_answers(card: ModelCard) -> None:
    shape = of_card(card)
    split = Split(next(n for n in (8, 4, 2, 1) if can_split(shape, Split(n))))
    serving = asked(split=split, context_tokens=4096)
    found = forecast(shape, serving, Device.of(gpu("b300-288gb")))
    assert found.fits
    assert (found.cache_tokens == 0) == (not shape.cached)
    assert (shape.full_layers, shape.window_layers) == (
        (card.full_layers, card.layers - card.full_layers) if card.full_layers else (card.layers, 0)
    )


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"),
        ("gemma-3-27b", "google/gemma-3-27b-it"),
        ("gpt-oss-120b", "openai/gpt-oss-120b"),
        ("deepseek-r1", "deepseek-ai/DeepSeek-R1"),
        ("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite-Chat"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
    ],
)
def test_a_card_and_a_config_describe_the_same_model(name: str, repo: str) -> None:
    from_file, card = from_config(memory_logs().models[name]), of_card(known_card(repo))
    assert card.stored_bytes
    seen = from_file.vision_parameters
    card = replace(card, stored_bytes=None, architecture="", vision_parameters=seen)
    assert card == from_file


def test_a_tower_is_read_from_a_config_as_well() -> None:
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "spatial_merge_size": 2}
    config = {
        "model_type": "qwen2_5_vl",
        "text_config": memory_logs().models["qwen2.5-7b"],
        "vision_config": vision,
    }
    card = of_card(known_card("Qwen/Qwen2.5-VL-7B-Instruct"))
    assert from_config(config).tower == card.tower is not None
    assert from_config(config | {"model_type": "pixtral"}).tower is None


def test_every_scheme_has_bits() -> None:
    bits = {name: named_format(name, 128, 2).linear_bits for name in schemes()}
    assert bits.pop("mxfp4") == 16
    assert named_format("mxfp4", None, 2).expert_bits == 4.25
    stated = {name: row.weight_bits for name, row in schemes().items() if name in bits}
    assert all(stated[name] <= each < stated[name] + 0.6 for name, each in bits.items())
    assert named_format(None, None, 4).linear_bits == 32


# --- encoders ------------------------------------------------------------------------------------


def test_an_encoder_needs_no_cache_and_reads_a_request_in_one_step() -> None:
    assert (BGE.cached, BGE.pools, BGE.gated) == (False, True, False)
    assert (token_bytes(BGE, Split()), layout(BGE, Split(), CacheFormat()).tokens(GIB)) == (0, 0)
    found = forecast(BGE, SERVING, L4)
    assert (found.needed_bytes, found.cache_tokens, found.fits) == (0, 0, True)
    assert found.limits.batched_tokens == 8192
    assert highest_concurrency(BGE, SERVING, L4) == found.limits.sequences
    assert largest_context(BGE, SERVING, L4) == 8192
    tiny = Device("a GPU", 2 * GIB)
    assert not forecast(BGE, SERVING, tiny).fits


def test_what_is_stored_in_32_bits_is_loaded_in_16() -> None:
    half, whole = (forecast(BGE, asked(dtype_bytes=size), L4).weights_bytes for size in (None, 4))
    assert whole == known_card("BAAI/bge-m3").tensor_bytes == 2 * half
    # only what is not quantised changes
    fp8 = of_card(known_card("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"))
    assert asked(dtype_bytes=4).loaded(fp8).stored_bytes == fp8.stored_bytes


def test_tensors_in_32_bits_of_a_config_in_16() -> None:
    config = memory_logs().models["llama-3.1-8b"]
    shape = from_config(config, {"F32": 4000, "BF16": 2000, "I64": 8})
    assert shape.stored_bytes == 4008


@pytest.mark.parametrize(
    ("config", "cached", "pools"),
    [
        ({"architectures": ("XLMRobertaModel",), "model_type": "xlm-roberta"}, False, True),
        ({"architectures": ("NewModel",), "model_type": "new"}, False, True),
        ({"architectures": ("Qwen3ForSequenceClassification",)}, True, True),
        ({"architectures": ("Qwen3ForCausalLM",), "model_type": "qwen3"}, True, False),
        ({}, True, False),
    ],
    ids=str,
)
def test_an_encoder_is_known_by_its_config(
    config: dict[str, Any], cached: bool, pools: bool
) -> None:
    shape = from_config(memory_logs().models["llama-3.1-8b"] | config)
    assert (shape.cached, shape.pools) == (cached, pools)


def test_nothing_is_sampled_for_vectors() -> None:
    sampled, pooled = (
        forecast(LLAMA, asked(pools=pools), H100).activation_bytes for pools in (None, True)
    )
    assert pooled < sampled / 2


# --- stacks --------------------------------------------------------------------------------------


def stack(serve: dict[str, Any], count: int = 1) -> Stack:
    return Stack.model_validate(
        {
            "name": "demo",
            "target": {"gpu": "h100-sxm-80gb", "count": count},
            "engine": {"name": "vllm", "version": "0.20.2"},
            "base": {"debian": "bookworm"},
            "model": {"repo": "meta-llama/Llama-3.1-8B-Instruct"},
            "serve": serve,
        },
        strict=False,
    )


def test_a_stack_asks_what_its_image_will() -> None:
    serve = {
        "max_model_len": 16384,
        "max_num_seqs": 32,
        "gpu_memory_utilization": 0.8,
        "args": {
            "kv_cache_dtype": "fp8",
            "max-num-batched-tokens": "8K",
            "block-size": 32,
            "enforce_eager": True,
            "cpu-offload-gb": 2,
            "kv-cache-memory-bytes": "10g",
            "swap-space": 4,
            "dtype": "float32",
            "runner": "pooling",
            "data_parallel_size": 2,
        },
    }
    assert of_stack(stack(serve, count=4), LLAMA, concurrency=3) == Serving(
        version="0.20.2",
        context_tokens=16384,
        concurrency=3,
        sequences=32,
        batched_tokens=8192,
        utilisation=0.8,
        split=Split(4, 1, 2),
        dtype_bytes=4,
        cache_element_bytes=1,
        block_tokens=32,
        eager=True,
        pools=True,
        offload_bytes=2 * GIB,
        cache_bytes=10**10,
    )


def test_a_stack_that_says_nothing_asks_for_the_engine_s_defaults() -> None:
    assert of_stack(stack({}), LLAMA) == Serving(version="0.20.2", context_tokens=131072)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, Split(4)),
        ({"tensor-parallel-size": 2}, Split(2)),
        ({"tensor_parallel_size": "2", "pipeline-parallel-size": 2}, Split(2, 2)),
        ({"tensor-parallel-size": False}, Split(4)),
        ({"tensor-parallel-size": "all"}, Split(4)),
    ],
    ids=str,
)
def test_gpus_share_a_model_by_tensors_unless_told_otherwise(
    args: dict[str, Any], expected: Split
) -> None:
    assert of_serve({"args": args}, "0.20.2", 4, LLAMA).split == expected


WRONG: tuple[Any, ...] = (
    "many",
    "-1",
    "1e999",
    "nan",
    "",
    0,
    -3,
    True,
    [],
    {},
    ["8"],
    {"a": 1},
    1.5e308,
)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_value_that_is_none_counts_as_absent(value: Any) -> None:
    names = (
        "tensor-parallel-size pipeline-parallel-size data-parallel-size max-num-batched-tokens"
        " block-size cpu-offload-gb kv-cache-memory-bytes kv-cache-dtype dtype speculative-config"
    )
    serve = {"args": dict.fromkeys(names.split(), value)}
    found = of_serve(serve, "0.20.2", 1, LLAMA)
    if value != 1.5e308:
        assert found == Serving(version="0.20.2", context_tokens=131072)
    assert forecast(LLAMA, replace(found, split=Split()), H100).budget_bytes > 0


def test_a_model_without_a_longest_context_needs_one_from_the_stack() -> None:
    shape = replace(LLAMA, max_positions=None)
    with pytest.raises(StackError, match=r"serve\.max_model_len: the model's config names no"):
        of_serve({}, "0.20.2", 1, shape)


@pytest.mark.parametrize("value", ['{"method": "mtp"}', {"method": "deepseek_mtp"}], ids=str)
def test_drafts_are_loaded_where_they_are_used(value: Any) -> None:
    shape = of_card(known_card("deepseek-ai/DeepSeek-R1"))
    serving = of_serve({"args": {"speculative-config": value}}, "0.20.2", 8, shape)
    assert serving.drafts
    without = replace(serving, drafts=False)
    device = Device.of(gpu("h200-141gb"))
    more, less = (forecast(shape, each, device) for each in (serving, without))
    assert more.weights_bytes - less.weights_bytes == pytest.approx(11.6e9 / 8, rel=0.05)
    assert more.layout.block_bytes * 61 == less.layout.block_bytes * 62


@pytest.mark.parametrize("value", ["{", '{"method": "ngram"}', "mtp", {"model": "x"}], ids=str)
def test_other_drafts_are_not_the_model_s_own(value: Any) -> None:
    assert not of_serve({"args": {"speculative-config": value}}, "0.20.2", 1, LLAMA).drafts


@pytest.mark.parametrize(
    ("args", "expected"),
    [({"task": "embed"}, True), ({"runner": "generate"}, False), ({}, None)],
    ids=str,
)
def test_flags_may_say_that_a_model_gives_vectors(
    args: dict[str, Any], expected: bool | None
) -> None:
    assert of_serve({"args": args}, "0.12.0", 1, LLAMA).pools is expected


# --- what flags do -------------------------------------------------------------------------------


def test_weights_that_stay_with_the_host_leave_room() -> None:
    kept, all_of_them = (forecast(LLAMA, asked(offload_bytes=size * GIB), L4) for size in (4, 400))
    plain = forecast(LLAMA, SERVING, L4)
    assert kept.cache_bytes == plain.cache_bytes + 4 * GIB
    assert all_of_them.weights_bytes == 0


def test_a_cache_of_a_size_that_was_asked_for() -> None:
    found = forecast(LLAMA, asked(cache_bytes=2 * GIB, utilisation=0.1), H100)
    assert (found.cache_bytes, found.cache_tokens) == (2 * GIB, 16384)
    assert sum(size for _, size in found.bar) == found.budget_bytes
    assert found.fits
    much = forecast(LLAMA, asked(cache_bytes=70 * GIB), H100)
    assert (much.fits, much.excess_bytes) == (False, much.budget_bytes - much.free_bytes)


def test_a_budget_beyond_what_is_free_is_refused() -> None:
    found = forecast(LLAMA, asked(utilisation=1.0), H100)
    assert found.spare_bytes > 0
    assert (found.fits, found.excess_bytes) == (False, H100.total_bytes - found.free_bytes)
    assert forecast(LLAMA, SERVING, H100).excess_bytes == 0


def test_memory_shared_with_the_host_is_not_all_free() -> None:
    spark = Device.of(gpu("gb10-128gb"))
    assert spark.unified
    fits = [forecast(LLAMA, asked(utilisation=share), spark).fits for share in (0.8, 0.95)]
    assert fits == [True, False]


def test_replicas_share_requests_and_experts() -> None:
    shape = of_card(known_card("Qwen/Qwen3-30B-A3B"))
    one, two = asked(split=Split(1)), asked(split=Split(1, 1, 2))
    ratio = weight_bytes(shape, two.split) / weight_bytes(shape, one.split)
    assert 0.5 < ratio < 0.56
    assert weight_bytes(LLAMA, two.split) == weight_bytes(LLAMA, one.split)
    assert highest_concurrency(LLAMA, two, H100) == 2 * highest_concurrency(LLAMA, one, H100)
    needed = [forecast(LLAMA, replace(two, concurrency=n), H100).needed_bytes for n in (1, 2, 3)]
    assert [size // needed[0] for size in needed] == [1, 1, 2]


# --- answers -------------------------------------------------------------------------------------


def test_the_smallest_gpu_of_the_catalogue() -> None:
    small = smallest_gpu(LLAMA, SERVING, gpus().values())
    assert small
    assert 16 * GIB < small.memory_bytes <= 24 * GIB
    assert smallest_gpu(LLAMA_70B, SERVING, (gpu("h100-sxm-80gb"), gpu("l4-24gb"))) is None
    assert smallest_gpu(LLAMA_70B, SERVING, (gpu("b200-180gb"),)) == gpu("b200-180gb")


def test_a_model_that_cannot_be_cut_fits_nowhere() -> None:
    three = asked(split=Split(3))
    assert not can_split(LLAMA_70B, three.split)
    assert smallest_gpu(LLAMA_70B, three, gpus().values()) is None
    assert smallest_device(LLAMA_70B, three, (H100, L4)) is None


def test_the_fewest_gpus() -> None:
    # 141 GB of weights: two H100 hold them and little more, three do not divide 64 heads
    assert fewest_gpus(LLAMA, SERVING, L4) == 1
    assert fewest_gpus(LLAMA_70B, asked(context_tokens=65536), H100) == 4
    assert fewest_gpus(LLAMA_70B, SERVING, L4, most=4) is None
    assert fewest_gpus(LLAMA_70B, SERVING, L4) == 8


# --- without a GPU -------------------------------------------------------------------------------


def test_the_memory_of_a_host() -> None:
    env = {"VLLM_CPU_KVCACHE_SPACE": "4"}
    found = on_cpu(LLAMA, SERVING, env)
    assert found.cache_bytes == 4 * GIB
    assert found.request_bytes == 8192 * 131072
    assert (found.concurrency, found.layout.block_tokens) == (4, 128)
    assert found.host_bytes == found.weights_bytes + 4 * GIB
    assert on_cpu(LLAMA, asked(cache_bytes=GIB), {}).concurrency == 1
    unset = on_cpu(LLAMA, SERVING, {"VLLM_CPU_KVCACHE_SPACE": "auto"})
    assert (unset.cache_bytes, unset.concurrency) == (None, None)
    assert unset.host_bytes == unset.weights_bytes + unset.request_bytes
    assert on_cpu(BGE, SERVING, env).concurrency is None


def test_shapes_are_values() -> None:
    assert of_card(known_card("Qwen/Qwen3-8B")) == of_card(known_card("Qwen/Qwen3-8B"))
    assert isinstance(hash(LLAMA), int)
    assert isinstance(LLAMA, ModelShape)


def test_a_search_over_many_deployments_is_quick() -> None:
    runs = [asked(context_tokens=1000 + n, concurrency=n) for n in range(1, 201)]
    # The fastest of several: what else this machine does is not measured.
    fastest = min(
        timeit.repeat(lambda: [forecast(LLAMA, run, H100) for run in runs], number=1, repeat=5)
    )
    assert fastest / len(runs) < 1e-3


# --- weights that are quantised as they are loaded ------------------------------------------------


def loaded_gib(version: str, quantization: str, shape: ModelShape = LLAMA) -> float:
    serving = of_serve({"args": {"quantization": quantization}}, version, 1, shape)
    return forecast(shape, serving, H100).weights_bytes / GIB


def test_weights_in_fp8_while_they_load_are_those_of_a_log() -> None:
    """8.49 GiB: github jgchn/llm-d-planner, accuracy/results/v0.19.0, qfp8."""
    assert loaded_gib("0.19.0", "fp8") == pytest.approx(8.49, rel=0.01)
    assert loaded_gib("0.19.0", "bitsandbytes") < loaded_gib("0.19.0", "fp8")


def test_a_method_changes_nothing_of_weights_that_are_quantised() -> None:
    shape = of_card(known_card("Qwen/Qwen2.5-72B-Instruct-AWQ"))
    plain = forecast(shape, of_serve({}, "0.19.0", 1, shape), H100).weights_bytes / GIB
    assert loaded_gib("0.19.0", "fp8", shape) == plain
