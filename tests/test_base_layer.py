"""Debian packages become one layer: an operating system that no script has prepared."""

import functools
import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from builder.assemble import elf, ldcache
from builder.assemble.base import write_base
from builder.assemble.tree import is_dropped
from builder.errors import IntegrityError
from builder.lock.schema import DebianPackage
from builder.oci.tar import TarWriter
from tests import deb_maker
from tests.deb_maker import Content, Member, ar, executable, packed, special

OS_RELEASE = ("usr/lib/os-release", "VERSION_CODENAME=bookworm\n")
Deb = tuple[DebianPackage, Path]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Deb]:
    def deb(name: str, files: Mapping[str, Member], ending: str = ".xz") -> Deb:
        return deb_maker.write(tmp_path, name, files, ending)

    return deb


def layer(debs: Sequence[Deb]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write)
    write_base(writer, debs, "bookworm")
    writer.close()
    return out.getvalue()


def entries(debs: Sequence[Deb]) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer(debs))) as tar:
        members = tar.getmembers()
    assert len({member.name for member in members}) == len(members)
    return {member.name: member for member in members}


def text(debs: Sequence[Deb], path: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(layer(debs))) as tar:
        content = tar.extractfile(path)
        assert content is not None
        return content.read().decode()


@pytest.fixture
def base(make: Callable[..., Deb]) -> Deb:
    return make("base-files", {OS_RELEASE[0]: OS_RELEASE[1]})


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_usr_is_merged(make: Callable[..., Deb], base: Deb, ending: str) -> None:
    files = {
        "bin": special(tarfile.DIRTYPE),
        "bin/tool": executable(b"x", 0o755),
        "lib/x86_64-linux-gnu/libx.so.1": "not a library",
        "usr/bin/alias": special(tarfile.LNKTYPE, "./bin/tool"),
    }
    found = entries([base, make("a", files, ending)])
    assert found["bin"].issym()
    assert found["bin"].linkname == "usr/bin"
    assert "bin/tool" not in found
    assert found["usr/bin/tool"].mode == 0o755
    assert found["usr/lib/x86_64-linux-gnu/libx.so.1"].isreg()
    assert (found["usr/bin/alias"].size, found["usr/bin/alias"].mode) == (1, 0o755)


def test_every_directory_comes_before_what_is_in_it(make: Callable[..., Deb], base: Deb) -> None:
    seen = {""}
    for path in entries([base, make("a", {"opt/deep/down/file": "x"})]):
        assert path.rpartition("/")[0] in seen
        seen.add(path)


def test_setuid_and_setgid_are_dropped(make: Callable[..., Deb], base: Deb) -> None:
    files = {
        "usr/bin/su": executable(b"x", 0o4755),
        "var/local": special(tarfile.DIRTYPE, mode=0o2775),
        "var/spool": special(tarfile.DIRTYPE, mode=0o1777),
    }
    found = entries([base, make("a", files)])
    modes = [found[path].mode for path in files]
    assert modes == [0o755, 0o775, 0o1777]


@pytest.mark.parametrize(
    ("path", "link", "dropped"),
    [
        ("usr/share/doc/a/changelog.gz", False, True),
        ("usr/share/doc/a/copyright", False, False),
        ("usr/share/doc/a/examples/copyright", False, True),
        ("usr/share/doc/a-dev", True, False),
        ("usr/share/doc/a", False, True),
        ("usr/share/man/man1/a.1.gz", False, True),
        ("usr/share/locale/de/LC_MESSAGES/a.mo", False, True),
        ("usr/share/locales", False, False),
        ("usr/lib/locale/C.utf8/LC_CTYPE", False, False),
    ],
)
def test_documentation_is_dropped(path: str, link: bool, dropped: bool) -> None:
    assert is_dropped(path, link=link) is dropped


def test_a_link_to_documentation_keeps_its_content(make: Callable[..., Deb], base: Deb) -> None:
    files = {
        "usr/share/doc/a/notes": "text",
        "usr/share/a/notes": special(tarfile.LNKTYPE, "./usr/share/doc/a/notes"),
    }
    assert text([base, make("a", files)], "usr/share/a/notes") == "text"


