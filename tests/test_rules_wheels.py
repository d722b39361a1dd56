"""Wheels and GPU code: what needs more than a table."""

from dataclasses import replace

import pytest

from builder import rules
from builder.catalogue.releases import (
    compiled_at_start,
    known_release,
    releases,
    torch_releases,
)
from builder.rules import Change, Subject
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import cost
from builder.stack import from_canonical
from tests import lock_maker
from tests.rule_case import DEFAULTS


def subject(version: str = "0.20.2", gpu: str = "h100-sxm-80gb") -> Subject:
    parts = {"engine": {"name": "vllm", "version": version}, "target": {"gpu": gpu}}
    return Subject(from_canonical({**DEFAULTS, **parts}))


def offered(moves: tuple[rules.Move, ...]) -> list[str]:
    return [str(move[0].value) for move in moves]


def test_of_a_newer_series_the_last_release_is_offered() -> None:
    assert offered(other_releases(subject("0.19.1"), lambda row: row.cuda == "13.0")) == [
        "0.20.2",
        "0.21.0",
    ]


def test_older_releases_are_offered_from_the_newest_on() -> None:
    assert offered(other_releases(subject(), lambda row: row.cuda == "12.9")) == ["0.19.1"]


def test_a_release_costs_more_the_further_it_is_away() -> None:
    near, far = (
        cost(other_releases(subject(version), lambda row: row.version == "0.19.1")[0])
        for version in ("0.20.2", "0.33.0")
    )
    driver = cost((Change("target.driver", ">=580"),))
    assert near < driver < far


def test_a_move_to_a_release_takes_its_cuda_along() -> None:
    stack = {**DEFAULTS, "engine": {"name": "vllm", "version": "0.20.2", "cuda": "13.0"}}
    move = other_releases(Subject(from_canonical(stack)), lambda row: row.version == "0.19.1")[0]
    assert {change.place: change.value for change in move} == {
        "engine.version": "0.19.1",
        "engine.cuda": "12.9",
    }


@pytest.mark.parametrize(
    ("gpu", "first"),
    [
        ("gh200-96gb", "h100-nvl-94gb"),
        ("gh200-144gb", "h200-141gb"),
        ("gb200-186gb", "b200-180gb"),
        ("gb300-288gb", "b300-288gb"),
        ("gb10-128gb", "rtx-pro-6000-96gb"),
        ("v100-sxm-32gb", "a100-sxm-40gb"),
        ("h800-sxm-80gb", "h100-sxm-80gb"),
    ],
)
def test_the_nearest_gpu(gpu: str, first: str) -> None:
    assert offered(other_gpus(subject(gpu=gpu), lambda _: True))[0] == first


def test_a_card_of_one_market_replaces_its_like_alone() -> None:
    assert "h800-sxm-80gb" not in offered(other_gpus(subject(), lambda _: True))
    assert "h800-sxm-80gb" in offered(other_gpus(subject(gpu="h20-96gb"), lambda _: True))


def test_no_gpu_of_other_hosts_is_offered() -> None:
    assert offered(other_gpus(subject(), lambda gpu: gpu.arch == "arm64")) == []


@pytest.mark.parametrize(
    ("written", "release"),
    [("0.20", "0.20.0"), ("0.20.2", "0.20.2"), ("0.20.02", "0.20.2"), ("0.34", None), ("x", None)],
)
def test_a_release_is_found_by_what_means_the_same(written: str, release: str | None) -> None:
    found = known_release(written)
    assert (found.version if found else None) == release


@pytest.mark.parametrize(
    ("version", "glibc"), [("2.6.0", "2.5"), ("2.7.0", "2.28"), ("2.11.0", "2.28")]
)
def test_glibc_of_torch_is_in_the_tags_of_its_wheels(version: str, glibc: str) -> None:
    assert torch_releases()[version].glibc == glibc


def test_a_newest_python_is_one_that_the_metadata_takes() -> None:
    rows = [row for row in releases().values() if row.newest_python]
    assert [row.version for row in rows] == ["0.8.0", "0.8.1", "0.8.2", "0.8.3"]
    assert {row.python for row in rows} == {">=3.9"}


@pytest.mark.parametrize(
    ("part", "version", "capability", "is_there"),
    [
        ("deep-gemm-warm-up", "0.19.1", "9.0", False),
        ("deep-gemm-warm-up", "0.20.0", "9.0", True),
        ("deep-gemm-warm-up", "0.22.1", "10.3", True),
        ("deep-gemm-warm-up", "0.22.1", "12.0", False),
        ("deep-gemm-warm-up", "0.23.0", "9.0", False),
        ("deep-gemm", "0.23.0", "12.0", False),
        ("deep-gemm", "0.24.0", "12.0", True),
        ("deep-gemm", "0.33.0", "8.9", False),
        ("sampler", "0.20.2", "8.9", False),
        ("sampler", "0.21.0", "7.5", True),
        ("sampler", "0.21.0", "7.0", False),
        ("sampler", "0.24.0", "7.5", False),
        ("sampler", "0.33.0", "8.0", True),
    ],
)
def test_what_a_release_compiles_as_it_starts(
    part: str, version: str, capability: str, is_there: bool
) -> None:
    assert (compiled_at_start(part, version, capability) is not None) is is_there


def locked(gpu: str = "h100-sxm-80gb") -> Subject:
    """A lock with GPU code that nobody has read, beside code that is known."""
    wheels = tuple(lock_maker.wheel(name) for name in ("torch", "nvidia-cublas", "certifi"))
    code = {"torch": lock_maker.code("80 90")}
    return replace(subject(gpu=gpu), lock=lock_maker.lock(wheels=wheels, code=code))


def test_unread_wheels_of_a_lock_are_named() -> None:
    found = list(rules.rules()["kernels-unknown"](locked()))
    assert [(finding.severity, finding.rule) for finding in found] == [
        ("warning", "kernels-unknown")
    ]
    assert "the locked nvidia-cublas has code for" in found[0].text


def test_without_a_lock_no_wheel_is_known_by_its_digest() -> None:
    assert list(rules.rules()["kernels-unknown"](replace(locked(), lock=None))) == []


def test_the_lock_knows_better_than_the_catalogue() -> None:
    found = list(rules.rules()["torch-kernels"](locked("l40s-48gb")))
    assert [finding.text for finding in found] == []
    found = list(rules.rules()["torch-kernels"](locked("rtx-5090-32gb")))
    assert "it has 80, 90" in found[0].text


def with_library(*architectures: str) -> Subject:
    names = ("vllm", "torch", "nvidia-cublas")
    wheels = tuple(lock_maker.wheel(name) for name in names)
    code = {
        "nvidia-cublas": lock_maker.code(" ".join(architectures)),
        "vllm": lock_maker.code("90"),
        "torch": lock_maker.code("90"),
    }
    return replace(subject(), lock=lock_maker.lock(wheels=wheels, code=code))


def test_a_library_without_code_for_the_gpu_is_refused() -> None:
    (finding,) = rules.rules()["library-kernels"](with_library("75", "80"))
    assert (finding.severity, finding.place) == ("error", "engine.version")
    assert "the locked nvidia-cublas 1.0 has no code for NVIDIA H100" in finding.text


def test_a_library_with_code_for_the_gpu_says_nothing() -> None:
    assert list(rules.rules()["library-kernels"](with_library("75", "80", "90"))) == []
