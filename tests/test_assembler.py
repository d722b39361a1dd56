"""From a recipe and files to layers: every byte checked, known layers looked up."""

import hashlib
from pathlib import Path

import pytest

from builder.assemble import Assembler
from builder.digest import of_bytes
from builder.errors import IntegrityError
from builder.lock import ModelFile, Wheel
from builder.oci.store import Store
from builder.oci.tar import END
from builder.oci.weights import frame
from builder.recipe import Part, Recipe, WeightsPart, WheelsPart
from tests import wheel_maker

SITE = "opt/venv/lib/python3.11/site-packages"


PREFIX = WheelsPart((), "3.11.2", has_prefix=True, title="0 wheels")


def recipe(*parts: Part) -> Recipe:
    return Recipe("demo", "linux/amd64", 0, parts, {})


def weight(folder: Path, name: str, content: bytes) -> tuple[ModelFile, Path]:
    (folder / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return ModelFile(path=name, size=len(content), sha256=sha256), folder / name


def framed(file: ModelFile, content: bytes, offset: int) -> bytes:
    before, after = frame(file.sha256, file.size, offset)
    return before + content + after


def packed(made: list[tuple[ModelFile, Path]]) -> bytes:
    data = b""
    for file, path in made:
        data += framed(file, path.read_bytes(), len(data))
    return data + END


@pytest.mark.parametrize("count", [1, 3])
def test_weights_get_the_digest_of_their_bytes(tmp_path: Path, count: int) -> None:
    made = [weight(tmp_path, f"{n}.safetensors", b"%d" % n * 600) for n in range(count)]
    part = WeightsPart(tuple(file for file, _ in made), "weights")
    places = {file.sha256: path for file, path in made}
    _, layer = Assembler(recipe(PREFIX, part), Store(tmp_path / "store"), "zstd").layers({}, places)
    expected = packed(made)
    assert layer.digest == of_bytes(expected)
    assert b"".join(layer.chunks()) == expected


@pytest.mark.parametrize("count", [1, 3])
def test_weights_that_are_not_the_locks_are_refused(tmp_path: Path, count: int) -> None:
    made = [weight(tmp_path, f"{n}.safetensors", b"%d" % n * 600) for n in range(count)]
    file, path = made[-1]
    path.write_bytes(b"x" * file.size)
    part = WeightsPart(tuple(file for file, _ in made), "weights")
    places = {file.sha256: path for file, path in made}
    with pytest.raises(IntegrityError) as caught:
        Assembler(recipe(PREFIX, part), Store(tmp_path / "store"), "zstd").layers({}, places)
    actual = hashlib.sha256(b"x" * file.size).hexdigest()
    assert caught.value.message == f"{path}: expected sha256:{file.sha256}, got sha256:{actual}"


def test_weights_whose_layer_is_known_are_neither_needed_nor_read(tmp_path: Path) -> None:
    file, path = weight(tmp_path, "w.safetensors", b"w" * 600)
    store, parts = Store(tmp_path / "store"), (PREFIX, WeightsPart((file,), "w"))
    places = {file.sha256: path}
    assert Assembler(recipe(*parts), store, "zstd").needs() == {file.sha256}
    (_, first) = Assembler(recipe(*parts), store, "zstd").layers({}, places)
    path.unlink()
    again = Assembler(recipe(*parts), store, "zstd")
    assert again.needs() == frozenset()
    assert again.layers({}, places)[1] == first
    locked = file.model_copy(update={"layer": first.digest})
    elsewhere = recipe(PREFIX, WeightsPart((locked,), "w"))
    other = Assembler(elsewhere, Store(tmp_path / "another machine"), "zstd")
    assert other.needs() == frozenset()
    assert other.layers({}, places)[1] == first


def wheels_recipe(folder: Path) -> tuple[Recipe, dict[str, Path], list[Wheel]]:
    """`aaa` has a layer of its own and so is written after `zzz` was; the lock says `zzz` wins."""
    made = [
        wheel_maker.write(folder, f"{name}-1-py3-none-any.whl", {"shared.py": name})
        for name in ("aaa", "mmm", "zzz")
    ]
    parts = (
        WheelsPart((made[2],), "3.11.2", has_prefix=False, title="zzz"),
        WheelsPart((made[0], made[1]), "3.11.2", has_prefix=True, title="rest"),
    )
    return recipe(*parts), {wheel.sha256: folder / wheel.file for wheel in made}, made


def test_the_locks_order_decides_across_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, places, _ = wheels_recipe(tmp_path)
    big, rest = Assembler(plan, Store(tmp_path / "store"), "none").layers(places, {})
    path = f"{SITE}/shared.py".encode()
    assert path in b"".join(big.chunks())
    assert b"shared.py\0" not in b"".join(rest.chunks())
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    replaced = (
        "warning: /opt/venv/lib/python3.11/site-packages/shared.py: {} replaces the file of {}"
    )
    names = [f"{name}-1-py3-none-any.whl" for name in ("aaa", "mmm", "zzz")]
    assert warnings == [
        replaced.format(names[1], names[0]),
        replaced.format(names[2], names[1]),
    ]


def test_known_layers_need_no_files(tmp_path: Path) -> None:
    plan, places, made = wheels_recipe(tmp_path)
    store = Store(tmp_path / "store")
    assert Assembler(plan, store, "zstd").needs() == {wheel.sha256 for wheel in made}
    first = Assembler(plan, store, "zstd").layers(places, {})
    assert Assembler(plan, store, "zstd").needs() == frozenset()
    assert Assembler(plan, store, "zstd").layers({}, {}) == first
    assert Assembler(plan, store, "gzip").needs() == {wheel.sha256 for wheel in made}


def test_a_wheel_that_changed_in_the_cache_is_refused(tmp_path: Path) -> None:
    plan, places, made = wheels_recipe(tmp_path)
    other = wheel_maker.write(tmp_path / "other", made[0].file, {"shared.py": "evil"})
    places[made[0].sha256].write_bytes((tmp_path / "other" / other.file).read_bytes())
    with pytest.raises(IntegrityError, match=f"expected sha256:{made[0].sha256}"):
        Assembler(plan, Store(tmp_path / "store"), "zstd").layers(places, {})
