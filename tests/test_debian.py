"""From Debian's signed indexes to pins: mirrors, signatures, relations, choices."""

import datetime
import functools
import gzip
import hashlib
import lzma
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import catalogue
from builder.errors import HostError, IntegrityError, ResolveError
from builder.lock.schema import DebianPackage
from builder.sources import (
    debian,
    debian_index,
    debian_mirrors,
    debian_relations,
    debian_signature,
    debian_solver,
)
from builder.sources.debian_mirrors import Mirror

DEB822 = """\
Types: deb deb-src
# an older one
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.test/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
# deb http://comment.test/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main  # ours
deb https://other.test/tool tool-bookworm stable
deb cdrom:[Debian]/ bookworm main
deb-src http://mirror.test/debian bookworm main
"""


def paragraph(name: str, version: str = "1.0", **fields: str) -> str:
    lines = {
        "Package": name,
        "Version": version,
        "Architecture": "amd64",
        "Filename": f"pool/main/{name}_{version}_amd64.deb",
        "Size": "10",
        "SHA256": hashlib.sha256(f"{name}{version}".encode()).hexdigest(),
        **{key.replace("_", "-"): value for key, value in fields.items()},
    }
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


def index(*paragraphs: str) -> debian_index.Index:
    return debian_index.Index(["\n".join(paragraphs).encode()])


def pin(name: str, version: str = "1.0") -> DebianPackage:
    return index(paragraph(name, version)).versions(name)[0].pin


def names(packages: tuple[DebianPackage, ...]) -> list[str]:
    return [package.name for package in packages]


# --- mirrors ------------------------------------------------------------------------------------


def test_deb822_sources_are_read() -> None:
    assert list(debian_mirrors.parse_deb822(DEB822)) == [
        Mirror("http://mirror.test/debian", suites=("bookworm", "bookworm-updates")),
        Mirror("http://mirror.test/debian-security", True, ("bookworm-security",)),
    ]


def test_one_line_sources_are_read() -> None:
    expected = [Mirror("http://mirror.test/debian", suites=("bookworm",))]
    assert list(debian_mirrors.parse_one_line(ONE_LINE)) == expected


