"""The GPU code of a whole wheel: which objects hold it, which of them decide."""

import hashlib
import io
import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.catalogue import code as catalogue
from builder.catalogue import releases
from builder.pipeline import storing
from builder.sources import cubins
from builder.sources.cubins import CodeMemo, Object
from tests import fatbin_maker as maker
from tests import lock_maker, wheel_maker

NOISE = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(20))


def wheel(members: Mapping[str, bytes]) -> io.BytesIO:
    return io.BytesIO(wheel_maker.archive(members))


def library(*names: str, ptx: str = "") -> bytes:
    """A shared object of one source file."""
    return maker.library(
        maker.container(*map(maker.entry, names), *(maker.ptx(name) for name in ptx.split()))
    )


def read(members: Mapping[str, bytes]) -> tuple[Object, ...]:
    return cubins.read(wheel(members))


def test_objects_that_hold_code_are_named_with_how_often() -> None:
    both = maker.container(maker.entry("90"), maker.entry("80"), maker.ptx("80"))
    found = read(
        {
            "demo/_C.so": maker.library(both, maker.container(maker.entry("100f"))),
            "demo/_A.so": library("90a"),
            "demo/plain.so": maker.elf() + bytes(99),
            "demo/text.py": b"print()" * 20,
            "demo/libdemo.a": b"!<arch>\n" + both,
            "demo/one.o": maker.elf(kind=1) + both,
            "demo/empty": b"",
        }
    )
    assert found == (
        Object("demo/_A.so", 1, {"90a": 1}, {}),
        Object("demo/_C.so", 2, {"80": 1, "90": 1, "100f": 1}, {"80": 1}),
    )
    assert list(found[1].sass) == ["80", "90", "100f"]


def test_cubins_on_their_own_are_one_object() -> None:
    found = read(
        {
            "demo/a/one.cubin": maker.cubin(0x6005A04, note="sm_90a"),
            "demo/b/two.cubin": maker.cubin(0x6006402, note="sm_100f"),
            "demo/b/three.cubin": maker.cubin(0x6006402, note="sm_100f"),
        }
    )
    assert found == (Object("demo/*.cubin", 3, {"90a": 1, "100f": 2}, {}),)


def test_what_only_stubs_are_for_is_not_compiled_for() -> None:
    stub = maker.container(maker.entry("52", maker.CONSTANTS), maker.ptx("52", maker.PTX_CONSTANTS))
    guarded = maker.container(maker.entry("80", maker.CONSTANTS), maker.entry("90"))
    whole = maker.container(maker.entry("80"), maker.entry("90"))
    found = read({"demo.so": maker.library(stub, guarded, whole)})
    # The file whose kernels leave 8.0 out was compiled for it all the same.
    assert found == (Object("demo.so", 2, {"80": 2, "90": 2}, {}),)


def test_only_what_is_wanted_is_read() -> None:
    members = {"a.so": library("80"), "b.so": library("90")}
    found = cubins.read(wheel(members), lambda path: path == "b.so")
    assert [each.path for each in found] == ["b.so"]


@pytest.mark.parametrize("cut", [100, 400])
def test_a_damaged_wheel_cannot_be_read(cut: int) -> None:
    data = wheel({"a.so": library("80") + NOISE}).getvalue()
    damaged = data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :]
    with pytest.raises(cubins.UNREADABLE):
        cubins.read(io.BytesIO(damaged))


def test_memory_does_not_grow_with_an_object(tmp_path: Path) -> None:
    size = 12 << 20
    late = maker.container(maker.entry("90", bytes(size)))
    made = library("80") + bytes(size) + late
    (tmp_path / "big.whl").write_bytes(wheel({"big.so": made}).getvalue())
    tracemalloc.start()
    with (tmp_path / "big.whl").open("rb") as opened:
        (found,) = cubins.read(opened)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.sass == {"80": 1, "90": 1}
    assert peak < 6 << 20


VLLM = "vllm/_C.abi3.so"
STABLE = "vllm/_C_stable_libtorch.abi3.so"
FA2 = "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so"
FA3 = "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"


def obj(path: str, sass: str, ptx: str = "", parts: int = 1) -> Object:
    return Object(path, parts, dict.fromkeys(sass.split(), 1), dict.fromkeys(ptx.split(), 1))


