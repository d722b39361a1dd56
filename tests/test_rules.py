"""The ground of the rules: changes to stacks, the search, verdicts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from builder import rules
from builder.errors import UsageError
from builder.rules import Change, Finding, Subject, registry, search
from builder.rules.change import cost
from builder.rules.finding import error, note, warning
from builder.stack import Stack, from_canonical
from builder.stack.model import Runtime
from tests.rule_case import DEFAULTS, Case, subject

RAY = {"target": {"count": 2}, "serve": {"args": {"distributed-executor-backend": "ray"}}}


def stack(**parts: Any) -> Stack:
    return from_canonical({**DEFAULTS, **parts})


def over(**limits: int) -> Any:
    """A rule that refuses more sequences, or more GPUs, than there may be."""

    def check(asked: Subject) -> Iterator[Finding]:
        values = {"seqs": asked.stack.serve.max_num_seqs or 0, "gpus": asked.count}
        places = {"seqs": "serve.max_num_seqs", "gpus": "target.count"}
        for name, most in limits.items():
            if values[name] > most:
                moves = ((Change(places[name], most),),)
                yield error(places[name], f"{values[name]}", "less", "here", moves=moves)

    return check


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put rules of the test in the place of all others."""

    def put(**checks: Any) -> None:
        known = {name: registry.Rule(name, name, check) for name, check in checks.items()}
        monkeypatch.setattr(search, "rules", lambda: known)

    return put


def asked(**parts: Any) -> Subject:
    return Subject(stack=stack(**parts))


# --- changes -------------------------------------------------------------------------------------


def test_a_change_sets_a_field_and_leaves_the_stack_alone() -> None:
    before = stack()
    after = rules.changed(before, (Change("serve.max_model_len", 4096),))
    assert (after.serve.max_model_len, before.serve.max_model_len) == (4096, 8192)


@pytest.mark.parametrize("written", ["swap-space", "swap_space"])
def test_a_flag_is_taken_away_however_it_is_spelled(written: str) -> None:
    before = stack(serve={"args": {written: 4, "dtype": "half"}})
    after = rules.changed(before, (Change("serve.args.swap-space", None),))
    assert after.serve.args == {"dtype": "half"}


def test_a_flag_is_replaced_however_it_is_spelled() -> None:
    before = stack(serve={"args": {"block_size": 4}})
    after = rules.changed(before, (Change("serve.args.block-size", 16),))
    assert after.serve.args == {"block-size": 16}


def test_a_field_without_a_value_is_its_default() -> None:
    before = stack(serve={"gpu_memory_utilization": 0.5})
    after = rules.changed(before, (Change("serve.gpu_memory_utilization", None),))
    assert after.serve.gpu_memory_utilization is None


def test_the_result_of_a_change_is_a_stack_that_loads() -> None:
    move = (Change("engine.version", "0.19.1"), Change("target.count", 4))
    after = rules.changed(stack(), move)
    assert from_canonical(rules.changed(after, ()).model_dump(mode="json")) == after


def test_costs_follow_what_is_hard_to_change() -> None:
    places = ("serve.args.dtype", "target.count", "target.driver", "model.repo", "target.gpu")
    costs = [cost((Change(place, 1),)) for place in places]
    assert costs == sorted(costs)


def test_a_move_reads_as_one_writes_it() -> None:
    move = (Change("engine.version", "0.19.1"), Change("serve.args.task", None))
    assert rules.described(move) == 'engine.version: "0.19.1", leave out serve.args.task'


# --- the search ----------------------------------------------------------------------------------


def test_a_stack_that_nothing_refuses_works(only: Any) -> None:
    only(few=over(seqs=100))
    assert rules.judge(asked()).word == "works"


def test_the_nearest_cell_satisfies_every_rule(only: Any) -> None:
    only(few=over(seqs=8), alone=over(gpus=1))
    found = rules.judge(asked(target={"gpu": "h100-sxm-80gb", "count": 2}))
    assert {(c.place, c.value) for c in found.nearest or ()} == {
        ("serve.max_num_seqs", 8),
        ("target.count", 1),
    }


