"""Which files share a layer: known answers, what must hold for any sizes, what is documented."""

import hashlib
import random
import re
from pathlib import Path
from typing import Any, cast

import pytest

from builder.digest import Digest, from_hex, of_bytes
from builder.oci.packing import MAX_WEIGHT_LAYERS, SMALL_BYTES, pack, pack_files
from builder.oci.weights import WeightFile, frame, weight_layer
from builder.units import GIB, MIB
from tests.lock_maker import model_file

SHARD = 4_700_000_000
LARGE, SMALL = SMALL_BYTES, SMALL_BYTES - 1


def lengths(sizes: list[int]) -> list[int]:
    return [len(group) for group in pack(sizes)]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], ()),
        ([5], ((0,),)),
        ([0, 0], ((0, 1),)),
        ([LARGE, LARGE], ((0,), (1,))),
        ([SMALL, LARGE, SMALL, LARGE, SMALL], ((0, 2, 4), (1,), (3,))),
        ([LARGE, SMALL, LARGE, SMALL], ((0,), (1, 3), (2,))),
    ],
    ids=["none", "one", "empty files", "large apart", "small together", "by their first file"],
)
def test_few_files(sizes: list[int], groups: tuple[tuple[int, ...], ...]) -> None:
    assert pack(sizes) == groups


@pytest.mark.parametrize(
    ("count", "layers", "longest"),
    [(30, 30, 1), (82, 82, 1), (83, 82, 2), (163, 82, 2), (164, 82, 2), (999, 82, 13)],
)
def test_shards(count: int, layers: int, longest: int) -> None:
    found = lengths([SHARD] * count)
    assert (len(found), max(found)) == (layers, longest)
    assert longest - min(found) <= 1


def test_small_files_fill_layers_of_a_gibibyte() -> None:
    assert lengths([8 * MIB] * 300) == [128, 128, 44]
    assert lengths([10_000] * 10_000) == [10_000]


def test_small_files_take_no_more_than_half_of_the_layers() -> None:
    sizes = [8 * MIB] * 10_000 + [SHARD] * 100
    groups = pack(sizes)
    shared = [group for group in groups if group[0] < 10_000]
    assert [len(group) for group in shared] == [256] * 39 + [16]
    assert len(groups) == MAX_WEIGHT_LAYERS
    assert all(sum(sizes[n] for n in group) <= 2 * GIB for group in shared)


def test_what_holds_for_any_sizes() -> None:
    dice = random.Random(4)  # noqa: S311 - the same sizes every time
    for _ in range(200):
        count = dice.choice((1, 7, 79, 80, 81, 163, 1000))
        sizes = [int(10 ** dice.uniform(0, 10.5)) for _ in range(count)]
        groups = pack(sizes)
        assert sorted(number for group in groups for number in group) == list(range(count))
        assert len(groups) <= MAX_WEIGHT_LAYERS
        assert list(groups) == sorted(groups)
        assert all(list(group) == sorted(group) for group in groups)
        mixed = [group for group in groups if len({sizes[n] < SMALL_BYTES for n in group}) > 1]
        assert not mixed


def test_a_file_of_another_size_moves_no_other_while_layers_last() -> None:
    sizes = [SHARD] * 40
    assert pack(sizes) == pack([*sizes[:-1], LARGE])


def test_the_same_content_is_taken_once() -> None:
    names = ("a", "b", "c")
    files = [model_file(name, LARGE, content="bb" if name == "b" else "same") for name in names]
    assert pack_files(files) == ((files[0],), (files[1],))
    assert pack_files([]) == ()


# --- docs/layers.md ------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[1] / "docs" / "layers.md").read_text("utf-8")
NOTHING = hashlib.sha256(b"").hexdigest()


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What the program in the document defines."""
    program = DOCUMENT.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - our own document
    return names


def digest(contents: list[bytes]) -> Digest:
    """Digest of the layer of files, as builder makes it; the files are nowhere."""
    hashed = [(hashlib.sha256(content).hexdigest(), content) for content in contents]
    files = [WeightFile(Path(sha256), sha256, len(content)) for sha256, content in hashed]
    of_file = dict(hashed)
    state = hashlib.sha256()
    for piece in weight_layer(files, of_bytes(b""), "layer").pieces:
        state.update(of_file[piece.name] if isinstance(piece, Path) else cast("bytes", piece))
    return from_hex(state.hexdigest())


def test_documented_layers_are_the_ones_that_are_made() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| `(\w+)` \| `(sha256:\w+)` \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == 6
    for sizes, first, layer in rows:
        contents = [bytes(int(size)) for size in sizes.split(",")]
        assert hashlib.sha256(contents[0]).hexdigest() == first
        assert digest(contents) == layer


def test_documented_headers_are_the_ones_that_are_made() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == 3
    for size, expected in rows:
        before, _ = frame(NOTHING, int(size))
        assert len(before) == 4096
        assert hashlib.sha256(before).hexdigest() == expected


def test_the_documented_program_makes_the_same_layers(documented: dict[str, Any]) -> None:
    dice = random.Random(7)  # noqa: S311 - the same files every time
    for count in (1, 1, 2, 5, 20):
        contents = [
            dice.randbytes(dice.choice((0, 1, 511, 9000, MIB, MIB + 7))) for _ in range(count)
        ]
        assert documented["layer_digest"](contents) == digest(contents)


@pytest.mark.parametrize("size", [0, MIB - 1, MIB, 8**11 - 1, 8**11, 10**12])
@pytest.mark.parametrize("offset", [0, 512, 4608, 3 * 4096, 8**12 + 1024])
def test_the_documented_program_makes_the_same_headers(
    documented: dict[str, Any], size: int, offset: int
) -> None:
    before, _ = frame(NOTHING, size, offset)
    assert documented["header"](NOTHING, size, offset) == before
    assert size < MIB or (offset + len(before)) % 4096 == 0
