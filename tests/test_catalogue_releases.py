"""Releases of the engine and of torch, and what is known against them."""

import datetime
import re

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder import catalogue
from builder.catalogue import code, drivers, releases
from builder.catalogue.releases import Release, TorchRelease
from builder.errors import StackError

ALL = releases.releases()


def test_release_is_read_whole() -> None:
    found = releases.release("0.20.2")
    assert (found.date, found.python, found.torch) == (
        datetime.date(2026, 5, 10),
        "<3.15,>=3.10",
        "2.11.0",
    )
    assert (found.cuda, found.glibc, found.ptx) == ("13.0", "2.35", ("80",))
    assert " ".join(found.architectures) == "75 80 86 89 90 90a 100 100f 120 120f"
    assert found.wheels[0].file == "vllm-0.20.2-cp38-abi3-manylinux_2_35_x86_64.whl"


@pytest.mark.parametrize(
    ("version", "torch", "cuda", "torch_cuda"),
    [
        ("0.8.5", "2.6.0", "12.4", "12.4"),
        ("0.9.2", "2.7.0", "12.8", "12.6"),
        ("0.10.2", "2.8.0", "12.8", "12.8"),
        ("0.12.0", "2.9.0", "12.9", "12.8"),
        ("0.19.1", "2.10.0", "12.9", "12.8"),
        ("0.20.0", "2.11.0", "13.0", "13.0"),
        ("0.27.0", "2.13.0", "13.0", "13.0"),
        ("0.33.0", "2.14.0", "13.0", "13.0"),
    ],
)
def test_release_has_its_torch_and_both_their_cudas(
    version: str, torch: str, cuda: str, torch_cuda: str
) -> None:
    found = releases.release(version)
    assert (found.torch, found.cuda) == (torch, cuda)
    assert releases.torch_release(found.torch).cuda == torch_cuda


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("0.8.5", "70 86 90a", "100 120"),
        ("0.9.1", "100a", "120 86"),
        ("0.9.2", "120 120a", "120f"),
        ("0.19.1", "70 100a 120a", "86 100f"),
        ("0.20.0", "86 100f 120f", "70 100a"),
    ],
)
def test_compiled_architectures(version: str, has: str, lacks: str) -> None:
    found = set(releases.release(version).architectures)
    assert set(has.split()) <= found
    assert not set(lacks.split()) & found


def test_a_stub_for_the_oldest_gpu_of_the_compiler_is_no_code() -> None:
    for release in ALL.values():
        assert "52" not in release.architectures
        assert not {"52", "75"} & set(release.arm64)  # no arm64 wheel has a kernel for 7.5


@pytest.mark.parametrize("release", ALL.values(), ids=lambda release: release.version)
def test_release_refers_to_what_the_catalogue_has(release: Release) -> None:
    assert release.torch in releases.torch_releases()
    assert drivers.full_driver(release.cuda)
    assert release.cuda in release.builds
    assert SpecifierSet(release.python).contains("3.12")
    known = {row.sm for row in catalogue.architectures().values()}
    for name in (*release.architectures, *release.arm64, *release.ptx):
        assert name.rstrip("af") in known
    assert bool(release.arm64) == any("aarch64" in wheel.file for wheel in release.wheels)
    for wheel in release.wheels:
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
        assert wheel.file.startswith(f"vllm-{release.version}-")


@pytest.mark.parametrize(
    ("version", "capability", "engine", "torch"),
    [
        ("0.8.5", "7.0", "own", "own"),
        ("0.8.5", "10.0", "none", "none"),
        ("0.9.2", "8.6", "minor", "own"),
        ("0.9.2", "10.0", "own", "none"),
        ("0.10.2", "12.0", "own", "own"),
        ("0.19.1", "7.0", "own", "own"),
        ("0.19.1", "10.3", "minor", "minor"),
        ("0.20.0", "7.0", "none", "none"),
        ("0.20.2", "8.9", "own", "minor"),
        ("0.20.2", "10.3", "family", "minor"),
        ("0.20.2", "12.1", "family", "minor"),
    ],
)
def test_code_that_a_gpu_runs(version: str, capability: str, engine: str, torch: str) -> None:
    found = releases.release(version)
    assert releases.code(found.architectures, capability) == engine
    own = releases.torch_release(found.torch)
    assert releases.code(own.architectures, capability) == torch


@pytest.mark.parametrize(
    ("compiled", "capability", "code"),
    [
        (["90a"], "9.0", "own"),
        (["100a"], "10.3", "none"),
        (["100f"], "10.3", "family"),
        (["100", "100f"], "10.3", "family"),
        (["100f", "100"], "10.3", "family"),
        (["103f"], "10.0", "none"),
        (["86"], "8.0", "none"),
        (["80"], "8.6", "minor"),
        (["80"], "9.0", "none"),
        ([], "9.0", "none"),
    ],
)
def test_letters_say_where_code_runs(compiled: list[str], capability: str, code: str) -> None:
    assert releases.code(compiled, capability) == code


