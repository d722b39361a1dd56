"""Arguments of `vllm serve`, release by release."""

import pytest

from builder.catalogue import flags, releases


@pytest.mark.parametrize(
    ("name", "version", "offered"),
    [
        ("--swap-space", "0.17.1", True),
        ("--swap-space", "0.18.0", False),
        ("--task", "0.12.0", True),
        ("--task", "0.13.0", False),
        ("--device", "0.10.0", False),
        ("--disable-log-requests", "0.16.0", True),
        ("--disable-log-requests", "0.17.0", False),
        ("--guided-decoding-backend", "0.11.0", False),
        ("--kv-cache-memory-bytes", "0.10.1.1", False),
        ("--kv-cache-memory-bytes", "0.10.2", True),
        ("--gpu-memory-utilization", "0.33.0", True),
        ("--enable-prefix-caching", "0.8.0", True),
    ],
)
def test_argument_of_a_release(name: str, version: str, offered: bool) -> None:
    assert flags.flags()[name].offered(version) is offered


def test_what_is_gone_says_what_took_its_place() -> None:
    assert flags.flags()["--task"].instead == "--runner and --convert"
    assert [row.name for row in flags.nevers()] == ["--enable-metrics"]


@pytest.mark.parametrize(
    ("name", "version", "offered"),
    [
        ("VLLM_USE_V1", "0.11.0", True),
        ("VLLM_USE_V1", "0.11.1", False),
        ("VLLM_ATTENTION_BACKEND", "0.15.0", False),
        ("VLLM_ENABLE_CUDA_COMPATIBILITY", "0.17.0", True),
        ("VLLM_ENABLE_CUDA_COMPATIBILITY", "0.16.0", False),
    ],
)
def test_variable_of_a_release(name: str, version: str, offered: bool) -> None:
    assert flags.variables()[name].offered(version) is offered


def test_values_that_an_argument_takes() -> None:
    assert "fp8" not in flags.choices("--dtype")
    assert "half" in flags.choices("--dtype")
    assert flags.choices("--port") == ()


def test_spans_are_of_releases_in_order() -> None:
    order = list(releases.releases())
    for flag in flags.flags().values():
        assert flag.name.startswith("--")
        known = [version for span in flag.present for version in span if version in order]
        assert known == sorted(known, key=order.index)
        assert all(len(span) in {1, 2} for span in flag.present)


def test_default_that_changed() -> None:
    old, new = (flags.default("gpu_memory_utilization", v) for v in ("0.19.1", "0.20.0"))
    assert old
    assert new
    assert (old.value, new.value) == ("0.9", "0.92")
    assert flags.default("enable_prefix_caching", "0.11.2") is None
