"""Facts as data: read into types, complete, and found under the names that people write."""

import re
from collections.abc import Callable

import pytest

from builder import catalogue
from builder.catalogue import Gpu
from builder.errors import StackError
from builder.units import MIB


def test_engine_says_what_it_needs() -> None:
    engine = catalogue.engine("vllm")
    assert (engine.name, engine.distribution, engine.accelerator) == ("vllm", "vllm", "cuda")
    assert "python3-dev" in engine.debian
    assert engine.find_links == ()
    assert "/v1/completions" in engine.routes


def test_every_engine_has_a_known_accelerator() -> None:
    assert {engine.accelerator for engine in catalogue.engines().values()} == {"cuda", "cpu"}


@pytest.mark.parametrize(
    ("name", "python", "glibc"), [("bookworm", "3.11", "2.36"), ("trixie", "3.13", "2.41")]
)
def test_debian_release_decides_python_and_glibc(name: str, python: str, glibc: str) -> None:
    release = catalogue.debian(name)
    assert (release.name, release.python, release.glibc) == (name, python, glibc)


def test_packages_without_scripts_are_no_release() -> None:
    with pytest.raises(StackError, match="unknown Debian release `without-scripts`"):
        catalogue.debian("without-scripts")


def test_skipped_packages_are_those_of_the_table() -> None:
    assert "perl-base" in catalogue.debian("bookworm").skip
    assert catalogue.debian("bookworm").skip == catalogue.debian("trixie").skip


def test_gpu_is_read_whole() -> None:
    assert catalogue.gpu("h100-sxm-80gb") == Gpu(
        name="h100-sxm-80gb",
        title="NVIDIA H100 SXM5 80 GB",
        aliases=("H100", "H100 80GB", "H100 SXM", "NVIDIA H100 80GB HBM3"),
        compute_capability="9.0",
        memory_bytes=81559 * MIB,
        visible_bytes=85_029_615_043,
        oldest_driver=520,
        arch="amd64",
        verified=True,
        source="CC; AIC systems/h100_sxm.yaml; IDX 71609078484; total LLMD; "
        "driver: R525 with CUDA 12",
    )


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_gpu_row_is_plausible(gpu: Gpu) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", gpu.name)
    assert re.fullmatch(r"[0-9]+\.[0-9]", gpu.compute_capability)
    assert float(gpu.compute_capability) >= 7.5
    assert gpu.oldest_driver >= 410
    assert gpu.arch in {"amd64", "arm64"}
    assert gpu.source
    assert gpu.visible_bytes is None or gpu.visible_bytes < gpu.memory_bytes


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_gpu_memory_is_near_the_number_in_its_name(gpu: Gpu) -> None:
    nominal = int(gpu.name.rpartition("-")[2].removesuffix("gb"))
    assert 0.85 * nominal <= gpu.memory_bytes / 10**9 <= 1.08 * nominal


def test_what_was_not_seen_is_marked() -> None:
    doubtful = {gpu.name for gpu in catalogue.gpus().values() if not gpu.verified}
    assert doubtful == {"rtx-3060-12gb", "b100-192gb", "gb10-128gb"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("4090", ("rtx-4090-24gb",)),
        ("rtx4090", ("rtx-4090-24gb",)),
        ("RTX_4090", ("rtx-4090-24gb",)),
        ("NVIDIA GeForce RTX 4090", ("rtx-4090-24gb",)),
        ("Tesla T4", ("t4-16gb",)),
        ("h100", ("h100-sxm-80gb", "h100-pcie-80gb", "h100-nvl-94gb")),
        ("H100-NVL", ("h100-nvl-94gb",)),
        ("NVIDIA H100 80GB HBM3", ("h100-sxm-80gb",)),
        ("h100-smx-80gb", ("h100-sxm-80gb",)),
        ("h200", ("h200-141gb",)),
        ("b200", ("b200-180gb",)),
        ("mi300x", ()),
        ("x", ()),
        ("", ()),
    ],
)
def test_gpu_is_guessed_from_what_people_write(written: str, meant: tuple[str, ...]) -> None:
    assert catalogue.similar_gpus(written) == meant


@pytest.mark.parametrize(
    ("ask", "message", "hint"),
    [
        (catalogue.gpu, "unknown GPU `l40`", "known: l40s-48gb"),
        (catalogue.engine, "unknown engine `l40`", "known: vllm, vllm-cpu"),
        (catalogue.debian, "unknown Debian release `l40`", "known: bookworm, trixie"),
    ],
    ids=["gpu", "engine", "debian"],
)
def test_unknown_name_comes_with_known_ones(
    ask: Callable[[str], object], message: str, hint: str
) -> None:
    with pytest.raises(StackError) as caught:
        ask("l40")
    assert (caught.value.message, caught.value.hint) == (message, hint)