@pytest.mark.parametrize(
    ("name", "objects", "architectures", "ptx"),
    [
        ("vllm", [obj(VLLM, "80 90", "89"), obj(FA2, "80", "80"), obj(FA3, "90a")], "80 90", "80"),
        ("vllm", [obj(STABLE, "75 80"), obj(FA3, "90a")], "75 80", ""),
        ("vllm", [obj(VLLM, "80 110"), obj(STABLE, "80 110f"), obj(FA3, "90a")], "80 110 110f", ""),
        ("torch", [obj("torch/lib/libtorch_cuda_linalg.so", "90")], None, ""),
        ("nvidia-cublas-cu12", [obj("nvidia/cublas/lib/libcublas.so.12", "70")], "70", ""),
        ("nvidia-cublas", [obj("nvidia/cu13/lib/libcublas.so.13", "75")], "75", ""),
        ("triton", [obj("triton/backends/nvidia/lib/cupti/libcupti.so", "50")], None, ""),
        ("unheard-of", [obj("a.so", "90 80"), obj("b.so", "90a", "75")], "80 90 90a", "75"),
        ("unheard-of", [], None, ""),
        ("flashinfer-cubin", [obj("flashinfer_cubin/*.cubin", "100f")], "100f", ""),
    ],
)
def test_the_objects_that_decide(
    name: str, objects: list[Object], architectures: str | None, ptx: str
) -> None:
    found = cubins.decided(name, objects)
    assert found == (None if architectures is None else lock_maker.code(architectures, ptx))


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        (403, {"80": 403, "89": 1, "90": 403, "100a": 56}),
        (534, {"80": 476, "89": 1, "90": 505, "103f": 59}),
        (2, {"80": 2, "90": 2, "100a": 1}),
    ],
)
def test_of_torch_counts_what_most_sources_are_compiled_for(
    parts: int, counts: dict[str, int]
) -> None:
    found = cubins.decided("torch", [Object("torch/lib/libtorch_cuda.so", parts, counts, {})])
    assert found == lock_maker.code("80 90")


OBJECTS = (obj("a.so", "80 90a", "80"), obj("b.so", "100f"))
SHA256 = "ab" * 32


def test_what_was_read_is_remembered(tmp_path: Path) -> None:
    memo = CodeMemo(tmp_path)
    assert memo.recall(SHA256) is None
    memo.remember(SHA256, OBJECTS)
    assert CodeMemo(tmp_path).recall(SHA256) == OBJECTS
    memo.remember("00" * 32, ())
    assert memo.recall("00" * 32) == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record["objects"][0]["sass"].update({"75": 1}),
        lambda record: record.update(reader=0),
        lambda record: record.update(wheel="cd" * 32),
        lambda record: record.update(check="sha256:" + "0" * 64),
        lambda record: record.pop("objects"),
        lambda record: record["objects"][0].update(more=1),
        lambda record: record["objects"].append(None),
    ],
)
def test_a_damaged_record_is_no_knowledge(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    memo = CodeMemo(tmp_path)
    memo.remember(SHA256, OBJECTS)
    (path,) = (tmp_path / "code").iterdir()
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    assert memo.recall(SHA256) is None


def test_a_look_at_the_cache_finds_a_damaged_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    CodeMemo(tmp_path).remember(SHA256, OBJECTS)
    storing.verify_store(is_quick=False, dry_run=False).require_whole()
    (path,) = (tmp_path / "code").iterdir()
    path.write_text(path.read_text().replace('"90a": 1', '"90a": 2'))
    found = storing.verify_store(is_quick=True, dry_run=False)
    assert [damage.item.path for damage in found.damages] == [path]
    assert not path.exists()


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("in the way")
    CodeMemo(tmp_path).remember(SHA256, OBJECTS)
    assert CodeMemo(tmp_path).recall(SHA256) is None


def test_rows_of_the_catalogue_are_of_carriers_and_in_order() -> None:
    rows = catalogue.wheels()
    assert len({row.sha256 for row in rows}) == len(rows)
    assert [row.file for row in rows] == sorted(row.file for row in rows)
    for row in rows:
        name = wheel_maker.name_of(row.file)
        found = catalogue.carrier(name)
        assert found is not None
        assert found.decides
        assert row.architectures == catalogue.ordered(row.architectures)
        assert row.ptx == catalogue.ordered(row.ptx)
        assert catalogue.known(row.sha256) == catalogue.Known(row.architectures, row.ptx)
    needed = {row.name for row in catalogue.carriers().values() if row.needed}
    assert needed == {"vllm", "torch", "nvidia-cublas"}


def test_wheels_of_engines_and_torch_are_known_by_their_own_tables() -> None:
    wheels = releases.release("0.20.2").wheels
    x86 = next(each.sha256 for each in wheels if "x86_64" in each.file)
    known = catalogue.known(x86)
    assert known is not None
    assert " ".join(known.architectures) == "75 80 86 89 90 90a 100 100f 120 120f"
    assert known.ptx == ("80",)
    cpu = releases.torch_release("2.6.0").wheels[2]
    assert "aarch64" in cpu.file
    assert catalogue.known(cpu.sha256) is None
    assert catalogue.carrier("numpy") is None
