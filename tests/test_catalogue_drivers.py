"""CUDA releases, drivers and the packages between them."""

import datetime

import pytest

from builder.catalogue import architectures, drivers, gpus
from builder.errors import StackError


def test_a_major_release_has_one_oldest_driver() -> None:
    assert drivers.cuda_driver("12") == "525.60.13"
    assert drivers.cuda_driver("13") == "580.65.06"


def test_unknown_major_release_comes_with_known_ones() -> None:
    with pytest.raises(StackError) as caught:
        drivers.cuda_driver("11")
    assert caught.value.message == "engine.cuda: no driver is known for CUDA 11"
    assert caught.value.hint == "known releases: 12, 13"


@pytest.mark.parametrize(
    ("version", "driver"),
    [
        ("12.4", "550.54.14"),
        ("12.8", "570.26"),
        ("12.9", "575.51.03"),
        ("13.0", "580.65.06"),
        ("13.2", "595.45.04"),
        ("13.3", "610"),
        ("11.8", None),
    ],
)
def test_driver_that_came_with_a_release(version: str, driver: str | None) -> None:
    assert drivers.full_driver(version) == driver


@pytest.mark.parametrize(
    ("version", "branch", "need"),
    [
        ("13.0", 535, "package"),
        ("13.0", 570, "package"),
        ("13.0", 580, "driver"),
        ("13.0", 590, "none"),
        ("12.9", 535, "package"),
        ("12.8", 570, "driver"),
        ("13.4", 610, "package"),
        ("13.0", 550, "none"),
        ("11.8", 535, "none"),
    ],
)
def test_what_carries_a_release_on_an_older_branch(version: str, branch: int, need: str) -> None:
    assert drivers.need(version, branch) == need


def test_releases_stand_in_order_and_know_their_major() -> None:
    found = [(numbers(row.version), row.update) for row in drivers.cuda_releases()]
    assert found == sorted(found)
    majors = {row.major for row in drivers.cuda_majors()}
    assert {row.version.partition(".")[0] for row in drivers.cuda_releases()} == majors


def test_packages_are_for_known_releases_and_branches() -> None:
    versions = {row.version for row in drivers.cuda_releases()}
    branches = {row.branch for row in drivers.branches()} | {590}
    for row in drivers.compatibilities():
        assert row.cuda in versions
        assert {*row.package, *row.driver} <= branches
        assert not set(row.package) & set(row.driver)


def test_branches_end() -> None:
    ends = {row.branch: row.end_of_life for row in drivers.branches()}
    assert ends[580] == datetime.date(2028, 6, 30)
    assert ends[615] is None


def test_no_gpu_needs_a_branch_that_its_architecture_lost() -> None:
    for gpu in gpus().values():
        newest = gpu.architecture.newest_driver
        assert newest is None or gpu.oldest_driver < newest


def test_what_cuda_13_dropped() -> None:
    assert [row.name for row in architectures().values() if row.newest_cuda] == ["7.0"]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