def test_a_file_of_mirrors_is_read(tmp_path: Path) -> None:
    listed = tmp_path / "debian.list"
    listed.write_text("# near\nhttp://near.test/debian\tpriority:1\nhttps://far.test/debian\n")
    line = f"deb mirror+file://{listed} bookworm main"
    found = [mirror.uri for mirror in debian_mirrors.parse_one_line(line)]
    assert found == ["http://near.test/debian", "https://far.test/debian"]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (debian_mirrors.VARIABLE, debian_mirrors.SECURITY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def test_the_likeliest_mirror_is_first_and_each_is_there_once(apt: Path) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    (apt / "sources.list.d" / "a.list").write_text("deb http://tool.test tool main\n")
    (apt / "sources.list.d" / "debian.sources").write_text(DEB822)
    found = [mirror.uri for mirror in debian_mirrors.for_suite("trixie", apt)]
    assert found == ["http://mirror.test/debian", "http://tool.test"]
    security = debian_mirrors.for_suite("bookworm-security", apt)
    assert [mirror.uri for mirror in security] == ["http://mirror.test/debian-security"]


def test_a_variable_replaces_apt_sources(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    monkeypatch.setenv(debian_mirrors.VARIABLE, "file:///srv/debian/ http://b.test")
    found = debian_mirrors.mirrors(apt)
    assert found == (Mirror("file:///srv/debian"), Mirror("http://b.test"))


def test_no_mirror_at_all_names_the_variable(apt: Path) -> None:
    with pytest.raises(HostError) as caught:
        debian_mirrors.mirrors(apt)
    assert "BUILDER_DEBIAN_MIRROR" in caught.value.hint


@pytest.mark.parametrize("name", ["variable", "apt"])
def test_a_mirror_that_is_no_address_names_the_setting(
    apt: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = str(apt / "sources.list")
    (apt / "sources.list").write_text("deb http://[::1 bookworm main\n")
    if name == "variable":
        place = debian_mirrors.VARIABLE
        monkeypatch.setenv(place, "http://[::1")
    with pytest.raises(HostError) as caught:
        debian_mirrors.mirrors(apt)
    assert caught.value.message == f"{place}: `http://[::1` is not an address"


def test_no_security_mirror_names_its_variable(apt: Path) -> None:
    (apt / "sources.list").write_text(ONE_LINE)
    with pytest.raises(HostError, match="no source of `bookworm-security`") as caught:
        debian_mirrors.for_suite("bookworm-security", apt)
    assert "BUILDER_DEBIAN_SECURITY_MIRROR" in caught.value.hint


# --- relations ----------------------------------------------------------------------------------


def test_relations_are_read() -> None:
    groups = debian_relations.parse("a:any (>= 1~), b | c (<< 2) [amd64], d [!amd64], e:i386")
    assert [[str(relation) for relation in group] for group in groups] == [
        ["a (>= 1~)"],
        ["b", "c (<< 2)"],
        ["e"],
    ]
    assert groups[-1][0].foreign


def test_a_broken_relation_is_refused() -> None:
    with pytest.raises(ResolveError, match="not a relation"):
        debian_relations.parse("a (1.0)")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0-1"),
        ("1.9", "1.10"),
        ("9", "1:0"),
        ("1.0-1", "1.0-1+deb12u1"),
        ("1.0-1~bpo12+1", "1.0-1"),
        ("3.1~", "3.1"),
        ("1a", "1+"),
    ],
)
def test_versions_sort_as_dpkg_sorts_them(older: str, newer: str) -> None:
    assert debian_relations.parse_version(older) < debian_relations.parse_version(newer)
    if dpkg := shutil.which("dpkg"):
        subprocess.run([dpkg, "--compare-versions", older, "lt", newer], check=True)


@pytest.mark.parametrize(
    ("operator", "accepted"),
    [("<<", "1"), ("<=", "12"), ("=", "2"), (">=", "23"), (">>", "3")],
)
def test_operators_accept(operator: str, accepted: str) -> None:
    relation = debian_relations.Relation("a", operator, "2")
    assert "".join(version for version in "123" if relation.accepts(version)) == accepted


# --- choices ------------------------------------------------------------------------------------


def test_depends_and_pre_depends_are_followed_and_recommends_are_not() -> None:
    known = index(
        paragraph("a", Depends="b", Recommends="d"),
        paragraph("b", Pre_Depends="c"),
        paragraph("c"),
        paragraph("d"),
    )
    assert names(debian_solver.solve(known, ["a"])) == ["a", "b", "c"]


def test_an_alternative_that_is_chosen_already_wins() -> None:
    known = index(paragraph("a", Depends="b | c"), paragraph("b"), paragraph("c"))
    assert names(debian_solver.solve(known, ["a"])) == ["a", "b"]
    assert names(debian_solver.solve(known, ["a", "c"])) == ["a", "c"]


def test_a_virtual_package_is_provided_by_the_most_usual_one() -> None:
    known = index(
        paragraph("a", Depends="awk"),
        paragraph("gawk", Provides="awk", Priority="optional"),
        paragraph("mawk", Provides="awk", Priority="required"),
    )
    assert names(debian_solver.solve(known, ["a"])) == ["a", "mawk"]


def test_what_a_package_provides_may_fill_several_lines() -> None:
    known = index(paragraph("a", Depends="y"), paragraph("b", Provides="x,\n y (= 1),\n\tz"))
    assert names(debian_solver.solve(known, ["a"])) == ["a", "b"]


def test_a_version_asks_for_a_versioned_provider() -> None:
    known = index(
        paragraph("a", Depends="x (>= 2)"),
        paragraph("old", Provides="x (= 1)"),
        paragraph("plain", Provides="x"),
        paragraph("fit", Provides="x (= 2)"),
    )
    assert names(debian_solver.solve(known, ["a"])) == ["a", "fit"]


def test_what_only_scripts_need_is_left_out_unless_wanted() -> None:
    known = index(paragraph("a", Depends="debconf (>= 9) | debconf-2.0"), paragraph("debconf"))
    assert names(debian_solver.solve(known, ["a"], ignored=["debconf"])) == ["a"]
    wanted = debian_solver.solve(known, ["a", "debconf"], ignored=["debconf"])
    assert names(wanted) == ["a", "debconf"]


def test_the_newest_version_of_all_suites_wins_unless_a_pin_is_kept() -> None:
    known = index(paragraph("a", "1.0"), paragraph("a", "1.10"), paragraph("a", "1.9"))
    assert debian_solver.solve(known, ["a"])[0].version == "1.10"
    assert debian_solver.solve(known, ["a"], keep=[pin("a", "1.9")])[0].version == "1.9"
    assert debian_solver.solve(known, ["a"], keep=[pin("a", "0.1")])[0].version == "1.10"


def test_a_pin_gives_way_to_what_is_asked() -> None:
    known = index(
        paragraph("a", Depends="b (= 2)"), paragraph("b", "1"), paragraph("b", "2"), paragraph("c")
    )
    solved = debian_solver.solve(known, ["a", "b"], keep=[pin("b", "1")])
    assert [package.version for package in solved] == ["1.0", "2"]


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(ResolveError, match="no package `libnuma`") as caught:
        debian_solver.solve(index(paragraph("libnuma1")), ["libnuma"])
    assert caught.value.hint == "did you mean `libnuma1`?"


def test_what_cannot_be_satisfied_names_who_asked() -> None:
    known = index(
        paragraph("a", Depends="b"), paragraph("b", Depends="c (>= 2)"), paragraph("c", "1")
    )
    with pytest.raises(ResolveError) as caught:
        debian_solver.solve(known, ["a"])
    assert caught.value.message == "base.packages -> a -> b: needs `c (>= 2)`, found c 1"


def test_a_conflict_names_both_chains() -> None:
    known = index(
        paragraph("a", Depends="b, d"),
        paragraph("b", Conflicts="c"),
        paragraph("d", Provides="c"),
    )
    with pytest.raises(ResolveError) as caught:
        debian_solver.solve(known, ["a"])
    expected = "base.packages -> a -> b: excludes `c`, which comes with base.packages -> a -> d"
    assert caught.value.message == expected


def test_a_package_does_not_conflict_with_itself() -> None:
    known = index(paragraph("a", Provides="mta", Conflicts="mta"))
    assert names(debian_solver.solve(known, ["a"])) == ["a"]


# --- places of a file ---------------------------------------------------------------------------


def test_urls_are_the_mirrors_of_the_right_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(debian_mirrors.VARIABLE, "http://m.test/debian")
    monkeypatch.setenv(debian_mirrors.SECURITY_VARIABLE, "http://m.test/security")
    package = pin("zzz-no-such-package", "1:2.0")
    path = "pool/main/zzz-no-such-package_1:2.0_amd64.deb"
    assert debian.urls(package, "bookworm") == (f"http://m.test/debian/{path}",)
    fixed = package.model_copy(update={"path": "pool/updates/main/z/z.deb"})
    secured = "http://m.test/security/pool/updates/main/z/z.deb"
    assert debian.urls(fixed, "bookworm") == (secured,)
    archived = tmp_path / "zzz-no-such-package_1%3a2.0_amd64.deb"
    archived.write_bytes(b"")
    monkeypatch.setenv(debian.ARCHIVE_VARIABLE, str(tmp_path))
    expected = (archived.as_uri(), f"http://m.test/debian/{path}")
    assert debian.urls(package, "bookworm") == expected


def test_a_pin_that_is_gone_names_the_command() -> None:
    fault = debian.gone(pin("gcc-12", "12.2.0-14"))
    assert fault.message.startswith("gcc-12 12.2.0-14: no mirror has `pool/main/gcc-12")
    assert "builder lock -P base STACK" in fault.hint


def test_the_catalogue_names_a_base_for_each_release() -> None:
    for name in ("bookworm", "trixie"):
        known = catalogue.debian(name)
        assert {"base-files", "libc6", "libc-bin", "dash", "python3"} <= set(known.essential)
        assert not set(known.essential) & set(known.skip)


# --- signed indexes -----------------------------------------------------------------------------


@functools.cache
def signing_missing() -> str | None:
    missing = [tool for tool in ("gpg", "gpgv") if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Archive:
    """A mirror of our own, signed with a throw-away key."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "mirror"
        self.keyring = folder / "keys.gpg"
        # gpg-agent listens on a socket, whose path must be short: not pytest's folder.
        self._home = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        self._gpg("--quick-generate-key", "test@invalid", "ed25519", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export")

    def _gpg(self, *arguments: str) -> None:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--quiet", "--passphrase", ""]
        subprocess.run([*command, *arguments], check=True, capture_output=True)

    def close(self) -> None:
        command = ["gpgconf", "--homedir", str(self._home), "--kill", "all"]
        subprocess.run(command, check=False, capture_output=True)
        shutil.rmtree(self._home, ignore_errors=True)

    def publish(self, packages: bytes, ending: str = ".xz", **fields: str) -> Path:
        packed = lzma.compress(packages) if ending == ".xz" else gzip.compress(packages)
        folder = self.root / "dists" / "bookworm"
        place = f"main/binary-amd64/Packages{ending}"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(packed)
        values = {"Codename": "bookworm", "Date": "Sat, 11 Jul 2026 10:16:37 UTC", **fields}
        lines = [f"{key.replace('_', '-')}: {value}" for key, value in values.items()]
        lines += ["Description: - a line that begins with a dash  ", "SHA256:"]
        lines += [f" {hashlib.sha256(packed).hexdigest()} {len(packed)} {place}", ""]
        (folder / "Release").write_text("\n".join(lines))
        release, signed = folder / "Release", folder / "InRelease"
        self._gpg("--yes", "--output", str(signed), "--clearsign", str(release))
        return signed


@pytest.fixture(scope="module")
def key_holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    if reason := signing_missing():
        pytest.skip(reason)
    archive = Archive(tmp_path_factory.mktemp("archive"))
    yield archive
    archive.close()


@pytest.fixture
def archive(key_holder: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    shutil.rmtree(key_holder.root, ignore_errors=True)
    monkeypatch.setenv(debian_mirrors.VARIABLE, key_holder.root.as_uri())
    monkeypatch.setenv(debian_signature.KEYRING_VARIABLE, str(key_holder.keyring))
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    return key_holder


def all_essential() -> bytes:
    essential = catalogue.debian("bookworm").essential
    return "\n".join(paragraph(name) for name in (*essential, "gcc")).encode()


@pytest.mark.parametrize("ending", [".xz", ".gz"])
def test_a_signed_suite_resolves(archive: Archive, ending: str) -> None:
    archive.publish(all_essential(), ending)
    suites, packages = debian.resolve(debian.Request("bookworm", packages=("gcc",)))
    assert [(suite.name, suite.released) for suite in suites] == [
        ("bookworm", datetime.datetime(2026, 7, 11, 10, 16, 37, tzinfo=datetime.UTC))
    ]
    assert names(packages) == sorted([*catalogue.debian("bookworm").essential, "gcc"])


def test_a_list_that_was_checked_is_not_fetched_again(archive: Archive) -> None:
    archive.publish(all_essential())
    first = debian.resolve(debian.Request("bookworm"))
    shutil.rmtree(archive.root / "dists" / "bookworm" / "main")
    assert debian.resolve(debian.Request("bookworm")) == first


def test_a_changed_index_is_refused(archive: Archive) -> None:
    signed = archive.publish(all_essential())
    signed.write_bytes(signed.read_bytes().replace(b"Date: Sat, 11", b"Date: Sun, 12"))
    with pytest.raises(IntegrityError, match="not signed by a key of Debian's archive"):
        debian.resolve(debian.Request("bookworm"))


def test_text_around_the_signed_part_is_refused(archive: Archive) -> None:
    signed = archive.publish(all_essential())
    signed.write_bytes(b"SHA256:\n evil\n" + signed.read_bytes())
    with pytest.raises(IntegrityError, match="is not a signed message"):
        debian.resolve(debian.Request("bookworm"))


def test_another_key_is_refused(archive: Archive, tmp_path: Path) -> None:
    stranger = Archive(tmp_path)
    try:
        signed = stranger.publish(all_essential())
    finally:
        stranger.close()
    with pytest.raises(IntegrityError, match="not signed"):
        debian_signature.signed_text(signed.read_bytes(), "InRelease")


def test_another_suite_is_refused(archive: Archive) -> None:
    archive.publish(all_essential(), Codename="bullseye")
    with pytest.raises(IntegrityError, match="expected suite `bookworm`, got `bullseye`"):
        debian.resolve(debian.Request("bookworm"))


def test_an_expired_index_is_refused_unless_allowed(archive: Archive) -> None:
    archive.publish(all_essential(), Valid_Until="Wed, 01 Jan 2020 00:00:00 UTC")
    with pytest.raises(ResolveError, match="valid until 2020-01-01") as caught:
        debian.resolve(debian.Request("bookworm"))
    assert "builder lock --allow-expired-index" in caught.value.hint
    assert debian.resolve(debian.Request("bookworm", allow_expired=True))


def test_a_changed_list_is_refused(archive: Archive) -> None:
    folder = archive.publish(all_essential()).parent
    place = folder / "main" / "binary-amd64" / "Packages.xz"
    place.write_bytes(lzma.compress(paragraph("evil").encode()))
    with pytest.raises(IntegrityError, match="expected sha256"):
        debian.resolve(debian.Request("bookworm"))


def test_a_suite_without_a_list_is_refused(archive: Archive) -> None:
    folder = archive.publish(all_essential()).parent
    shutil.rmtree(folder / "main")
    with pytest.raises(ResolveError, match="no list of packages for amd64"):
        debian.resolve(debian.Request("bookworm"))


def test_a_mirror_without_the_suite_is_skipped(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.publish(all_essential())
    both = f"{tmp_path.as_uri()} {archive.root.as_uri()}"
    monkeypatch.setenv(debian_mirrors.VARIABLE, both)
    assert debian.resolve(debian.Request("bookworm"))


def test_sqv_serves_where_gpgv_is_missing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = archive.publish(all_essential()).read_bytes()
    # For one key gpgv takes the same arguments and answers with the same exit codes.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sqv").symlink_to(shutil.which("gpgv") or "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "Codename: bookworm" in debian_signature.signed_text(signed, "InRelease")
    with pytest.raises(IntegrityError, match="not signed"):
        debian_signature.signed_text(signed.replace(b"Codename", b"codename"), "InRelease")


def test_missing_keys_and_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(debian_signature.KEYRING_VARIABLE, str(tmp_path / "none.gpg"))
    with pytest.raises(HostError, match="no keys") as caught:
        debian_signature.keyring()
    assert "apt-get install debian-archive-keyring" in caught.value.hint
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="neither `gpgv` nor `sqv`") as caught:
        debian_signature.signed_text(b"", "InRelease")
    assert caught.value.hint == "run `apt-get install gpgv`"


@pytest.mark.network
def test_the_base_of_vllm_on_a_cpu_resolves() -> None:
    wanted = catalogue.engine("vllm-cpu").debian
    _, packages = debian.resolve(debian.Request("bookworm", packages=wanted))
    found = names(packages)
    assert {"gcc-12", "libpython3.11-stdlib", "libssl3", *wanted} <= set(found)
    assert not {"perl", "perl-base", "debconf", "dpkg", "mawk"} & set(found)