def test_certificates_are_joined_in_order(make: Callable[..., Deb], base: Deb) -> None:
    folder = "usr/share/ca-certificates/mozilla"
    debs = [base, make("ca-certificates", {f"{folder}/B.crt": "two", f"{folder}/A.crt": "one\n"})]
    assert text(debs, "etc/ssl/certs/ca-certificates.crt") == "one\ntwo\n"
    assert entries(debs)["usr/lib/ssl/cert.pem"].linkname == "/etc/ssl/certs/ca-certificates.crt"


def test_scanners_find_the_packages(make: Callable[..., Deb], base: Deb) -> None:
    expected = "Package: a\nVersion: 1:1.0\nArchitecture: amd64\n"
    assert text([base, make("a", {"x": "y"})], "var/lib/dpkg/status.d/a") == expected


def test_users_are_known(base: Deb) -> None:
    assert "builder:x:10001:0:builder:/tmp/home:/bin/sh\n" in text([base], "etc/passwd")
    assert text([base], "etc/group").startswith("root:x:0:")
    assert "hosts: files dns" in text([base], "etc/nsswitch.conf")


def test_a_packaged_file_wins_over_a_generated_one(make: Callable[..., Deb], base: Deb) -> None:
    debs = [base, make("a", {"etc/nsswitch.conf": "ours\n"})]
    assert text(debs, "etc/nsswitch.conf") == "ours\n"


def test_empty_directories_are_there(base: Deb) -> None:
    found = entries([base])
    modes = {path: oct(found[path].mode) for path in ("proc", "sys", "dev", "run", "tmp", "cache")}
    assert modes == {
        "proc": "0o755",
        "sys": "0o755",
        "dev": "0o755",
        "run": "0o755",
        "tmp": "0o1777",
        "cache": "0o1777",
    }
    assert found["var/tmp"].mode == 0o1777


def test_compilers_and_the_shell_get_their_links(make: Callable[..., Deb], base: Deb) -> None:
    assert "usr/bin/cc" not in entries([base])
    files = dict.fromkeys(("usr/bin/gcc", "usr/bin/g++", "bin/dash"), "x")
    found = entries([base, make("a", files)])
    links = {path: found[f"usr/bin/{path}"].linkname for path in ("cc", "c++", "sh")}
    assert links == {"cc": "gcc", "c++": "g++", "sh": "dash"}


def test_the_order_of_packages_does_not_matter(make: Callable[..., Deb], base: Deb) -> None:
    debs = [base, make("b", {"b": "2"}), make("a", {"a": "1"})]
    assert layer(debs) == layer(debs[::-1])


def test_two_packages_may_share_equal_content(make: Callable[..., Deb], base: Deb) -> None:
    debs = [base, make("a", {"x/f": "same"}), make("b", {"x/f": "same"})]
    assert text(debs, "x/f") == "same"


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("1", "2", "x/f: comes with a and b with other content"),
        ("1", special(tarfile.SYMTYPE, "g"), "x/f: comes with a link to elsewhere"),
        (
            special(tarfile.SYMTYPE, "h"),
            special(tarfile.SYMTYPE, "g"),
            "x/f: comes with a link to elsewhere",
        ),
    ],
)
def test_a_clash_is_refused(
    make: Callable[..., Deb], base: Deb, one: Content, other: Content, message: str
) -> None:
    with pytest.raises(IntegrityError) as caught:
        layer([base, make("a", {"x/f": one}), make("b", {"x/f": other})])
    assert caught.value.message == message


def test_files_go_through_links_of_other_packages(make: Callable[..., Deb], base: Deb) -> None:
    linked = make("a", {"opt/real/x": "1", "opt/link": special(tarfile.SYMTYPE, "real")})
    through = make("b", {"opt/link": special(tarfile.DIRTYPE), "opt/link/y": "2"})
    found = entries([base, linked, through])
    assert found["opt/link"].issym()
    assert found["opt/real/y"].isreg()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(make: Callable[..., Deb], base: Deb, kind: bytes) -> None:
    with pytest.raises(IntegrityError, match="`dev/x` is a device or a pipe"):
        layer([base, make("a", {"dev/x": special(kind)})])


def test_a_path_out_of_the_image_is_refused(make: Callable[..., Deb], base: Deb) -> None:
    with pytest.raises(IntegrityError, match="leads out of the image"):
        layer([base, make("a", {"../x": "y"})])


def test_a_link_to_nothing_is_refused(make: Callable[..., Deb], base: Deb) -> None:
    with pytest.raises(IntegrityError, match="link to nothing"):
        layer([base, make("a", {"x": special(tarfile.LNKTYPE, "./y")})])


