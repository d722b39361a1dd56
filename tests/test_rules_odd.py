"""Stacks and configs that nobody should write: the rules answer, and soon."""

import json
from typing import Any

import pytest

from builder import rules
from builder.catalogue.flags import similar_variables
from builder.errors import StackError
from builder.memory import from_config
from builder.memory.engine import engine
from builder.rules import Subject, Verdict, search
from builder.rules.splitting import COUNT
from builder.stack import from_canonical
from builder.stack.model import MOST_GPUS
from tests import rule_case
from tests.rule_case import DEFAULTS

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def judged(**parts: Any) -> Verdict:
    values = {name: {**DEFAULTS.get(name, {}), **part} for name, part in parts.items()}
    stack = from_canonical({**DEFAULTS, **values})
    return rules.judge(Subject(stack, rules.of_repo(str(stack.model.repo))))


@pytest.mark.parametrize(
    "args",
    [
        {"quantization": ["fp8", 1]},
        {"task": {"a": 1}, "runner": ["generate"], "convert": ["a"]},
        {"quantization": {"method": "fp8"}, "kv-cache-dtype": [1]},
        {"pipeline-parallel-size": 2**63 - 1},
        {"pipeline-parallel-size": 2**63 - 1, "data-parallel-size": 2**63 - 1},
        {"tensor-parallel-size": 3, "pipeline-parallel-size": 2**40, "cpu-offload-gb": 2**31},
    ],
)
def test_judges_values_of_any_kind_and_size(args: dict[str, Any]) -> None:
    assert judged(serve={"args": args}).findings


@pytest.mark.parametrize("version", ["0", "7", "1!0.20", "0.20.2rc1", "2026.1", "0.20.2+cu129"])
def test_judges_every_version_that_a_stack_may_name(version: str) -> None:
    assert judged(engine={"version": version}).memory is not None


def test_reads_an_epoch_and_a_lone_number_as_a_version() -> None:
    assert [engine(text).version for text in ("1!0.20", "7", "2026.1")] == [
        (0, 20, 0),
        (7, 0, 0),
        (2026, 1, 0),
    ]


@pytest.mark.parametrize("driver", [">=1!5", "===abc", ">=580.dev1"])
def test_takes_what_is_no_number_of_a_driver_for_no_bound(driver: str) -> None:
    assert judged(target={"driver": driver}).findings


def test_says_what_is_short_where_the_budget_is_nothing() -> None:
    found = judged(serve={"gpu_memory_utilization": 1e-300}).findings
    assert any(each.rule == "memory-fit" and each.severity == "error" for each in found)


def test_offers_no_more_gpus_than_a_stack_may_name() -> None:
    verdict = judged(serve={"args": {"tensor-parallel-size": 3, "pipeline-parallel-size": 900}})
    offered = [
        change.value
        for finding in verdict.findings
        for move in finding.moves
        for change in move
        if change.place == COUNT
    ]
    assert offered
    assert all(1 <= count <= MOST_GPUS for count in offered)
    hints = [each.hint for each in verdict.findings if each.rule == "gpu-count"]
    assert hints == ["write smaller numbers"]


def test_a_rule_that_says_it_refuses_nothing_refuses_nothing() -> None:
    gentle = [rule for rule in rules.rules().values() if not rule.refuses]
    subjects = [rule_case.subject(case) for case in rule_case.cases()]
    said = {each.severity for rule in gentle for subject in subjects for each in rule(subject)}
    assert said == {"warning", "note"}


def test_a_search_hears_every_rule_that_refuses() -> None:
    for case in rule_case.cases():
        subject = rule_case.subject(case)
        heard = [(each.rule, each.text) for each in search.errors(subject)]
        all_of_them = search.findings(subject)
        assert heard == [(e.rule, e.text) for e in all_of_them if e.severity == "error"]


def test_finds_variables_that_are_alike() -> None:
    assert "VLLM_USE_V1" in similar_variables("VLLM_USE_V11", "0.9.0")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"num_attention_heads": 10**9}, "a whole number up to 4096 in `num_attention_heads`"),
        ({"num_hidden_layers": True}, "a whole number up to 4096 in `num_hidden_layers`"),
        ({"hidden_size": 1e300}, "a whole number"),
        ({"max_position_embeddings": "many"}, "in `max_position_embeddings`, got `many`"),
        ({"model_type": ["llama"]}, "text in `model_type`"),
        ({"architectures": {"a": 1}}, "a list in `architectures`"),
        ({"text_config": [1]}, "an object in `text_config`"),
        ({"text_config": {"head_dim": "64"}}, "in `head_dim`"),
        ({"vision_config": {"hidden_size": []}}, "in `hidden_size`"),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "a number in `factor`"),
        ({"rope_scaling": {"factor": 10**400}}, "a number in `factor`"),
        ({"rope_parameters": {"full_attention": 1}}, "an object in `full_attention`"),
        ({"quantization_config": "fp8"}, "an object in `quantization_config`"),
        ({"quantization_config": {"bits": "4"}}, "a number in `bits`"),
        ({"quantization_config": {"config_groups": {"g": 1}}}, "objects in `config_groups`"),
        (
            {"quantization_config": {"config_groups": {"g": {"weights": {"num_bits": "4"}}}}},
            "in `num_bits`",
        ),
    ],
)
def test_refuses_a_config_whose_fields_are_of_other_kinds(
    fields: dict[str, Any], fault: str
) -> None:
    with pytest.raises(StackError) as caught:
        from_config({**CONFIG, **fields})
    assert fault in caught.value.message
    with pytest.raises(StackError):
        rules.of_config("model", {**CONFIG, **fields}, None)


def test_takes_fields_that_are_absent_or_null() -> None:
    empty = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "text_config"))
    assert from_config({**CONFIG, **empty}) == from_config(CONFIG)


def test_a_value_of_the_config_is_cut_in_the_fault() -> None:
    with pytest.raises(StackError) as caught:
        from_config({**CONFIG, "head_dim": "x" * 10_000})
    assert len(json.dumps(caught.value.message)) < 200