@pytest.mark.parametrize(
    ("version", "python", "has"),
    [
        ("0.19.1", "3.12", None),
        ("0.20.2", "3.12", True),
        ("0.20.2", "3.11", False),
        ("0.21.0", "3.11", True),
        ("0.33.0", "3.11", True),
    ],
)
def test_deep_gemm_is_there_for_some_pythons(version: str, python: str, has: bool | None) -> None:
    assert releases.has_deep_gemm(version, python) is has


@pytest.mark.parametrize(
    ("version", "kernels", "cubin", "builds"),
    [
        ("0.11.0", None, None, "12.6 12.8 12.9"),
        ("0.11.1", "0.5.2", None, "12.8 12.9 13.0"),
        ("0.20.2", "0.6.8.post1", "0.6.8.post1", "12.9 13.0"),
        ("0.26.0", "0.6.14", None, "12.9 13.0"),
        ("0.33.0", "0.7.2.post1", None, "13.0"),
    ],
)
def test_kernels_and_builds_of_a_release(
    version: str, kernels: str | None, cubin: str | None, builds: str
) -> None:
    found = releases.release(version)
    assert (found.flashinfer, found.flashinfer_cubin) == (kernels, cubin)
    assert found.builds == tuple(builds.split())


def test_torch_refers_to_what_the_catalogue_has() -> None:
    known = {row.sm for row in catalogue.architectures().values()} | {"50", "60"}
    for row in releases.torch_releases().values():
        assert {*row.architectures, *row.arm64} <= known
        assert (row.cuda_arm64 is None) == (not row.arm64)
        assert row.cuda in row.builds
        assert drivers.full_driver(row.cuda)
        for suite in ("bookworm", "trixie"):
            tag = "-cp" + catalogue.debian(suite).python.replace(".", "") + "-"
            assert any(tag in wheel.file and "x86_64" in wheel.file for wheel in row.wheels)


def test_releases_stand_in_order() -> None:
    for versions in (list(ALL), list(releases.torch_releases())):
        assert versions == sorted(versions, key=Version)
    assert next(iter(ALL)) == "0.8.0"
    assert len(ALL) >= 50


def test_wheel_is_known_by_its_digest() -> None:
    release = releases.release("0.33.0")
    own = {wheel.file.rpartition("_2_28_")[2]: wheel.sha256 for wheel in release.wheels}
    assert _compiled_for(own["x86_64.whl"]) == release.architectures
    assert _compiled_for(own["aarch64.whl"]) == release.arm64
    torch = releases.torch_release("2.11.0+cu130")
    assert _compiled_for(torch.wheels[0].sha256) == torch.architectures
    assert code.known("0" * 64) is None


def _compiled_for(sha256: str) -> tuple[str, ...]:
    known = code.known(sha256)
    assert known is not None
    return known.architectures


def test_no_digest_stands_twice() -> None:
    rows: list[Release | TorchRelease] = [*ALL.values(), *releases.torch_releases().values()]
    found = [wheel.sha256 for row in rows for wheel in row.wheels]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        ("0.20.3", "known: 0.20.2, 0.21.0"),
        ("0.7.3", "known: 0.8.0"),
        ("0.99.0", "known: 0.33.0"),
        ("0.20.2rc1", "known: 0.20.1, 0.20.2"),
    ],
)
def test_unknown_release_comes_with_its_neighbours(version: str, hint: str) -> None:
    with pytest.raises(StackError) as caught:
        releases.release(version)
    assert (caught.value.message, caught.value.hint) == (
        f"unknown release of vllm `{version}`",
        hint,
    )


def test_what_is_no_version_comes_with_those_that_look_alike() -> None:
    with pytest.raises(StackError, match="unknown release of torch `nightly`"):
        releases.torch_release("nightly")


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        ("0.8.4", {"CVE-2025-32444"}, {"CVE-2026-56340"}),
        ("0.14.0", {"CVE-2026-22778"}, {"CVE-2025-62426"}),
        ("0.17.1", {"CVE-2026-27893"}, {"CVE-2026-22778"}),
        ("0.20.2", {"CVE-2026-47155", "CVE-2026-114053", "PYSEC-2026-4349"}, {"CVE-2026-27893"}),
        ("0.33.0", set(), {"CVE-2026-115911", "CVE-2026-114053"}),
    ],
)
def test_advisories_that_concern_a_release(version: str, has: set[str], lacks: set[str]) -> None:
    found = {row.id for row in releases.concerning(version)}
    assert has <= found
    assert not lacks & found


def test_advisory_names_are_used_once_and_their_fixes_are_releases() -> None:
    names = [name for row in releases.advisories() for name in (row.id, *row.aliases)]
    assert len(set(names)) == len(names)
    for row in releases.advisories():
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[0-9a-z-]+", row.id)
        assert row.fixed in ALL
        assert Version(row.introduced) < Version(row.fixed or "999")