def test_another_package_than_expected_is_refused(make: Callable[..., Deb], base: Deb) -> None:
    pin, path = make("a", {"x": "y"})
    other = pin.model_copy(update={"version": "2.0"})
    with pytest.raises(IntegrityError, match=r"expected a 2\.0 amd64, got a 1:1\.0 amd64"):
        layer([base, (other, path)])


def test_another_release_is_refused(make: Callable[..., Deb]) -> None:
    other = make("base-files", {OS_RELEASE[0]: "VERSION_CODENAME=trixie\n"})
    with pytest.raises(IntegrityError, match="expected bookworm, got trixie"):
        layer([other])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "is not a Debian package"),
        (b"!<arch>\n", "has no `control.tar`"),
        (ar({"control.tar.xz": b"broken"}), "`control.tar.xz` cannot be read"),
        (ar({"control.tar.lz4": b""}), "is packed in an unknown way"),
        (ar({"control.tar": packed({"md5sums": ""})}), "has no control file"),
    ],
)
def test_a_broken_package_is_refused(
    make: Callable[..., Deb], content: bytes, message: str
) -> None:
    pin, path = make("a", {"x": "y"})
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        layer([(pin, path)])


# --- libraries ----------------------------------------------------------------------------------


@functools.cache
def compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


@functools.cache
def ldconfig() -> str | None:
    return shutil.which("ldconfig", path="/sbin:/usr/sbin")


@pytest.fixture
def library(tmp_path: Path) -> bytes:
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler")
    source, made = tmp_path / "x.c", tmp_path / "x.so"
    source.write_text("int x(void) { return 1; }\n")
    argv = [cc, "-shared", "-fPIC", "-Wl,-soname,libx.so.1", "-o", str(made), str(source)]
    subprocess.run(argv, check=True)
    return made.read_bytes()


def test_a_library_says_its_name(library: bytes) -> None:
    assert elf.soname(io.BytesIO(library)) == "libx.so.1"


@pytest.mark.parametrize("size", [0, 10, 64, 100, 600])
def test_a_cut_library_is_none(library: bytes, size: int) -> None:
    assert not elf.soname(io.BytesIO(library[:size]))


def listed(cache: bytes, folder: Path) -> list[str]:
    program = ldconfig()
    if program is None:
        pytest.skip("no ldconfig")
    path = folder / "cache"
    path.write_bytes(cache)
    out = subprocess.check_output([program, "-p", "-C", str(path)], text=True)
    return [line.strip() for line in out.splitlines()[1:] if "=>" in line]


def test_ldconfig_reads_the_cache(tmp_path: Path) -> None:
    cache = ldcache.cache({"libb.so.2": "/lib/libb.so.2", "liba.so": "/opt/x/liba.so"})
    assert listed(cache, tmp_path) == [
        "libb.so.2 (libc6,x86-64) => /lib/libb.so.2",
        "liba.so (libc6,x86-64) => /opt/x/liba.so",
    ]


def test_the_layer_has_a_cache_of_its_libraries(
    make: Callable[..., Deb], base: Deb, library: bytes, tmp_path: Path
) -> None:
    folder = "usr/lib/x86_64-linux-gnu"
    files = {
        "etc/ld.so.conf.d/x.conf": "# multiarch\n/lib/x86_64-linux-gnu\n",
        f"{folder}/libx.so.1.0.0": library,
        f"{folder}/libx.so.1": special(tarfile.SYMTYPE, "libx.so.1.0.0"),
        f"{folder}/libx.so": special(tarfile.SYMTYPE, "libx.so.1"),
        f"{folder}/libtext.so": "INPUT(-lx)",
    }
    out = io.BytesIO(layer([base, make("x", files)]))
    with tarfile.open(fileobj=out) as tar:
        content = tar.extractfile("etc/ld.so.cache")
        assert content is not None
        cache = content.read()
    assert listed(cache, tmp_path) == [
        "libx.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libx.so.1",
        "libx.so (libc6,x86-64) => /lib/x86_64-linux-gnu/libx.so",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [("liba.so.1", "liba.so.2"), ("liba.so.9", "liba.so.10"), ("liba.so", "liba.so.1")],
)
def test_names_sort_as_the_loader_searches(one: str, other: str) -> None:
    assert ldcache.compare(one, other) < 0 < ldcache.compare(other, one)
    assert ldcache.compare(one, one) == 0
