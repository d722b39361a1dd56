"""The tar writer, as two independent readers see it: Python's tarfile and GNU tar."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.oci import tar
from builder.oci.tar import TarWriter
from builder.oci.weights import weight_path

LONG = "folder/" * 20 + "name"
UMLAUT = "weights/Größe-模型.bin"
GIB = 2**30
HUGE = 9 * GIB

VECTORS = {
    "empty": (b"", "6c77f3f531ab1dfa4b060e5ba05def82143999d75d2ea88d291723c66f53fefa"),
    "five bytes": (b"hello", "be5979dc7767c1d5a6388937efa84dea65ae25898bc9ed5b5a105bfe98813be6"),
    "two blocks": (
        bytes(range(256)) * 4,
        "ce5b171a0c55b7a2289e67d2fa84fe592df30088e06fdb7fe48b6a673eb7c4d6",
    ),
}
"""Computed without this package, from the format alone: 4096 bytes of headers, file, padding."""


def archive(*fill: object) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for step in fill:
        step(writer)  # type: ignore[operator]
    writer.close()
    return out.getvalue()


def sample() -> bytes:
    return archive(
        lambda w: w.parents("bin/tool"),
        lambda w: w.file("bin/tool", 4, [b"ab", b"cd"], 0o755),
        lambda w: w.symlink("bin/link", "tool"),
        lambda w: w.hardlink("bin/other", "bin/tool"),
        lambda w: w.file("empty", 0, []),
        lambda w: w.directory("tmp", 0o1777),
    )


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return opened.getmembers()


def gnu(data: bytes, *flags: str) -> list[str]:
    done = subprocess.run(
        ["tar", *flags, "-f", "-"], input=data, capture_output=True, check=True, env={"TZ": "UTC"}
    )
    assert done.stderr == b""
    return done.stdout.decode("utf-8", "surrogateescape").splitlines()


@pytest.fixture(autouse=True)
def _needs_tar() -> None:
    if shutil.which("tar") is None:
        pytest.skip("no GNU tar")


def test_tarfile_reads_every_kind_of_entry() -> None:
    found = [
        (m.name, m.type, m.mode, m.size, m.linkname, m.mtime, m.uid, m.gid, m.uname, m.gname)
        for m in members(sample())
    ]
    rest = (tar.MTIME, 0, 0, "", "")
    assert found == [
        ("bin", tarfile.DIRTYPE, 0o755, 0, "", *rest),
        ("bin/tool", tarfile.REGTYPE, 0o755, 4, "", *rest),
        ("bin/link", tarfile.SYMTYPE, 0o777, 0, "tool", *rest),
        ("bin/other", tarfile.LNKTYPE, 0o644, 0, "bin/tool", *rest),
        ("empty", tarfile.REGTYPE, 0o644, 0, "", *rest),
        ("tmp", tarfile.DIRTYPE, 0o1777, 0, "", *rest),
    ]


def test_gnu_tar_reads_every_kind_of_entry() -> None:
    assert gnu(sample(), "-tv", "--numeric-owner", "--full-time") == [
        "drwxr-xr-x 0/0               0 1980-01-01 00:00:00 bin/",
        "-rwxr-xr-x 0/0               4 1980-01-01 00:00:00 bin/tool",
        "lrwxrwxrwx 0/0               0 1980-01-01 00:00:00 bin/link -> tool",
        "hrw-r--r-- 0/0               0 1980-01-01 00:00:00 bin/other link to bin/tool",
        "-rw-r--r-- 0/0               0 1980-01-01 00:00:00 empty",
        "drwxrwxrwt 0/0               0 1980-01-01 00:00:00 tmp/",
    ]


def test_gnu_tar_extracts_what_went_in(tmp_path: Path) -> None:
    data = archive(
        lambda w: w.parents(LONG),
        lambda w: w.file(LONG, 3, [b"abc"]),
        lambda w: w.parents(UMLAUT),
        lambda w: w.file(UMLAUT, 700, [b"x" * 700]),
        lambda w: w.symlink("link", LONG),
    )
    subprocess.run(["tar", "-x", "-C", tmp_path, "-f", "-"], input=data, check=True)
    assert (tmp_path / LONG).read_bytes() == b"abc"
    assert (tmp_path / UMLAUT).read_bytes() == b"x" * 700
    assert str((tmp_path / "link").readlink()) == LONG


@pytest.mark.parametrize(
    "name",
    ["n" * 99, "n" * 100, "n" * 101, "ü" * 40, LONG, UMLAUT, "a b", "back\\slash", 'quo"te'],
    ids=["99", "100", "101", "non-ascii", "long", "unicode", "space", "backslash", "quote"],
)
def test_names_survive_both_readers(name: str) -> None:
    data = archive(lambda w: w.file(name, 1, [b"x"]), lambda w: w.directory(name + ".d"))
    assert [m.name for m in members(data)] == [name, name + ".d"]
    assert gnu(data, "-t", "--quoting-style=literal") == [name, name + ".d/"]


@pytest.mark.parametrize("target", ["t" * 100, "t" * 101, LONG, "ziel-ä"])
def test_link_targets_survive_both_readers(target: str) -> None:
    data = archive(
        lambda w: w.symlink("soft", target),
        lambda w: w.file(target, 0, []),
        lambda w: w.hardlink("hard", target),
    )
    assert [(m.name, m.linkname) for m in members(data)] == [
        ("soft", target),
        (target, ""),
        ("hard", target),
    ]
    listed = gnu(data, "-tv", "--quoting-style=literal")
    assert listed[0].endswith(f" soft -> {target}")
    assert listed[2].endswith(f" hard link to {target}")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8 * GIB - 1, 8 * GIB, HUGE, 400 * GIB])
def test_aligned_header_takes_one_page(size: int) -> None:
    assert len(tar.aligned_header(weight_path("0" * 64), size)) == tar.ALIGNMENT == 4096


@pytest.mark.parametrize("path", ["a", weight_path("f" * 64), "p" * 250, "ü" * 90])
@pytest.mark.parametrize("size", [3, HUGE])
def test_aligned_data_starts_at_4096(path: str, size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar.aligned_header(path, size))) as opened:
        member = opened.next()
    assert member is not None
    assert (member.name, member.size, member.offset_data) == (path, size, 4096)


@pytest.mark.parametrize("offset", [512, 3584, 4096, 4608, 7 * 512])
@pytest.mark.parametrize("path", ["a", "p" * 250])
def test_aligned_data_starts_on_a_page_wherever_the_entry_begins(path: str, offset: int) -> None:
    header = tar.aligned_header(path, HUGE, offset)
    assert (offset + len(header)) % tar.ALIGNMENT == 0
    with tarfile.open(fileobj=io.BytesIO(header)) as opened:
        member = opened.next()
    assert member is not None
    assert (member.name, member.size, member.offset_data) == (path, HUGE, len(header))


def test_gnu_tar_reads_an_aligned_entry(tmp_path: Path) -> None:
    data = tar.aligned_header("blob", 5) + b"hello" + tar.padding(5) + tar.END
    subprocess.run(["tar", "-x", "-C", tmp_path, "-f", "-"], input=data, check=True)
    assert (tmp_path / "blob").read_bytes() == b"hello"
    assert data[4096:4101] == b"hello"


def sparse(path: Path, head: bytes, size: int) -> None:
    """An archive with one entry of `size` zero bytes that takes no space on disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size + len(tar.padding(size)) + len(tar.END))


