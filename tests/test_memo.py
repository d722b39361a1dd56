"""The memory of weight layers: it knows, or it does not; it is never wrong."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.digest import Digest, of_bytes
from builder.oci.memo import WeightMemo
from builder.oci.store import Store

ONE = [("a" * 64, 5)]
TWO = [("a" * 64, 5), ("b" * 64, 1 << 40)]
LAYER, OTHER = of_bytes(b"layer"), of_bytes(b"other")


@pytest.fixture
def memo(tmp_path: Path) -> WeightMemo:
    return WeightMemo(tmp_path, 1)


def record(root: Path) -> Path:
    (path,) = (root / "weights").iterdir()
    return path


def test_nothing_is_known_at_first(memo: WeightMemo) -> None:
    assert memo.recall(ONE) is None


def test_what_was_remembered_is_recalled_by_every_later_build(
    tmp_path: Path, memo: WeightMemo
) -> None:
    memo.remember(ONE, LAYER)
    memo.remember(TWO, OTHER)
    later = WeightMemo(tmp_path, 1)
    assert (later.recall(ONE), later.recall(tuple(TWO))) == (LAYER, OTHER)


def test_order_size_and_packer_are_part_of_what_is_known(tmp_path: Path, memo: WeightMemo) -> None:
    memo.remember(TWO, LAYER)
    assert memo.recall(TWO[::-1]) is None
    assert memo.recall([TWO[0], (TWO[1][0], 7)]) is None
    assert memo.recall(TWO[:1]) is None
    assert WeightMemo(tmp_path, 2).recall(TWO) is None


def test_a_record_is_named_after_its_inputs_and_reads_as_json(
    tmp_path: Path, memo: WeightMemo
) -> None:
    memo.remember(ONE, LAYER)
    path = record(tmp_path)
    value = json.loads(path.read_bytes())
    assert value.pop("check") == of_bytes(json.dumps(value, separators=(",", ":")).encode())
    assert value == {"files": [["a" * 64, 5]], "layer": LAYER, "packer": 1}
    inputs = b'{"files":[["' + b"a" * 64 + b'",5]],"packer":1}'
    assert f"sha256:{path.stem}" == of_bytes(inputs)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-9],
    "zeros": lambda data: bytes(len(data)),
    "not a mapping": lambda data: b"[]",
    "no digest": lambda data: data.replace(b"sha256:", b"sha1:"),
    "another digest": lambda data: data.replace(LAYER.encode(), OTHER.encode()),
    "other files": lambda data: data.replace(b"a" * 64, b"b" * 64),
    "another type": lambda data: b'{"layer": 7}',
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_record_is_no_knowledge_and_is_written_anew(
    tmp_path: Path, memo: WeightMemo, name: str
) -> None:
    memo.remember(ONE, LAYER)
    path = record(tmp_path)
    path.write_bytes(DAMAGE[name](path.read_bytes()))
    assert memo.recall(ONE) is None
    memo.remember(ONE, LAYER)
    assert memo.recall(ONE) == LAYER


def test_a_cache_that_cannot_be_written_forgets_and_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("in the way")
    memo = WeightMemo(tmp_path, 1)
    memo.remember(ONE, LAYER)
    assert memo.recall(ONE) is None


def test_many_builds_at_once_agree(tmp_path: Path) -> None:
    def build(_: int) -> Digest | None:
        memo = WeightMemo(tmp_path, 1)
        memo.remember(ONE, LAYER)
        return memo.recall(ONE)

    with ThreadPoolExecutor(8) as workers:
        assert set(workers.map(build, range(32))) == {LAYER}
    assert [path.suffix for path in (tmp_path / "weights").iterdir()] == [".json"]


def test_sweeping_leaves_what_is_known(tmp_path: Path, memo: WeightMemo) -> None:
    memo.remember(ONE, LAYER)
    left = tmp_path / "weights" / ".tmp-left"
    left.touch()
    os.utime(left, (0, 0))
    Store(tmp_path).sweep()
    assert not left.exists()
    assert memo.recall(ONE) == LAYER
