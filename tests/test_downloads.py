"""The cache of downloads: every byte checked, none fetched twice, nothing lost to an interrupt."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.errors import HostError, IntegrityError, ResolveError
from builder.sources import web
from builder.sources.downloads import Downloads, Framing, Wanted
from tests.file_server import Site, serving

CONTENT = os.urandom(700_000)
OTHER = os.urandom(700_000)
AGAIN = (
    "check the network, then run the command again\n"
    "what has arrived is kept: the next run goes on from there"
)
CHECK = "the place has other bytes than were locked: check it before locking again"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        found.pages["/file"] = CONTENT
        yield found


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted(*urls: str, content: bytes = CONTENT, gone: ResolveError | None = None) -> Wanted:
    return Wanted(
        label="torch.whl",
        sha256=sha256(content),
        size=len(content),
        urls=lambda: urls,
        gone=(lambda: gone) if gone else None,
    )


def partial(downloads: Downloads, content: bytes = CONTENT) -> Path:
    return downloads.path(sha256(content) + ".partial")


def left(downloads: Downloads, content: bytes) -> Path:
    """What an interrupted run left behind."""
    path = partial(downloads)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def names(downloads: Downloads) -> list[str]:
    return sorted(path.name for path in downloads.path("x").parent.iterdir())


def test_a_file_is_fetched_verified_and_read_only(site: Site, downloads: Downloads) -> None:
    downloads.fetch([wanted(site.url + "/file")])
    path = downloads.path(sha256(CONTENT))
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o444
    assert names(downloads) == [sha256(CONTENT)]


def test_what_is_there_is_not_asked_for(site: Site, downloads: Downloads) -> None:
    downloads.fetch([wanted(site.url + "/file")])

    def fail() -> Iterable[str]:
        pytest.fail("places were asked for")

    item = wanted()
    Downloads(downloads.path("").parents[1]).fetch(
        [Wanted(label=item.label, sha256=item.sha256, size=item.size, urls=fail)]
    )
    assert len(site.requests) == 1


def test_an_empty_file_is_a_file(site: Site, downloads: Downloads) -> None:
    site.pages["/empty"] = b""
    downloads.fetch([wanted(site.url + "/empty", content=b"")])
    assert names(downloads) == [sha256(b"")]


def test_a_local_file_is_copied(tmp_path: Path, downloads: Downloads) -> None:
    (tmp_path / "with space").write_bytes(CONTENT)
    downloads.fetch([wanted((tmp_path / "with space").as_uri())])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, downloads: Downloads) -> None:
    site.cuts["/file"] = [300_000, 100_000]
    downloads.fetch([wanted(site.url + "/file")])
    assert site.spans() == [None, "bytes=300000-", "bytes=400000-"]
    assert site.sent == len(CONTENT)


def test_a_server_that_keeps_breaking_is_an_error_and_the_next_run_goes_on(
    site: Site, downloads: Downloads
) -> None:
    site.cuts["/file"] = [100_000] * 5
    with pytest.raises(ResolveError) as caught:
        downloads.fetch([wanted(site.url + "/file")])
    assert caught.value.message == (
        f"torch.whl from {site.url}/file: ended after 500000 of 700000 bytes"
    )
    assert caught.value.hint == AGAIN
    assert partial(downloads).stat().st_size == 500_000
    downloads.fetch([wanted(site.url + "/file")])
    assert site.spans()[-1] == "bytes=500000-"
    assert site.sent == len(CONTENT)


def test_a_shorter_file_is_a_truncated_download(site: Site, downloads: Downloads) -> None:
    site.pages["/file"] = CONTENT[:1000]
    with pytest.raises(ResolveError) as caught:
        downloads.fetch([wanted(site.url + "/file")])
    assert caught.value.message == (
        f"torch.whl from {site.url}/file: ended after 1000 of 700000 bytes"
    )
    site.pages["/file"] = CONTENT
    downloads.fetch([wanted(site.url + "/file")])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(site: Site, downloads: Downloads) -> None:
    left(downloads, CONTENT[:1000])
    site.ranges = False
    downloads.fetch([wanted(site.url + "/file")])
    assert site.spans() == ["bytes=1000-"]
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_wrong_bytes_are_an_error_that_names_both_digests(site: Site, downloads: Downloads) -> None:
    site.pages["/file"] = OTHER
    with pytest.raises(IntegrityError) as caught:
        downloads.fetch([wanted(site.url + "/file")])
    expected, got = sha256(CONTENT), sha256(OTHER)
    assert caught.value.message == (
        f"torch.whl from {site.url}/file: expected sha256:{expected}, got sha256:{got}"
    )
    assert (caught.value.hint, caught.value.exit_code) == (CHECK, 10)
    assert names(downloads) == []


def test_a_longer_body_is_an_error_and_is_not_read_to_the_end(
    site: Site, downloads: Downloads
) -> None:
    site.pages["/file"] = CONTENT + b"x" * (64 << 20)
    with pytest.raises(IntegrityError) as caught:
        downloads.fetch([wanted(site.url + "/file")])
    assert caught.value.message == (
        f"torch.whl from {site.url}/file: is longer than the 700000 bytes of the lock"
    )
    assert names(downloads) == []


@pytest.mark.parametrize(
    "start", [OTHER[:1000], OTHER, OTHER + b"more", b""], ids=["part", "whole", "longer", "empty"]
)
def test_a_wrong_partial_file_does_not_spoil_a_good_place(
    site: Site, downloads: Downloads, start: bytes
) -> None:
    left(downloads, start)
    downloads.fetch([wanted(site.url + "/file")])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT
    assert names(downloads) == [sha256(CONTENT)]


def test_a_partial_file_beyond_the_end_of_a_place_is_begun_anew(
    site: Site, downloads: Downloads
) -> None:
    left(downloads, OTHER[:5000])
    site.pages["/short"] = b"x" * 100
    with pytest.raises(ResolveError, match="ended after 100 of 700000 bytes"):
        downloads.fetch([wanted(site.url + "/short")])
    assert site.spans() == ["bytes=5000-", None]
    assert partial(downloads).read_bytes() == b"x" * 100


def test_a_file_that_was_whole_before_it_got_its_name_is_not_fetched(
    site: Site, downloads: Downloads
) -> None:
    left(downloads, CONTENT)
    downloads.fetch([wanted(site.url + "/file")])
    assert names(downloads) == [sha256(CONTENT)]
    assert not site.requests


def test_a_failure_says_that_what_has_arrived_is_kept(site: Site, downloads: Downloads) -> None:
    left(downloads, CONTENT[:1000])
    site.status["/closed"] = 403
    with pytest.raises(web.RefusedError) as caught:
        downloads.fetch([wanted(site.url + "/closed")])
    assert caught.value.hint.splitlines() == [
        "check the credentials in your settings",
        "what has arrived is kept: the next run goes on from there",
    ]


# --- the digest of what a file is the middle of ---------------------------------------------------

BEFORE, AFTER = b"header" * 100, b"padding"
WHOLE = "sha256:" + sha256(BEFORE + CONTENT + AFTER)


def framed(found: list[str], *urls: str) -> Wanted:
    return replace(wanted(*urls), framed=Framing(BEFORE, AFTER, found.append))


STARTS = {
    "nothing": b"",
    "part": CONTENT[:300_000],
    "whole": CONTENT,
    "wrong part": OTHER[:300_000],
    "wrong whole": OTHER,
    "longer": CONTENT + b"more",
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("ranges", [True, False])
def test_the_digest_of_a_frame_comes_with_the_file(
    site: Site, downloads: Downloads, name: str, ranges: bool
) -> None:
    left(downloads, STARTS[name])
    site.cuts["/file"] = [350_000]
    site.ranges = ranges
    found: list[str] = []
    downloads.fetch([framed(found, site.url + "/file")])
    assert found == [WHOLE]
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_the_digest_of_a_frame_is_never_that_of_other_bytes(
    site: Site, downloads: Downloads
) -> None:
    site.pages["/wrong"] = OTHER
    found: list[str] = []
    with pytest.raises(IntegrityError):
        downloads.fetch([framed(found, site.url + "/wrong")])
    assert not found
    downloads.fetch([framed(found, site.url + "/wrong", site.url + "/file")])
    assert found == [WHOLE]


def test_a_file_that_was_here_before_is_not_read_for_its_frame(
    site: Site, downloads: Downloads
) -> None:
    downloads.fetch([wanted(site.url + "/file")])
    found: list[str] = []
    downloads.fetch([framed(found, site.url + "/file")])
    assert not found


def test_progress_ends_at_the_size_of_the_file_whatever_happened(
    site: Site, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(downloads, OTHER[:300_000])
    site.cuts["/file"] = [100_000]
    counts: list[int] = []
    bar = SimpleNamespace(advance=counts.append)
    monkeypatch.setattr("builder.console.progress", lambda *_: nullcontext(bar))
    downloads.fetch([wanted(site.url + "/file")])
    assert counts[0] == 300_000
    assert min(counts) == -len(CONTENT)
    assert sum(counts) == len(CONTENT)


# --- places ---------------------------------------------------------------------------------------


def test_a_place_that_has_it_not_is_passed_over(site: Site, downloads: Downloads) -> None:
    downloads.fetch([wanted(site.url + "/absent", "file:///no/such", site.url + "/file")])
    assert site.paths() == ["/absent", "/file"]


def test_a_place_with_wrong_bytes_is_passed_over(site: Site, downloads: Downloads) -> None:
    site.pages["/wrong"] = OTHER
    downloads.fetch([wanted(site.url + "/wrong", site.url + "/file")])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_a_file_that_no_place_has_is_gone(site: Site, downloads: Downloads) -> None:
    gone = ResolveError("torch.whl: nobody has it", "ask around")
    with pytest.raises(ResolveError) as caught:
        downloads.fetch([wanted(site.url + "/a", "file:///no/such", gone=gone)])
    assert caught.value is gone
    assert names(downloads) == []


@pytest.mark.parametrize("urls", [(), ("file:///no/such",)])
def test_a_file_without_a_place_is_an_error(downloads: Downloads, urls: tuple[str, ...]) -> None:
    with pytest.raises(ResolveError) as caught:
        downloads.fetch([wanted(*urls)])
    assert (caught.value.message, caught.value.hint) == (
        "torch.whl: no configured place has this file",
        "check the index settings, or lock again",
    )


def test_wrong_bytes_say_more_than_absence(site: Site, downloads: Downloads) -> None:
    site.pages["/wrong"] = OTHER
    site.status["/closed"] = 403
    urls = [site.url + path for path in ("/absent", "/closed", "/wrong")]
    with pytest.raises(IntegrityError):
        downloads.fetch([wanted(*urls)])
    with pytest.raises(web.RefusedError) as caught:
        downloads.fetch([wanted(*urls[:2])])
    assert caught.value.message == f"{site.url}/closed: answered 403"


def test_the_same_file_is_fetched_once(site: Site, downloads: Downloads) -> None:
    downloads.fetch([wanted(site.url + "/file")] * 5)
    assert len(site.requests) == 1


def test_two_runs_at_once_fetch_a_file_once(site: Site, tmp_path: Path) -> None:
    together = threading.Barrier(12, timeout=10)

    def one(_: int) -> None:
        together.wait()
        Downloads(tmp_path).fetch([wanted(site.url + "/file")])

    with ThreadPoolExecutor(12) as workers:
        list(workers.map(one, range(12)))
    assert len(site.requests) == 1
    assert names(Downloads(tmp_path)) == [sha256(CONTENT)]


def test_many_files_arrive_side_by_side(site: Site, downloads: Downloads) -> None:
    contents = [b"%d" % number * 100 for number in range(50)]
    site.pages |= {f"/{n}": content for n, content in enumerate(contents)}
    downloads.fetch(
        [wanted(f"{site.url}/{n}", content=content) for n, content in enumerate(contents)]
    )
    assert names(downloads) == sorted(map(sha256, contents))


def test_one_failure_ends_the_others(site: Site, downloads: Downloads) -> None:
    site.stalls["/file"] = 1000
    site.pages["/wrong"] = OTHER[:10]
    small = wanted(site.url + "/wrong", content=b"0123456789")
    with pytest.raises(IntegrityError):
        downloads.fetch([wanted(site.url + "/file"), small])


@pytest.mark.parametrize("limit", [0, 300_000])
def test_a_full_disk_is_an_error(site: Site, downloads: Downloads, limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(HostError) as caught:
            downloads.fetch([wanted(site.url + "/file")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.message == f"{partial(downloads)}: cannot be written: file too large"
    assert not downloads.has(wanted())
    downloads.fetch([wanted(site.url + "/file")])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    downloads = Downloads(tmp_path / "cache")
    with pytest.raises(HostError) as caught:
        downloads.fetch([wanted(site.url + "/file")])
    assert caught.value.message == f"{partial(downloads)}: cannot be written: not a directory"
    assert site.requests == []


def test_credentials_are_sent_but_never_shown(site: Site, downloads: Downloads) -> None:
    host = site.url.removeprefix("http://")
    url = f"http://jane:s%40cret@{host}"
    site.status["/closed"] = 401
    site.pages["/wrong"] = OTHER
    site.pages["/short"] = CONTENT[:10]
    messages = []
    for path in ("/closed", "/wrong", "/short", "/absent"):
        with pytest.raises((ResolveError, IntegrityError)) as caught:
            downloads.fetch([wanted(f"{url}{path}?token=s%40cret")])
        messages.append(f"{caught.value.message} {caught.value.hint}")
    assert not [text for text in messages if "cret" in text or "jane" in text]
    assert {request.user for request in site.requests} == {"jane:s@cret"}


def test_a_server_that_is_not_there_is_an_error(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as site:
        url = site.url
    monkeypatch.setattr(web, "_RETRIES", 0)
    web._pool.cache_clear()  # noqa: SLF001 - pools keep the number of retries
    try:
        with pytest.raises(ResolveError) as caught:
            downloads.fetch([wanted(f"{url}/file")])
    finally:
        web._pool.cache_clear()  # noqa: SLF001
    assert (caught.value.message, caught.value.hint) == (
        f"{url}/file: cannot be reached: NewConnectionError",
        "check the network and proxy settings, then run the command again",
    )


INTERRUPTED = """
    import sys
    from pathlib import Path
    from builder.sources.downloads import Downloads, Wanted
    url, sha256, folder = sys.argv[1:]
    try:
        Downloads(Path(folder)).fetch(
            [Wanted(label="x", sha256=sha256, size=700_000, urls=lambda: [url])]
        )
    except KeyboardInterrupt:
        sys.exit(130)
