"""Drivers: floors of images, ranges, and what a driver reports."""

import pytest

from builder import catalogue
from builder.catalogue.drivers import branch_of, driver_cuda, is_older
from builder.errors import StackError
from builder.rules import Change, Subject
from builder.rules.drivers import floor_of, oldest
from builder.rules.floor import image_floor
from builder.rules.search import findings
from builder.stack import from_canonical
from tests.rule_case import DEFAULTS


def subject(driver: str) -> Subject:
    target = {"platform": "linux/amd64", "gpu": "h100-sxm-80gb", "driver": driver}
    return Subject(from_canonical({**DEFAULTS, "target": target}))


@pytest.mark.parametrize(
    ("asked", "driver"),
    [
        (">=580", "580"),
        (">=570.26", "570.26"),
        ("~=580.65", "580.65"),
        ("==580.*", "580"),
        ("==580.82.07", "580.82.07"),
        (">575,!=575.57.08", "575"),
        (">=535,>=570,<600", "570"),
        ("<580", "0"),
        ("!=580.65.06", "0"),
    ],
)
def test_the_oldest_driver_of_a_range(asked: str, driver: str) -> None:
    assert oldest(subject(asked)) == driver


@pytest.mark.parametrize(
    ("driver", "floor", "older"),
    [
        ("580", "580.65.06", False),
        ("580.65", "580.65.06", False),
        ("580.60", "580.65.06", True),
        ("570.26", "580.65.06", True),
        ("575.51.02", "575.51.03", True),
        ("590", "580.65.06", False),
        ("0", "525.60.13", True),
    ],
)
def test_drivers_are_compared_as_far_as_both_say(driver: str, floor: str, older: bool) -> None:
    assert is_older(driver, floor) is older


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("525.60.13", "12.0"),
        ("525", "12.0"),
        ("535.183.01", "12.2"),
        ("550.54.14", "12.4"),
        ("570", "12.8"),
        ("570.26", "12.8"),
        ("575.51.03", "12.9"),
        ("580.65.06", "13.0"),
        ("595.71.05", "13.2"),
        ("620", "13.4"),
    ],
)
def test_a_driver_reports_the_cuda_that_it_came_with(driver: str, cuda: str) -> None:
    assert driver_cuda(driver) == cuda


def test_a_driver_from_before_the_table_is_refused() -> None:
    with pytest.raises(StackError) as caught:
        driver_cuda("470.57.02")
    assert "470.57.02" in caught.value.message


@pytest.mark.parametrize(
    ("version", "locked", "gpu", "driver", "cuda"),
    [
        # Compiled code: minor-version compatibility.
        ("0.8.5", "12.4", "a100-sxm-80gb", "525.60.13", "12.0"),
        ("0.19.1", "12.8", "l40s-48gb", "525.60.13", "12.0"),
        ("0.19.1", "12.8", "t4-16gb", "525.60.13", "12.0"),
        ("0.19.1", "12.8", "v100-sxm-32gb", "525.60.13", "12.0"),
        ("0.20.2", "13.0", "l40s-48gb", "580.65.06", "13.0"),
        # Attention from PTX: the toolkit's own driver.
        ("0.11.2", "12.8", "rtx-5090-32gb", "570.26", "12.8"),
        ("0.19.1", "12.8", "rtx-5090-32gb", "575.51.03", "12.9"),
        ("0.10.2", "12.8", "b200-180gb", "570.26", "12.8"),
        # FlashInfer, or FlashAttention 3 and 4: the branch that knows the GPU.
        ("0.19.1", "12.8", "b200-180gb", "570", "12.8"),
        ("0.19.1", "12.8", "h100-sxm-80gb", "525.60.13", "12.0"),
        ("0.19.1", "12.8", "h200-141gb", "535", "12.2"),
        ("0.19.1", "12.8", "b300-288gb", "580", "13.0"),
        # A release that nobody has read: what its wheels are compiled with, and the GPU.
        ("0.99.0", "13.2", "h100-sxm-80gb", "580.65.06", "13.0"),
        ("0.99.0", "12.8", "rtx-5090-32gb", "570", "12.8"),
    ],
)
def test_the_floor_of_an_image(version: str, locked: str, gpu: str, driver: str, cuda: str) -> None:
    floor = image_floor(version, locked, catalogue.gpu(gpu))
    assert (floor.driver, floor.cuda) == (driver, cuda)
    assert floor.reason
    assert floor.source


def test_the_newer_one_of_engine_and_runtime_counts() -> None:
    gpu = catalogue.gpu("l40s-48gb")
    assert image_floor("0.19.1", "13.0", gpu).driver == "580.65.06"
    assert "CUDA 12.9" in image_floor("0.19.1", "12.8", gpu).reason


@pytest.mark.parametrize("gpu", catalogue.gpus(), ids=str)
@pytest.mark.parametrize("version", ["0.8.0", "0.10.2", "0.13.0", "0.19.1", "0.20.0", "0.33.0"])
def test_a_floor_is_one_that_no_rule_refuses(version: str, gpu: str) -> None:
    target = {"platform": "linux/amd64", "gpu": gpu}
    stack = {**DEFAULTS, "target": target, "engine": {"name": "vllm", "version": version}}
    plain = Subject(from_canonical(stack))
    floor = floor_of(plain)
    assert floor is not None
    least = plain.after((Change("target.driver", f">={floor.driver}"),))
    families = ("driver-floor", "driver-ptx", "driver-gpu", "driver-range")
    refused = [f.rule for f in findings(least) if f.severity == "error" and f.rule in families]
    assert refused == []
    below = plain.after((Change("target.driver", f">={branch_of(floor.driver) - 1}"),))
    assert {f.rule for f in findings(below) if f.severity == "error"} & set(families)
