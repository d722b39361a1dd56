"""Looking after the cache: what is in it, what is wrong, what can go, also while builds run."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builder.cli.app import app
from builder.digest import hex_of, of_bytes
from builder.errors import IntegrityError, UsageError
from builder.oci import collect, contents, removal, uses, verify
from builder.oci.collect import DAY, Limits
from builder.oci.layer import Layer
from builder.oci.store import Store
from builder.pipeline import storing

NOW = 1_700_000_000.0
LONG_AGO = 100 * DAY


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cache"
    monkeypatch.setenv("BUILDER_CACHE", str(root))
    return root


def layer(root: Path, name: str, size: int = 1000) -> Layer:
    store = Store(root)
    made = store.build_layer(name, "none", lambda tar: tar.file(name, size, [bytes(size)]))
    store.remember(name, made)
    return made


def placed(path: Path, data: bytes = b"x", idle: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return aged(path, idle)


def aged(path: Path, idle: float) -> Path:
    os.utime(path, (NOW - idle, NOW - idle))
    return path


def download(root: Path, data: bytes, idle: float = 0.0) -> Path:
    return placed(root / "downloads" / "sha256" / hex_of(of_bytes(data)), data, idle)


def everything(root: Path, idle: float) -> None:
    for path in [*root.rglob("*"), root]:
        aged(path, idle)


def swept(root: Path, limits: Limits | None = None) -> list[str]:
    """What a clean-up removes, as names below the cache."""
    victims = collect.plan(root, limits or Limits(), NOW)
    gone = collect.collect(victims, lambda _: None)
    return sorted(str(i.path.relative_to(root)) for v in gone for i in v.group.items)


def left(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


# --- usage --------------------------------------------------------------------------------------


def test_usage_counts_by_kind(cache: Path) -> None:
    made = layer(cache, "one")
    download(cache, b"wheel")
    placed(cache / "rootfs" / "key" / "usr" / "bin" / "sh", b"shell")
    placed(cache / "rootfs" / "key.lock", b"")
    placed(cache / "sandbox" / "hosts", b"hosts")
    placed(cache / "blobs" / "sha256" / ".tmp-left", b"half")
    rows = {row.kind: (row.count, row.size) for row in storing.usage().rows}
    record = Store(cache).record_path("one").stat().st_size
    assert rows == {
        "downloads": (1, 5),
        "blobs": (1, made.size),
        "layers": (1, record),
        "rootfs": (1, 5),
        "leftovers": (1, 4),
    }


def test_usage_counts_hard_links_in_a_tree_once(cache: Path) -> None:
    first = placed(cache / "rootfs" / "key" / "a", b"12345")
    (first.parent / "b").hardlink_to(first)
    assert storing.usage().size == 5


def test_an_empty_cache_has_nothing_in_it(cache: Path) -> None:
    usage = storing.usage()
    assert (usage.rows, usage.size, usage.running, usage.freed) == ((), 0, 0, 0)
    assert not cache.exists()


# --- verify -------------------------------------------------------------------------------------


def test_a_sound_cache_is_verified(cache: Path) -> None:
    layer(cache, "one")
    download(cache, b"wheel")
    placed(cache / "downloads" / "sha256" / f"{'0' * 64}.partial", b"half")
    found = storing.verify_store(is_quick=False, dry_run=False)
    assert (found.count, found.damages) == (3, ())
    found.require_whole()


def flip(path: Path) -> Path:
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path


def test_what_is_damaged_is_named_and_removed(cache: Path) -> None:
    made = layer(cache, "one")
    blob, wheel = flip(Store(cache).blob_path(made.digest)), flip(download(cache, b"wheel"))
    index = placed(cache / "indexes" / hex_of(of_bytes(b"index")), b"other")
    record = placed(cache / "collisions" / "key.json", b"{")
    found = storing.verify_store(is_quick=False, dry_run=False)
    assert {damage.item.path for damage in found.damages} == {blob, wheel, index, record}
    with pytest.raises(IntegrityError) as caught:
        found.require_whole()
    line = f"{wheel}: expected sha256:{wheel.name}, got {of_bytes(b'wheem')}"
    assert line in caught.value.message.splitlines()
    assert caught.value.hint.startswith("what was damaged is removed")
    assert left(cache) == ["layers/one.json"]
    assert Store(cache).recall("one") is None
    assert layer(cache, "one") == made


def test_a_dry_run_reports_and_removes_nothing(cache: Path) -> None:
    path = flip(download(cache, b"wheel"))
    found = storing.verify_store(is_quick=False, dry_run=True)
    assert [damage.item.path for damage in found.damages] == [path]
    assert path.exists()
    with pytest.raises(IntegrityError, match="expected sha256"):
        found.require_whole()


def test_a_quick_look_reads_records_and_sizes_only(cache: Path) -> None:
    same_size, short = layer(cache, "one"), layer(cache, "two")
    flip(Store(cache).blob_path(same_size.digest))
    path = Store(cache).blob_path(short.digest)
    path.chmod(0o644)
    os.truncate(path, 7)
    flip(Store(cache).record_path("one"))
    flip(download(cache, b"wheel"))
    found = storing.verify_store(is_quick=True, dry_run=False)
    assert [(damage.item.path, damage.fault) for damage in found.damages] == [
        (path, f"expected {short.size} bytes, got 7"),
        (Store(cache).record_path("one"), "is no record, or not what was written"),
    ]


def test_reading_to_verify_is_no_use(cache: Path) -> None:
    path = placed(cache / "indexes" / hex_of(of_bytes(b"index")), b"index", LONG_AGO)
    storing.verify_store(is_quick=False, dry_run=False)
    assert path.stat().st_atime == NOW - LONG_AGO


def test_what_was_made_again_meanwhile_is_not_removed(cache: Path) -> None:
    path = flip(download(cache, b"wheel"))
    found = storing.verify_store(is_quick=False, dry_run=True)
    path.unlink()
    download(cache, b"wheel")
    verify.removed(found.damages)
    assert path.read_bytes() == b"wheel"


# --- gc: what goes ------------------------------------------------------------------------------


def test_what_was_not_used_for_long_goes(cache: Path) -> None:
    old, used = layer(cache, "old"), layer(cache, "used")
    download(cache, b"old", LONG_AGO)
    download(cache, b"used", 29 * DAY)
    placed(cache / "rootfs" / "key" / "file")
    everything(cache, 10 * DAY)
    for path in (Store(cache).record_path("old"), Store(cache).blob_path(old.digest)):
        aged(path, LONG_AGO)
    aged(cache / "downloads" / "sha256" / hex_of(of_bytes(b"old")), LONG_AGO)
    aged(cache / "rootfs" / "key", LONG_AGO)
    assert swept(cache) == [
        f"blobs/sha256/{hex_of(old.digest)}",
        f"downloads/sha256/{hex_of(of_bytes(b'old'))}",
        "layers/old.json",
        "rootfs/key",
    ]
    assert Store(cache).recall("used") == used
    assert not (cache / "rootfs" / "key").exists()


def test_a_blob_is_as_young_as_the_youngest_of_its_records(cache: Path) -> None:
    made = layer(cache, "one")
    Store(cache).remember("two", made)
    everything(cache, LONG_AGO)
    aged(Store(cache).record_path("two"), DAY)
    assert swept(cache) == []
    assert Store(cache).recall("one") == made


def test_what_nothing_refers_to_goes_whatever_its_age(cache: Path) -> None:
    orphan = Store(cache).put(b"no record names it")
    gone = layer(cache, "gone")
    Store(cache).blob_path(gone.digest).unlink()
    placed(cache / "layers" / "damaged.json", b"{")
    everything(cache, 2 * DAY)
    names = [f"blobs/sha256/{hex_of(orphan)}", "layers/damaged.json", "layers/gone.json"]
    assert swept(cache) == names


def test_a_size_takes_what_was_used_longest_ago(cache: Path) -> None:
    for days in (1, 2, 3, 4):
        download(cache, bytes([days]) * 100, days * DAY)
    placed(cache / "weights" / "key.json", b"{}", 20 * DAY)
    gone = swept(cache, Limits(size=250))
    assert gone == sorted(
        f"downloads/sha256/{hex_of(of_bytes(bytes([days]) * 100))}" for days in (3, 4)
    )


def test_what_is_not_known_stays(cache: Path) -> None:
    placed(cache / "mine" / "file", b"x", LONG_AGO)
    everything(cache, LONG_AGO)
    assert swept(cache, Limits(size=0)) == []


def test_a_small_record_that_was_read_lately_stays(cache: Path) -> None:
    path = placed(cache / "weights" / "key.json", b"{}", LONG_AGO)
    os.utime(path, (NOW - DAY, NOW - LONG_AGO))
    assert swept(cache) == []


# --- gc: what killed runs left ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "blobs/sha256/.tmp-left",
        "blobs/sha256/.tmp-gone-0000",
        "layers/.tmp-left",
        "rootfs/.tmp-key/file",
        "rootfs/.tmp-gone-key/file",
    ],
)
def test_what_a_killed_run_left_goes(cache: Path, name: str) -> None:
    placed(cache / name)
    (cache / "rootfs").mkdir(exist_ok=True)
    placed(cache / "rootfs" / "key.lock", b"")
    everything(cache, NOW - 1)
    swept(cache)
    assert left(cache) == ["rootfs/key.lock"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(
    ("name", "lock"),
    [
        ("blobs/sha256/.tmp-busy", "blobs/sha256/.tmp-busy"),
        ("rootfs/.tmp-key/file", "rootfs/key.lock"),
        (f"downloads/sha256/{'0' * 64}.partial", f"downloads/sha256/{'0' * 64}.partial"),
    ],
)
def test_what_is_being_written_stays(cache: Path, name: str, lock: str) -> None:
    path = placed(cache / name)
    with locked(cache / lock):
        everything(cache, NOW - 1)
        assert swept(cache) == []
    assert path.exists()
    assert len(swept(cache)) == 1
    assert not path.exists()


def test_a_download_that_was_interrupted_lately_stays(cache: Path) -> None:
    placed(cache / "downloads" / "sha256" / f"{'0' * 64}.partial", b"half", DAY)
    assert swept(cache) == []


# --- gc beside builds ---------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from builder.oci import uses
uses.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def builder_running(cache: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the cache, begun five days ago."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for path in (cache / "running").iterdir():
            aged(path, 5 * DAY)
        yield process
        process.kill()


def test_what_was_used_since_a_running_build_began_stays(cache: Path) -> None:
    before, since = download(cache, b"before", 6 * DAY), download(cache, b"since", 4 * DAY)
    with builder_running(cache):
        assert uses.running(cache).count == 1
        everything_goes = Limits(seconds=0, size=0)
        assert swept(cache, everything_goes) == [f"downloads/sha256/{before.name}"]
    assert uses.running(cache).count == 0
    assert swept(cache, everything_goes) == [f"downloads/sha256/{since.name}"]


def test_who_was_killed_holds_nothing_and_its_file_goes(cache: Path) -> None:
    with builder_running(cache) as process:
        process.kill()
        process.wait()
        assert uses.running(cache) == uses.Running(0, None)
    assert len(list((cache / "running").iterdir())) == 1
    Store(cache).sweep()
    assert list((cache / "running").iterdir()) == []


def test_who_just_began_counts_before_it_has_its_lock(cache: Path) -> None:
    path = placed(cache / "running" / ".tmp-new")
    os.utime(path)
    assert uses.running(cache).count == 1


def test_whoever_uses_a_cache_that_cannot_be_written_goes_on(tmp_path: Path) -> None:
    uses.hold(placed(tmp_path / "file") / "cache")
    assert uses.running(tmp_path / "file" / "cache").count == 0


def test_what_was_used_after_it_was_chosen_stays(cache: Path) -> None:
    made = layer(cache, "one")
    wheel = download(cache, b"wheel")
    everything(cache, LONG_AGO)
    victims = collect.plan(cache, Limits(), NOW)
    assert len(victims) == 2
    assert Store(cache).recall("one") == made
    os.utime(wheel)
    assert collect.collect(victims, lambda _: None) == []
    assert Store(cache).recall("one") == made
    assert wheel.exists()


def test_what_was_written_anew_after_it_was_chosen_stays(cache: Path) -> None:
    made = layer(cache, "one")
    everything(cache, LONG_AGO)
    victims = collect.plan(cache, Limits(), NOW)
    Store(cache).record_path("one").unlink()
    layer(cache, "one")
    assert collect.collect(victims, lambda _: None) == []
    assert Store(cache).recall("one") == made


def odd_blobs(root: Path) -> list[Path]:
    """What no builder puts there: a pipe, links and a folder."""
    folder = root / "blobs" / "sha256"
    pipe, link, dangling, tree = (folder / (digit * 64) for digit in "0123")
    tree.mkdir(parents=True)
    os.mkfifo(pipe)
    link.symlink_to(placed(root.parent / "elsewhere"))
    dangling.symlink_to("nothing")
    odd = [pipe, link, dangling, tree]
    for path in odd:
        os.utime(path, (NOW - DAY, NOW - DAY), follow_symlinks=False)
    return odd


def test_what_is_no_file_is_removed_like_one(cache: Path) -> None:
    odd = odd_blobs(cache)
    assert swept(cache) == [f"blobs/sha256/{path.name}" for path in odd]
    assert not any(os.path.lexists(path) for path in odd)
    assert (cache.parent / "elsewhere").exists()


def test_what_is_no_file_is_damage_unless_it_is_absent(cache: Path) -> None:
    pipe, link, dangling, tree = odd_blobs(cache)
    found = storing.verify_store(is_quick=False, dry_run=False)
    assert {damage.item.path for damage in found.damages} == {pipe, link, tree}
    assert not any(os.path.lexists(path) for path in (pipe, link, tree))
    assert os.path.lexists(dangling)


def test_what_is_gone_already_is_no_fault(cache: Path) -> None:
    path = download(cache, b"wheel", LONG_AGO)
    victims = collect.plan(cache, Limits(), NOW)
    path.unlink()
    assert collect.collect(victims, lambda _: None) == []


def test_a_tree_that_was_used_after_it_was_looked_at_stays_whole(cache: Path) -> None:
    placed(cache / "rootfs" / "key" / "file")
    (item,) = contents.contents(cache)
    os.utime(cache / "rootfs" / "key")
    assert removal.remove(item) is False
    assert left(cache) == ["rootfs/key/file"]


def test_a_clean_up_that_was_killed_is_no_hindrance(cache: Path) -> None:
    placed(cache / "rootfs" / "key" / "file")
    placed(cache / "rootfs" / ".tmp-gone-key" / "half")
    everything(cache, LONG_AGO)
    aged(cache / "rootfs" / ".tmp-gone-key", DAY)
    assert swept(cache) == ["rootfs/.tmp-gone-key", "rootfs/key"]
    assert left(cache) == []


@pytest.mark.parametrize("name", ["rootfs/key", "rootfs/.tmp-gone-key"])
def test_what_another_clean_up_is_removing_is_left_to_it(cache: Path, name: str) -> None:
    placed(cache / name / "file")
    everything(cache, LONG_AGO)
    descriptor = os.open(cache / name, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert swept(cache) == []
    os.close(descriptor)
    assert swept(cache) == [name]


def test_builds_and_clean_ups_at_once_never_see_a_broken_layer(cache: Path) -> None:
    """Whatever was recalled and is whole is the layer; else it is built again."""
    made = layer(cache, "one", 5000)
    script = (
        "import sys; from pathlib import Path; from builder.oci import collect\n"
        "root, limits = Path(sys.argv[1]), collect.Limits(seconds=0, size=0)\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    collect.collect(collect.plan(root, limits, 4e9), lambda _: None)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cache)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(300):
            found = Store(cache).recall("one") or layer(cache, "one", 5000)
            assert found == made
            path = Store(cache).blob_path(made.digest)
            if path.exists():
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue
                assert of_bytes(data) == made.digest
        assert process.poll() is None
        process.kill()
    assert (Store(cache).recall("one") or layer(cache, "one", 5000)) == made


# --- the commands -------------------------------------------------------------------------------


def ran(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["store", *arguments])
    if isinstance(result.exception, (IntegrityError, UsageError)):
        return result.exception.exit_code, result.stdout
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_the_commands_answer_in_json(cache: Path) -> None:
    path = download(cache, b"wheel")
    os.utime(path, (time.time() - LONG_AGO,) * 2)
    code, text = ran("usage", "--json")
    assert code == 0
    values = json.loads(text)
    assert values["folder"] == str(cache)
    assert (values["bytes"], values["gc_bytes"], values["running"]) == (5, 5, 0)
    assert json.loads(ran("verify", "--json")[1]) == {
        "count": 1,
        "bytes": 5,
        "removed": True,
        "damaged": [],
    }
    row = {
        "kind": "downloads",
        "path": str(path),
        "bytes": 5,
        "reason": "not used for long",
    }
    assert json.loads(ran("gc", "--json", "--dry-run")[1]) == {
        "removed": [row],
        "bytes": 5,
        "dry_run": True,
    }
    assert path.exists()
    assert json.loads(ran("gc", "--json")[1])["removed"] == [row]
    assert not path.exists()


def test_the_commands_answer_people(cache: Path) -> None:
    path = download(cache, b"wheel")
    os.utime(path, (time.time() - LONG_AGO,) * 2)
    assert "downloads   oldest 100 d" in ran("usage")[1]
    assert ran("verify") == (0, "")
    assert "not used for long" in ran("gc", "--dry-run")[1]


def test_damage_ends_with_its_own_code_and_all_data(cache: Path) -> None:
    path = flip(download(cache, b"wheel"))
    code, text = ran("verify", "--json", "--dry-run")
    assert code == IntegrityError.exit_code
    assert [row["path"] for row in json.loads(text)["damaged"]] == [str(path)]


@pytest.mark.parametrize(
    ("flag", "text", "kept"),
    [
        ("--older-than", "101d", True),
        ("--older-than", "99d", False),
        ("--older-than", "2w", False),
        ("--older-than", "2500h", True),
        ("--max-size", "1kB", False),
    ],
)
def test_limits_have_units(cache: Path, flag: str, text: str, kept: bool) -> None:
    path = download(cache, bytes(2000))
    os.utime(path, (time.time() - LONG_AGO,) * 2)
    assert ran("gc", flag, text)[0] == 0
    assert path.exists() is kept


@pytest.mark.parametrize("text", ["30", "d", "30 years", "-1d", "1e3d", "9" * 400 + "d", ""])
def test_limits_without_sense_are_refused(cache: Path, text: str) -> None:
    assert ran("gc", "--older-than", text)[0] == UsageError.exit_code