def test_a_move_that_another_rule_refuses_is_not_offered(only: Any) -> None:
    def two_ways(item: Subject) -> Iterator[Finding]:
        if item.stack.serve.max_num_seqs == 64:
            cheap = (Change("serve.max_num_seqs", 200),)
            dear = (Change("target.count", 4),), (Change("serve.max_num_seqs", 16, 0.9),)
            yield error("serve.max_num_seqs", "64", "other", "here", moves=(cheap, *dear))

    only(two=two_ways, few=over(seqs=100))
    move = rules.judge(asked()).nearest
    assert [(c.place, c.value) for c in move or ()] == [("serve.max_num_seqs", 100)]


def test_the_cheapest_way_wins(only: Any) -> None:
    def ways(item: Subject) -> Iterator[Finding]:
        if item.count == 1 and item.stack.serve.max_num_seqs == 64:
            yield error(
                "target.gpu",
                "x",
                "y",
                "z",
                moves=((Change("target.count", 2),), (Change("serve.max_num_seqs", 32),)),
            )

    only(ways=ways)
    move = rules.judge(asked()).nearest
    assert [c.place for c in move or ()] == ["serve.max_num_seqs"]


def test_no_nearest_cell_is_said_where_none_is_found(only: Any) -> None:
    def never(item: Subject) -> Iterator[Finding]:
        moves = ((Change("serve.max_num_seqs", (item.stack.serve.max_num_seqs or 0) + 1),),)
        yield error("model.repo", "never", "another", "here", moves=moves)

    only(never=never)
    found = rules.judge(asked())
    assert (found.word, found.nearest) == ("refused", None)


def test_cells_of_one_stack_get_one_change_for_all_and_keep_their_gpus(only: Any) -> None:
    most = {"l4-24gb": 32, "a10-24gb": 16}

    def fewer(item: Subject) -> Iterator[Finding]:
        gpu = str(item.stack.target.gpu)
        if (item.stack.serve.max_num_seqs or 0) > most[gpu]:
            moves = (Change("target.gpu", "l4-24gb"),), (Change("serve.max_num_seqs", most[gpu]),)
            yield error("serve.max_num_seqs", "many", "fewer", "here", moves=moves)

    only(fewer=fewer)
    verdicts = [rules.judge(asked(target={"gpu": gpu})) for gpu in most]
    move = rules.nearest_for_all(verdicts)
    assert [(c.place, c.value) for c in move or ()] == [("serve.max_num_seqs", 16)]


def test_a_warning_has_a_nearest_cell_of_its_own(only: Any) -> None:
    def slow(item: Subject) -> Iterator[Finding]:
        if item.count == 1:
            moves = ((Change("target.count", 2),), (Change("target.count", 4),))
            yield warning("target.count", "slow", "more", "here", moves=moves)

    only(slow=slow)
    finding = rules.judge(asked()).findings[0]
    assert [(c.place, c.value) for c in finding.nearest or ()] == [("target.count", 2)]


def test_errors_come_before_warnings_and_notes(only: Any) -> None:
    def three(_: Subject) -> Iterator[Finding]:
        yield note("name", "n", "n", "n")
        yield warning("name", "w", "w", "w")
        yield error("name", "e", "e", "e")

    only(three=three)
    assert [f.severity for f in rules.judge(asked()).findings] == ["error", "warning", "note"]


# --- the rules -----------------------------------------------------------------------------------


def test_a_rule_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no rule `driver-flor`") as fault:
        rules.find("driver-flor")
    assert "driver-floor" in fault.value.hint


def test_another_checkpoint_brings_its_own_facts() -> None:
    case = Case("x", "x", {"model": {"repo": "Qwen/Qwen2.5-7B-Instruct"}})
    after = subject(case).after((Change("model.repo", "Qwen/Qwen2.5-7B-Instruct-AWQ"),))
    assert after.model is not None
    assert after.model.scheme == "awq"


def test_what_keeps_an_engine_from_starting_at_all_is_said_first() -> None:
    found = list(rules.rules())
    assert found.index("driver-floor") < found.index("host-architecture")
    assert found.index("host-architecture") < found.index("memory-fit") < found.index("advisory")


def test_an_image_with_an_engine_may_bring_ray() -> None:
    ours = subject(Case("a case", "a source", RAY))
    runtime = Runtime(image="docker.io/vllm/vllm-openai:v0.20.2")
    theirs = replace(ours, stack=ours.stack.model_copy(update={"base": None, "runtime": runtime}))
    found = rules.find("single-card")
    assert [each.severity for each in found(ours)] == ["error"]
    assert [each.severity for each in found(theirs)] == ["warning"]
