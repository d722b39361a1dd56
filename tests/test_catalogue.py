"""Facts as data: read into types, complete, and found under the names that people write."""

import re
from collections.abc import Callable

import pytest

from builder import catalogue
from builder.catalogue import Gpu
from builder.errors import StackError
from builder.units import GIB, MIB


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
        aliases=(
            "H100", "H100 80GB", "H100 SXM", "NVIDIA H100 80GB HBM3", "H100 SXM5",
            "H100 SXM5 80GB", "H100 SXM 80GB",
        ),
        compute_capability="9.0",
        kind="datacentre",
        sold_bytes=80 * 10**9,
        memory_bytes=81559 * MIB,
        visible_bytes=85_029_615_043,
        bandwidth_bytes=3350 * 10**9,
        link="nvlink",
        link_bytes=450 * 10**9,
        oldest_driver=520,
        arch="amd64",
        source="CC; AIC systems/h100_sxm.yaml; IDX 71609078484; total LLMD; "
        "driver: R525 with CUDA 12",
    )  # fmt: skip


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_gpu_row_is_plausible(gpu: Gpu) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", gpu.name)
    assert gpu.compute_capability in catalogue.architectures()
    assert gpu.oldest_driver >= 384
    assert gpu.arch in {"amd64", "arm64"}
    assert gpu.source
    assert gpu.visible_bytes is None or gpu.visible_bytes < gpu.memory_bytes
    assert (gpu.link == "none") == (gpu.link_bytes == 0)
    assert 200 <= gpu.bandwidth_bytes / 10**9 <= 10_000


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_gpu_memory_is_near_the_number_in_its_name(gpu: Gpu) -> None:
    nominal = int(gpu.name.rpartition("-")[2].removesuffix("gb"))
    assert gpu.sold_bytes == nominal * 10**9
    assert 0.85 * nominal <= gpu.memory_bytes / 10**9 <= 1.08 * nominal


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_usable_memory_is_never_more_than_was_seen(gpu: Gpu) -> None:
    estimate = gpu.memory_bytes - round(0.5 * GIB) - round(0.0032 * gpu.memory_bytes)
    if gpu.visible_bytes is None:
        assert gpu.usable_bytes == estimate
    else:
        assert gpu.usable_bytes == gpu.visible_bytes
        assert gpu.unified or 0 <= (gpu.visible_bytes - estimate) / GIB < 0.5


def test_every_architecture_that_is_asked_for_has_a_gpu() -> None:
    covered = {gpu.architecture.sm for gpu in catalogue.gpus().values()}
    assert covered >= {"75", "80", "86", "89", "90", "100", "103", "120", "121"}


def test_what_was_not_seen_is_marked() -> None:
    doubtful = {gpu.name for gpu in catalogue.gpus().values() if not gpu.verified}
    assert {"rtx-3060-12gb", "b100-192gb", "gb10-128gb"} <= doubtful
    assert not {"t4-16gb", "a10-24gb", "l40s-48gb", "h100-sxm-80gb", "b200-180gb"} & doubtful


@pytest.mark.parametrize(
    ("capability", "bf16", "fp8", "fp4"),
    [
        ("7.0", False, False, False),
        ("7.5", False, False, False),
        ("8.0", True, False, False),
        ("8.6", True, False, False),
        ("8.9", True, True, False),
        ("9.0", True, True, False),
        ("10.0", True, True, True),
        ("10.3", True, True, True),
        ("12.0", True, True, True),
        ("12.1", True, True, True),
    ],
)
def test_architecture_says_what_it_multiplies(
    capability: str, bf16: bool, fp8: bool, fp4: bool
) -> None:
    found = catalogue.architecture(capability)
    assert (found.bf16, found.fp8, found.fp4) == (bf16, fp8, fp4)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("4090", ("rtx-4090-24gb",)),
        ("rtx4090", ("rtx-4090-24gb",)),
        ("RTX_4090", ("rtx-4090-24gb",)),
        ("NVIDIA GeForce RTX 4090", ("rtx-4090-24gb",)),
        ("Tesla T4", ("t4-16gb",)),
        ("h100", ("h100-sxm-80gb", "h100-pcie-80gb", "h100-nvl-94gb")),
        ("H100 SXM", ("h100-sxm-80gb",)),
        ("h100-sxm5-80gb", ("h100-sxm-80gb",)),
        ("H100-NVL", ("h100-nvl-94gb",)),
        ("NVIDIA H100 80GB HBM3", ("h100-sxm-80gb",)),
        ("h100-smx-80gb", ("h100-sxm-80gb",)),
        ("h200", ("h200-141gb", "h200-nvl-141gb")),
        ("NVIDIA H200 NVL", ("h200-nvl-141gb",)),
        ("h800", ("h800-sxm-80gb",)),
        ("A100-SXM4-80GB", ("a100-sxm-80gb",)),
        ("L20", ("l20-48gb",)),
        ("RTX PRO 6000 Blackwell Max-Q", ("rtx-pro-6000-96gb",)),
        ("RTX 4000 Ada", ("rtx-4000-ada-20gb",)),
        ("b200", ("b200-180gb",)),
        ("L40S", ("l40s-48gb",)),
        ("rtx-pro-6000", ("rtx-pro-6000-96gb",)),
        ("RTX PRO 6000 Blackwell", ("rtx-pro-6000-96gb",)),
        ("DGX Spark GB10", ("gb10-128gb",)),
        ("spark", ("gb10-128gb",)),
        ("A10G", ("a10g-24gb",)),
        ("A10", ("a10-24gb",)),
        ("V100", ("v100-sxm-16gb", "v100-sxm-32gb")),
        ("mi300x", ()),
        ("x", ()),
        ("", ()),
    ],
)
def test_gpu_is_guessed_from_what_people_write(written: str, meant: tuple[str, ...]) -> None:
    assert catalogue.similar_gpus(written) == meant


@pytest.mark.parametrize("gpu", catalogue.gpus().values(), ids=lambda gpu: gpu.name)
def test_every_alias_leads_to_its_gpu(gpu: Gpu) -> None:
    assert len(set(gpu.aliases)) == len(gpu.aliases)
    for alias in (gpu.name, gpu.title, *gpu.aliases):
        assert gpu.name in catalogue.similar_gpus(alias)


@pytest.mark.parametrize(
    ("ask", "message", "hint"),
    [
        (catalogue.gpu, "unknown GPU `l40`", "known: l40-48gb"),
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
