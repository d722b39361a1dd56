"""Package indexes as pip is configured on this machine: where a wheel can be fetched from.

No index is named here: the default is the one every Python tool has, and pip's own settings
(`PIP_INDEX_URL`, `PIP_FIND_LINKS`, `pip.conf`) say what replaces or follows it.
"""

from __future__ import annotations

import configparser
import contextlib
import datetime
import functools
import importlib.util
import json
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urljoin, urlsplit

from builder import files
from builder.errors import ResolveError, UsageError
from builder.sources import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_JSON = "application/vnd.pypi.simple.v1+json"
_LINK = re.compile(rb"<a\s[^>]*>[^<]*</a>", re.IGNORECASE)
_ACCEPT = f"{_JSON}, text/html;q=0.5"
_parsing = threading.Lock()
"""One page at a time: a parsed page takes many times its size, and threads gain nothing here."""


@dataclass(frozen=True)
class Settings:
    """Where pip looks."""

    index: str
    extra: tuple[str, ...]
    find_links: tuple[str, ...]
    certificates: str | None = None
    """File of the certificates that pip trusts instead of the system's."""


@dataclass(frozen=True)
class Place:
    """A file as an index or a folder offers it."""

    url: str
    sha256: str | None
    size: int | None
    uploaded: datetime.datetime | None


@functools.cache
def settings() -> Settings:
    """Read pip's settings: environment first, then its files, as pip does."""
    values = _pip_values()
    certificates = values.get("cert", "").strip()
    return Settings(
        index=([*_addresses(values, "index-url")] or [_usual_index()])[-1],
        extra=tuple(_addresses(values, "extra-index-url")),
        find_links=tuple(_addresses(values, "find-links")),
        certificates=str(Path(certificates).expanduser()) if certificates else None,
    )


def _usual_index() -> str:
    """Return the index that every Python tool has.

    A constant of pypi_simple, read from its source: importing that brings an HTTP client and a
    parser of HTML, and takes as long as the rest of `builder` together.
    """
    found = importlib.util.find_spec("pypi_simple")
    source = Path(found.origin).read_text("utf-8") if found and found.origin else ""
    match = re.search(r'^PYPI_SIMPLE_ENDPOINT\b.*?"(\S+)"', source, re.MULTILINE)
    if match:
        return match[1]
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    return PYPI_SIMPLE_ENDPOINT


def _addresses(values: Mapping[str, str], key: str) -> Iterator[str]:
    for text in values.get(key, "").split():
        if "://" in text and not web.is_address(text):
            message = f"pip's {key}: `{web.redacted(text)}` is not an address"
            raise ResolveError(message, "correct it; write `/` in a password as %2F")
        yield text


def _pip_values() -> dict[str, str]:
    values: dict[str, str] = {}
    for path in _pip_files():
        parser = _parsed(path)
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                values |= {key.replace("_", "-"): text for key, text in parser.items(section)}
    for key in ("index-url", "extra-index-url", "find-links", "cert"):
        if text := os.environ.get("PIP_" + key.upper().replace("-", "_")):
            values[key] = text
    return values


def _parsed(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, "utf-8")
    except (configparser.Error, UnicodeDecodeError) as fault:
        # The first line alone: the others show the file's text, which may hold a password.
        reason = str(fault).partition("\n")[0]
        message = f"{path}: is no settings file of pip: {reason}"
        raise UsageError(message, "correct it, or set PIP_CONFIG_FILE=/dev/null") from None
    return parser


def _pip_files() -> Iterator[Path]:
    """Yield pip's files, the strongest last (pip documentation, "Configuration")."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    is_own = bool(chosen) and Path(chosen or "").exists()
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    yield Path("/etc/xdg/pip/pip.conf")
    yield Path("/etc/pip.conf")
    if not is_own:  # a chosen file stands in for the user's
        yield Path.home() / ".pip" / "pip.conf"
        yield xdg / "pip" / "pip.conf"
    if prefix := os.environ.get("VIRTUAL_ENV"):
        yield Path(prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def places(project: str, file: str) -> Iterator[Place]:
    """Yield where `file` is offered: folders and pages of links, the index, extra indexes."""
    ours = settings()
    yield from in_links(ours.find_links, file)
    for index in (ours.index, *ours.extra):
        yield from _in_index(index, project, file)


def in_links(links: Iterable[str], file: str) -> Iterator[Place]:
    """Yield where `file` is offered: in a folder, or on a page of links."""
    for link in links:
        yield from _in_link(link, file)


def _in_link(link: str, file: str) -> Iterator[Place]:
    folder = web.local_path(link) or (Path(link) if "://" not in link else None)
    if folder is not None and folder.is_dir():
        path = folder / file
        if path.is_file():
            yield Place(path.resolve().as_uri(), None, path.stat().st_size, None)
        return
    yield from _offered(folder.as_uri() if folder else link, file, _shared_page)


def _in_index(index: str, project: str, file: str) -> Iterator[Place]:
    base = index if "://" in index else Path(index).resolve().as_uri()
    url = f"{base.rstrip('/')}/{project}/"
    if web.local_path(url):
        url += "index.html"
    yield from _offered(url, file, _page)


def _offered(url: str, file: str, page: Callable[[str], bytes]) -> Iterator[Place]:
    try:
        body = page(url)
    except web.NotFoundError:
        return
    try:
        search = _in_json if body.lstrip()[:1] == b"{" else _in_html
        with _parsing:
            found = list(search(url, body, file))
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        message = f"{web.redacted(url)}: is not a page of a package index: {fault}"
        raise ResolveError(message, "check pip's index-url and find-links settings") from fault
    del body  # not kept while what was found is downloaded
    yield from found


def _page(url: str) -> bytes:
    return web.read(url, accept=_ACCEPT)


@functools.lru_cache(maxsize=4)
def _shared_page(url: str) -> bytes:
    """Keep what many files are sought on; a project's page is large and serves one of them."""
    return _page(url)


def _in_json(url: str, body: bytes, file: str) -> Iterator[Place]:
    """Look a file up in a JSON page (PEP 691).

    Read by hand: a typed page of a project with thousands of files takes a second to build.
    """
    for entry in json.loads(body)["files"]:
        if entry["filename"] == file:
            uploaded = entry.get("upload-time")
            yield Place(
                urljoin(url, entry["url"]),
                entry["hashes"].get("sha256"),
                entry.get("size"),
                datetime.datetime.fromisoformat(uploaded) if uploaded else None,
            )


def _in_html(url: str, body: bytes, file: str) -> Iterator[Place]:
    from pypi_simple import ProjectPage

    # Parsing a page of thousands of files takes a second; only links that name the file are parsed.
    names = (file.encode(), quote(file).encode())
    links = [link for link in _LINK.findall(body) if any(name in link for name in names)]
    for package in ProjectPage.from_html("", b"<html>" + b"\n".join(links), url).packages:
        link, _, _ = package.url.partition("#")
        if unquote(urlsplit(link).path.rpartition("/")[2]) == file:
            yield Place(link, package.digests.get("sha256"), package.size, package.upload_time)


def remember(sha256: str, url: str) -> None:
    """Note where a file was offered, so that fetching it needs no index page."""
    is_new = url not in remembered(sha256)  # a note is written to the disk itself: that takes long
    if is_new and web.local_path(url) is None and "@" not in urlsplit(url).netloc:
        files.write_atomic(_note_path(sha256), url.encode())


def remembered(sha256: str) -> Iterator[str]:
    """Yield where the file with this content was offered last."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        yield _note_path(sha256).read_text()


def _note_path(sha256: str) -> Path:
    return files.cache_folder() / "places" / sha256