@pytest.mark.parametrize("is_aligned", [False, True], ids=["plain", "aligned"])
def test_sizes_beyond_8_gib_are_read(tmp_path: Path, is_aligned: bool) -> None:
    path = tmp_path / "huge.tar"
    make = tar.aligned_header if is_aligned else tar.header
    sparse(path, make("huge", size=HUGE + 1), HUGE + 1)
    with tarfile.open(path) as opened:
        assert [(m.name, m.size) for m in opened.getmembers()] == [("huge", HUGE + 1)]
    listed = subprocess.run(
        ["tar", "-tvf", path, "--numeric-owner"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split()[2] == str(HUGE + 1)


@pytest.mark.parametrize("path", ["a", "/a", ""], ids=["twice", "absolute", "empty"])
def test_refuses_paths_that_make_no_entry_of_their_own(path: str) -> None:
    writer = TarWriter(lambda _: None)
    writer.file("a", 0, [])
    with pytest.raises(ValueError, match=f"^duplicate or absolute path in layer: `{path}`$"):
        writer.directory(path)


def test_refuses_a_directory_where_a_file_is() -> None:
    writer = TarWriter(lambda _: None)
    writer.file("a", 0, [])
    with pytest.raises(ValueError, match=r"^`a` is no directory, but the parent of `a/b`$"):
        writer.parents("a/b")


@pytest.mark.parametrize("chunks", [[b"ab"], [b"ab", b"cd"]], ids=["shorter", "longer"])
def test_refuses_content_of_another_size(chunks: list[bytes]) -> None:
    writer = TarWriter(lambda _: None)
    with pytest.raises(ValueError, match=f"^`a` has {len(b''.join(chunks))} bytes, expected 3$"):
        writer.file("a", 3, iter(chunks))


def test_parents_are_written_once() -> None:
    data = archive(
        lambda w: w.parents("a/b/one"),
        lambda w: w.file("a/b/one", 0, []),
        lambda w: w.parents("a/b/two"),
    )
    assert [m.name for m in members(data)] == ["a", "a/b", "a/b/one"]


def test_writing_twice_gives_the_same_bytes() -> None:
    assert sample() == sample()


def blocks(content: bytes) -> Iterator[bytes]:
    sha256 = hashlib.sha256(content).hexdigest()
    yield tar.aligned_header(weight_path(sha256), len(content))
    yield content
    yield tar.padding(len(content))
    yield tar.END


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors_of_weight_layers(name: str) -> None:
    """These digests are a contract: images in the world share layers by them."""
    content, expected = VECTORS[name]
    assert hashlib.sha256(b"".join(blocks(content))).hexdigest() == expected


@pytest.mark.parametrize("path", ["a/.wh.b", ".wh..wh..opq", ".wh.a/b", "x" * 256, "é" * 128])
def test_whiteouts_and_names_no_file_system_takes_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="whiteout or too long name"):
        tar.TarWriter(lambda _: None).file(path, 0, [])
