"""Rules that ask the lock, and weaknesses: what a table of stacks cannot say."""

from typing import Any

import pytest

from builder import rules
from builder.catalogue.releases import advisories
from builder.rules import Finding, Subject, changed
from builder.rules.advisories import CONDITIONS, relevant
from builder.rules.change import Change
from tests import lock_maker
from tests.rule_case import Case, subject


def case(config: dict[str, Any] | None = None, **stack: Any) -> Subject:
    return subject(Case("a stack", "a test", stack, config=config or {}))


def locked(found: Subject, *wheels: str) -> Subject:
    lock = lock_maker.lock(wheels=tuple(lock_maker.wheel(name) for name in wheels))
    return Subject(stack=found.stack, model=found.model, lock=lock)


def of(found: Subject, name: str) -> list[Finding]:
    return [each for each in rules.judge(found).findings if each.rule == name]


def test_a_lock_holds_what_a_branch_means() -> None:
    branch = case(model={"revision": "main"})
    assert of(branch, "moving-reference")
    assert of(branch, "unlocked")
    assert not of(locked(branch), "moving-reference")
    assert not of(locked(branch), "unlocked")


def test_a_lock_tells_whether_ray_is_in_the_image() -> None:
    asks = case(serve={"args": {"distributed-executor-backend": "ray"}})
    assert of(asks, "single-card")
    assert not of(locked(asks, "torch", "ray"), "single-card")
    assert of(locked(asks, "torch"), "single-card")


def test_ray_that_is_left_out_is_not_there() -> None:
    serve = {"args": {"distributed-executor-backend": "ray"}}
    kept = case(engine={"version": "0.17.1"}, serve=serve)
    assert not of(kept, "single-card")
    without = case(engine={"version": "0.17.1"}, serve=serve, resolve={"exclude": ["ray"]})
    assert of(without, "single-card")


def test_a_reference_that_is_none_is_refused_with_its_own_words() -> None:
    found = of(case(base={"image": "https://registry.example.com/base"}), "moving-reference")
    assert [each.severity for each in found] == ["error"]
    assert "has a scheme" in found[0].text


def test_a_folder_has_neither_branch_nor_licence() -> None:
    found = Subject(stack=case(model={"path": "models/demo"}).stack)
    assert not of(found, "moving-reference")
    assert not of(found, "licence")


def test_every_condition_of_the_catalogue_is_judged() -> None:
    """A new one must be taught, or it counts as met for every stack."""
    assert {row.only for row in advisories() if row.only} - CONDITIONS.keys() == set()


ONLY = [
    ("CVE-2025-30202", "0.8.3", {"args": {"nnodes": 2}}),
    ("CVE-2025-32444", "0.8.3", {"args": {"kv-transfer-config": '{"kv_connector": "Mooncake"}'}}),
    ("CVE-2025-46570", "0.8.5", {}),
    ("CVE-2025-59425", "0.10.2", {}),
    ("CVE-2025-62164", "0.11.0", {}),
    ("CVE-2026-56340", "0.12.0", {"args": {"enable-prompt-embeds": True}}),
    ("GHSA-v97p-wpxp-px84", "0.20.2", {"args": {"pipeline-parallel-size": 2}}),
    ("CVE-2026-41523", "0.20.2", {"env": {"PYTHONOPTIMIZE": "1"}}),
    ("CVE-2026-47155", "0.20.2", {"env": {"HF_HUB_OFFLINE": "0"}}),
    ("CVE-2026-114053", "0.20.2", {"args": {"trust-remote-code": True}}),
    ("CVE-2026-105760", "0.28.0", {"env": {"VLLM_VIDEO_LOADER_BACKEND": "glmga"}}),
]


@pytest.mark.parametrize(("advisory", "version", "serve"), ONLY, ids=[row[0] for row in ONLY])
def test_a_weakness_is_named_where_the_stack_is_such_a_deployment(
    advisory: str, version: str, serve: dict[str, Any]
) -> None:
    found = case(engine={"version": version}, serve=serve)
    assert advisory in {row.id for row in relevant(found)}


NOT_FOR = [
    ("CVE-2025-30202", "0.8.3", {}),
    ("CVE-2025-46570", "0.8.5", {"args": {"no-enable-prefix-caching": True}}),
    ("CVE-2026-56340", "0.12.0", {}),
    ("GHSA-v97p-wpxp-px84", "0.20.2", {}),
    ("CVE-2026-34753", "0.18.0", {}),
    ("CVE-2026-22778", "0.14.0", {}),
    ("CVE-2026-27893", "0.17.1", {}),
    ("CVE-2026-114053", "0.20.2", {}),
    ("CVE-2026-105760", "0.28.0", {}),
]


@pytest.mark.parametrize(("advisory", "version", "serve"), NOT_FOR, ids=[r[0] for r in NOT_FOR])
def test_a_weakness_is_left_out_where_the_stack_is_none(
    advisory: str, version: str, serve: dict[str, Any]
) -> None:
    found = case(engine={"version": version}, serve=serve)
    assert advisory not in {row.id for row in relevant(found)}


def test_pictures_that_are_switched_off_cannot_be_sent() -> None:
    model = {"repo": "Qwen/Qwen2.5-VL-7B-Instruct"}
    args = {"language-model-only": True}
    ids = [row.id for row in relevant(case(engine={"version": "0.18.0"}, model=model))]
    text = case(engine={"version": "0.18.0"}, model=model, serve={"args": args})
    assert set(ids) - {row.id for row in relevant(text)} == {"CVE-2026-54236"}


def test_the_release_that_is_offered_has_no_grave_weakness() -> None:
    found = case(engine={"version": "0.14.0"}, model={"repo": "Qwen/Qwen2.5-VL-7B-Instruct"})
    warning = next(each for each in of(found, "advisory") if each.severity == "warning")
    assert warning.nearest is not None
    after = found.after(warning.nearest)
    assert not {row.severity for row in relevant(after)} & {"high", "critical"}


def test_a_weakness_of_unsure_rating_is_marked() -> None:
    found = of(case(engine={"version": "0.20.2"}), "advisory")
    assert [each.verified for each in found] == [False]


def test_a_variable_goes_by_its_own_name_and_a_flag_by_dashes() -> None:
    serve = {"env": {"HF_HUB_OFFLINE": "0", "A": "1"}, "args": {"swap_space": 4, "seed": 1}}
    stack = case(serve=serve).stack
    move = (Change("serve.env.HF_HUB_OFFLINE", None), Change("serve.args.swap-space", None))
    assert changed(stack, move).serve.env == {"A": "1"}
    assert changed(stack, move).serve.args == {"seed": 1}


@pytest.mark.parametrize(
    ("value", "read"),
    [({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("[1]", {}), ("ngram", {}), (True, {})],
    ids=["mapping", "JSON", "JSON list", "text", "bare"],
)
def test_a_json_flag_is_read_however_it_is_written(value: object, read: dict[str, int]) -> None:
    assert case(serve={"args": {"speculative-config": value}}).mapping("speculative-config") == read
