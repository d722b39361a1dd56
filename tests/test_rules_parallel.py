"""How a model is cut: what does not come out even, and which cuts are offered."""

from builder import rules
from builder.rules import Subject
from builder.rules.change import changed
from builder.rules.splitting import counted, recut, staged, uneven
from tests.rule_case import Case, subject


def of(repo: str, count: int, gpu: str = "h100-sxm-80gb", **args: object) -> Subject:
    flags = {name.replace("_", "-"): value for name, value in args.items()}
    target = {"gpu": gpu, "count": count}
    stack = {"target": target, "model": {"repo": repo}, "serve": {"args": flags}}
    return subject(Case("a case", "a source", stack))


LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
"""A model of experts, as its config.json has it."""


def places(move: tuple[rules.Change, ...]) -> dict[str, object]:
    return {change.place.removeprefix("serve.args."): change.value for change in move}


def test_what_three_gpus_cannot_divide() -> None:
    found = uneven(of(LLAMA, 3), 3)
    assert found == [
        "64 attention heads",
        "28672 columns of the feed-forward part",
        "8 key-value heads",
    ]


def test_a_latent_is_the_same_on_every_gpu() -> None:
    assert uneven(of("deepseek-ai/DeepSeek-V3", 8), 8) == []


def test_experts_are_cut_over_copies_too_or_dealt_out() -> None:
    repo = "Qwen/Qwen3-30B-A3B"
    assert uneven(of(repo, 10, data_parallel_size=5), 2) == ["width 768 of an expert"]
    dealt = of(repo, 10, data_parallel_size=5, enable_expert_parallel=True)
    assert uneven(dealt, 2) == []
    many = of(repo, 256, data_parallel_size=64, enable_expert_parallel=True)
    assert uneven(many, 4) == ["128 experts for 256 GPUs"]


def test_another_cut_leaves_out_flags_that_say_nothing() -> None:
    ours = of(LLAMA, 4)
    assert places(recut(ours, 2, 2)) == {"tensor-parallel-size": 2, "pipeline-parallel-size": 2}
    cut = of(LLAMA, 4, tensor_parallel_size=2, pipeline_parallel_size=2)
    back = recut(cut, 4, 1)
    assert places(back) == {"tensor-parallel-size": None, "pipeline-parallel-size": None}
    assert changed(cut.stack, back).serve.args == {}


def test_cuts_of_the_same_gpus_have_the_fewest_stages_first() -> None:
    found = [places(move) for move in staged(of(LLAMA, 6), lambda tensor: 64 % tensor == 0)]
    assert found == [
        {"tensor-parallel-size": 2, "pipeline-parallel-size": 3},
        {"tensor-parallel-size": 1, "pipeline-parallel-size": 6},
    ]


def test_a_model_without_stages_is_not_cut_into_any() -> None:
    assert list(staged(of("BAAI/bge-m3", 3), lambda tensor: 16 % tensor == 0)) == []


def test_a_variable_is_left_out_by_its_own_name() -> None:
    values = {"serve": {"env": {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN", "OTHER": "1"}}}
    stack = subject(Case("a case", "a source", values)).stack
    move = (rules.Change("serve.env.VLLM_ATTENTION_BACKEND", None),)
    assert changed(stack, move).serve.env == {"OTHER": "1"}


def test_other_numbers_of_gpus_take_a_written_flag_along() -> None:
    found = [places(move) for move in counted(of(LLAMA, 3), lambda tensor: 64 % tensor == 0)]
    assert found[:2] == [{"target.count": 2}, {"target.count": 4}]
    written = of(LLAMA, 6, tensor_parallel_size=3, pipeline_parallel_size=2)
    found = [places(move) for move in counted(written, lambda tensor: 64 % tensor == 0)]
    assert found[0] == {"target.count": 4, "tensor-parallel-size": 2}


def test_four_bits_of_experts_that_nobody_read_are_a_warning() -> None:
    config = {
        **EXPERTS,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
        },
    }
    stack = {"target": {"count": 8}, "model": {"repo": "a/b"}}
    ours = subject(Case("a case", "a source", stack, config=config))
    found = list(rules.find("parallel-groups")(ours))
    assert [(each.severity, each.verified) for each in found] == [("warning", False)]
    assert "96 columns of an expert" in found[0].text


def test_experts_in_awq_run_in_smaller_groups() -> None:
    config = {
        **EXPERTS,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
    }
    stack = {"target": {"count": 8}, "model": {"repo": "a/b"}}
    ours = subject(Case("a case", "a source", stack, config=config))
    assert list(rules.find("parallel-groups")(ours)) == []


def test_hosts_with_one_gpu_have_no_two() -> None:
    check = rules.find("gpu-count")
    spark = list(check(of(LLAMA, 2, "gb10-128gb")))
    assert [(each.severity, each.text) for each in spark] == [
        ("error", "target.count asks for 2; a host has one NVIDIA GB10 128 GB (DGX Spark)")
    ]
    grace = list(check(of(LLAMA, 2, "gh200-96gb")))
    assert [each.severity for each in grace] == ["warning"]
    assert list(check(of(LLAMA, 1, "gb10-128gb"))) == []