"""


def arrives(path: Path) -> None:
    """Wait until something of a file is on disk."""
    deadline = time.monotonic() + 10
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_ctrl_c_stops_at_once_and_keeps_what_has_arrived(
    site: Site, tmp_path: Path, downloads: Downloads
) -> None:
    site.stalls["/file"] = 400_000
    argv = [sys.executable, "-c", textwrap.dedent(INTERRUPTED)]
    process = subprocess.Popen([*argv, f"{site.url}/file", sha256(CONTENT), str(tmp_path)])
    arrives(partial(downloads))
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    kept = partial(downloads).stat().st_size
    assert 0 < kept <= 400_000
    del site.stalls["/file"]
    downloads.fetch([wanted(site.url + "/file")])
    assert site.spans() == [None, f"bytes={kept}-"]


def test_a_killed_run_leaves_no_lock(site: Site, tmp_path: Path, downloads: Downloads) -> None:
    site.stalls["/file"] = 400_000
    argv = [sys.executable, "-c", textwrap.dedent(INTERRUPTED)]
    process = subprocess.Popen([*argv, f"{site.url}/file", sha256(CONTENT), str(tmp_path)])
    assert site.stalled.wait(10)
    process.kill()
    assert process.wait(5) == -signal.SIGKILL
    del site.stalls["/file"]
    downloads.fetch([wanted(site.url + "/file")])
    assert downloads.path(sha256(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("no_proxy", "goes_through"), [("", True), ("127.0.0.1", False), ("other.test", True)]
)
def test_the_machines_proxy_is_used_except_where_it_is_not_to_be(
    site: Site, monkeypatch: pytest.MonkeyPatch, no_proxy: str, goes_through: bool
) -> None:
    with serving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", no_proxy)
        proxy.pages[f"{site.url}/file"] = b"from the proxy"
        expected = b"from the proxy" if goes_through else CONTENT
        assert web.read(f"{site.url}/file") == expected


def test_the_size_of_a_file_is_read_without_the_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert web.size(f"{site.url}/file") == len(CONTENT)
    assert [request.method for request in site.requests] == ["HEAD"]
    assert web.size((tmp_path / "x").as_uri()) == 5
    with pytest.raises(web.NotFoundError, match="absent: answered 404"):
        web.size(f"{site.url}/absent")
    with pytest.raises(web.NotFoundError, match="no such file or directory"):
        web.size("file:///no/such")
