"""Layers: one content, one digest, however and wherever it is written."""

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

import pytest
import zstandard

from builder.digest import of_bytes
from builder.errors import HostError, IntegrityError
from builder.oci import layer as layers
from builder.oci.layer import Compression, Layer, LayerSink
from builder.oci.store import Store
from builder.units import MIB

COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
CONTENT = b"".join(hashlib.sha256(b"%d" % n).digest() * 7 for n in range(15_000))
"""3 MB: several blocks for the compressor, neither random nor constant."""
UNPACK: dict[Compression, Callable[[bytes], bytes]] = {
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": gzip.decompress,
    "none": bytes,
}


def packed(compression: Compression, chunks: Iterable[bytes]) -> tuple[Layer, bytes]:
    out = bytearray()
    sink = LayerSink(compression, out.extend)
    for chunk in chunks:
        sink(chunk)
    return sink.finish("title", Path("blob")), bytes(out)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_layer_knows_its_own_digests(compression: Compression) -> None:
    layer, data = packed(compression, [CONTENT])
    assert UNPACK[compression](data) == CONTENT
    suffix = {"zstd": "+zstd", "gzip": "+gzip", "none": ""}[compression]
    assert layer == Layer(
        digest=of_bytes(data),
        size=len(data),
        diff_id=of_bytes(CONTENT),
        media_type=f"application/vnd.oci.image.layer.v1.tar{suffix}",
        title="title",
        pieces=(Path("blob"),),
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_empty_layer_is_a_layer(compression: Compression) -> None:
    layer, data = packed(compression, [])
    assert (UNPACK[compression](data), layer.diff_id) == (b"", of_bytes(b""))


def test_compression_does_not_change_the_diff_id() -> None:
    assert len({packed(compression, [CONTENT])[0].diff_id for compression in COMPRESSIONS}) == 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [997, 2**16, 2**20, 2**21 + 1, len(CONTENT)])
def test_how_the_bytes_arrive_does_not_change_the_digest(
    compression: Compression, size: int
) -> None:
    assert packed(compression, cut(CONTENT, size)) == packed(compression, [CONTENT])


def test_the_number_of_workers_does_not_change_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = set()
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(layers, "_ZSTD_THREADS", count)
        found.add(packed("zstd", [CONTENT])[0].digest)
    assert len(found) == 1


def test_gzip_holds_no_name_and_no_time() -> None:
    assert packed("gzip", [b"x"])[1][:8] == bytes.fromhex("1f8b0800 00000000")


def test_another_libzstd_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstandard, "ZSTD_VERSION", (1, 4, 8))
    with pytest.raises(HostError) as caught:
        LayerSink("zstd", lambda _: None)
    assert (caught.value.message, caught.value.hint) == (
        "zstandard: expected its own libzstd 1.5.7, got 1.4.8: digests would differ",
        "reinstall it: pip install --force-reinstall zstandard==0.25.0",
    )


def test_a_damaged_blob_of_the_store_is_removed_so_that_the_next_run_makes_it(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    layer = store.build_layer("x", "none", lambda tar: tar.file("a", 1, [b"a"]))
    store.remember("key", layer)
    path = store.blob_path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * layer.size)
    with pytest.raises(IntegrityError, match="expected layer sha256:") as caught:
        list(layer.chunks())
    assert caught.value.hint == "the damaged blob was removed: run the command again"
    assert store.recall("key") is None


MEMORY = """
import random, re, threading
from pathlib import Path
from builder.oci.layer import LayerSink

def resident():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", status)[1]) * 1024

def write():
    sink = LayerSink("zstd", lambda data: None)
    for number in range(30):
        sink(CHUNKS[number % 4])  # further back than zstd looks
    sink.finish("layer", Path("layer"))

CHUNKS = [random.Random(seed).randbytes(1 << 20) for seed in range(4)]
before = resident()
for _ in range(4):
    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers: writer.start()
    for writer in writers: writer.join()
print(resident() - before)
"""


def test_the_memory_of_a_layer_is_given_back() -> None:
    """In a process of its own: what others left would be counted too."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 * MIB
