"""Read from the world by URL: http, https and file, with retries and errors that say what to do.

Nothing read here is trusted: callers check a digest or a signature.
"""

from __future__ import annotations

import functools
import os
import re
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from builder import __version__
from builder.errors import HostError, ResolveError
from builder.sources import patience

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import urllib3

_RETRIES = 4
_BACKOFF_SECONDS = 0.5
_CONNECT_SECONDS = 15.0
_READ_SECONDS = 60.0
_NOT_FOUND = (404, 410)
_OK, _PARTIAL, _NO_SUCH_RANGE = 200, 206, 416
_PACKED = {"accept-encoding": "gzip"}
_PLAIN = {"accept-encoding": "identity"}
_ADDRESS = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://)(?:(?!/)(?:[^\s`'\"<>]*|[^/\s?#]*)@)?"
    r"([^\s?#`'\"<>)]*)(?:[?#][^\s`'\"<>)]*)?",
    re.IGNORECASE,
)
"""Scheme, credentials, host and path, query.

Credentials end at the last `@`: people write passwords with a bare `/` or `#` in them.
"""


class NotFoundError(ResolveError):
    """The server answered, and has no such thing."""


class RefusedError(ResolveError):
    """The server answered, and does not let us have it."""


class BrokenError(ResolveError):
    """The connection ended in the middle of a body."""


class RangeError(ResolveError):
    """The server has fewer bytes than were asked to be skipped."""


_tokens: dict[tuple[str, str], str] = {}
"""By scheme and host, so that no other server ever gets one: urllib3 drops it on a redirect."""


def sign_in(url: str, token: str) -> None:
    """Send `token` with every request to the host of `url` from now on, and to no other host."""
    _tokens[_origin(url)] = token


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2]


def redacted(url: str) -> str:
    """Return `url` without user name, password and query, for messages.

    Whatever stands before the last `@` may be a password, even where the address is malformed.
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return re.split(r"[?#]", url, maxsplit=1)[0]
    if not rest.startswith("/"):
        rest = rest.rpartition("@")[2]
    return scheme + slashes + re.split(r"[?#]", rest, maxsplit=1)[0]


def redacted_text(text: str) -> str:
    """Return another tool's `text` with the addresses in it redacted."""
    return _ADDRESS.sub(lambda found: found[1] + found[2], text)


def _manager(url: str) -> urllib3.PoolManager:
    """Return the pool for `url`: through the machine's proxy unless `no_proxy` excepts the host."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and urllib.request.proxy_bypass(parts.hostname or ""):
        proxy = None
    return _pool(proxy, certificates())


def certificates() -> str | None:
    """Return the file of certificates to trust: SSL_CERT_FILE, else pip's; None: the system's."""
    from builder.sources import index  # which reads its pages through this module

    return os.environ.get("SSL_CERT_FILE") or index.settings().certificates


def is_address(text: str) -> bool:
    """Tell whether `text` can be taken apart; a malformed host or port cannot."""
    try:
        _ = urlsplit(text).port
    except ValueError:
        return False
    return True


@functools.cache
def _pool(proxy: str | None, trusted: str | None) -> urllib3.PoolManager:
    """Return the shared pool, which trusts the certificates of that file, or the system's."""
    import urllib3

    # Of connections alone: `patience` asks busy servers again, says so and has a limit.
    retries = urllib3.Retry(
        total=_RETRIES, backoff_factor=_BACKOFF_SECONDS, respect_retry_after_header=False
    )
    settings: dict[str, Any] = {
        "retries": retries,
        "timeout": urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
        "headers": {"user-agent": f"builder/{__version__}"},
        "maxsize": 16,
        "ca_certs": trusted,
    }
    if proxy is None:
        return urllib3.PoolManager(**settings)
    if not is_address(proxy):
        message = f"proxy: `{redacted(proxy)}` is not an address"
        raise HostError(message, "check http_proxy and https_proxy; write `/` in a password as %2F")
    user = urlsplit(proxy).netloc.rpartition("@")[0]
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(_without_user(proxy), proxy_headers=headers, **settings)


def local_path(url: str) -> Path | None:
    """Return the path that a `file:` URL names, None for other schemes."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "copy") else None


def read(url: str, accept: str = "*/*") -> bytes:
    """Return the whole body at `url`.

    Raises:
        NotFoundError: there is no such thing.
        ResolveError: it cannot be reached.
    """
    path = local_path(url)
    opener = _open_file(path, 0) if path else _open_http(url, {"accept": accept} | _PACKED)
    with opener as (body, _):
        return body.read()


def beginning(url: str, count: int) -> bytes:
    """Return the first `count` bytes at `url`, fewer if there are no more."""
    with opened(url, count=count) as (body, _):
        return body.read(count)


@contextmanager
def opened(url: str, offset: int = 0, count: int | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """Open `count` bytes at `url` from `offset` on, or all from 0 where ranges are not served.

    Yields the stream and the offset at which it really begins; without `count` it goes on.
    """
    path = local_path(url)
    last = offset + count - 1 if count else ""
    ranges = {"range": f"bytes={offset}-{last}"} if offset or count else {}
    opener = _open_file(path, offset) if path else _open_http(url, _PLAIN | ranges)
    with opener as result:
        yield result


@contextmanager
def _open_file(path: Path, offset: int) -> Iterator[tuple[BinaryIO, int]]:
    try:
        file = path.open("rb")
    except OSError as fault:
        message = f"{path}: {(fault.strerror or 'unreadable').lower()}"
        raise NotFoundError(message) from fault
    with file:
        file.seek(offset)
        yield file, offset


@contextmanager
def _open_http(
    url: str, headers: Mapping[str, str], method: str = "GET"
) -> Iterator[tuple[BinaryIO, int]]:
    import urllib3

    response = patience.answer(url, redacted(url), lambda: _ask(url, headers, method), _RETRIES)
    try:
        _check_status(url, response)
        yield response, _start(url, response)  # type: ignore[misc]
    except urllib3.exceptions.HTTPError as fault:
        message = f"{redacted(url)}: the connection broke: {type(fault).__name__}"
        raise BrokenError(message, "check the network, then run the command again") from fault
    finally:
        response.close()  # a connection with a body half read serves no other request


def _ask(url: str, headers: Mapping[str, str], method: str) -> urllib3.BaseHTTPResponse:
    import urllib3

    everything = {**headers, **_credentials(url)}
    try:
        return _manager(url).request(
            method, _without_user(url), headers=everything, preload_content=False
        )
    except urllib3.exceptions.HTTPError as fault:
        raise unreachable(url, fault) from fault


def _start(url: str, response: urllib3.BaseHTTPResponse) -> int:
    """Return the offset of the first byte of a body (RFC 9110, 14.4)."""
    if response.status != _PARTIAL:
        return 0
    span = response.headers.get("content-range", "bytes 0-").removeprefix("bytes ")
    first = span.partition("-")[0]
    if not first.isdecimal():
        message = f"{redacted(url)}: answered with an unreadable range `{span}`"
        raise ResolveError(message, "check the proxy between here and there")
    return int(first)


def _check_status(url: str, response: urllib3.BaseHTTPResponse) -> None:
    status = response.status
    if status in (_OK, _PARTIAL):
        return
    message = f"{redacted(url)}: answered {status}"
    if status in _NOT_FOUND:
        raise NotFoundError(message)
    if status == _NO_SUCH_RANGE:
        raise RangeError(message, "the place has fewer bytes than were locked: check it")
    if status in patience.BUSY:
        raise patience.busy(message, response.headers)
    if status in patience.REFUSED and (other := patience.other_host(url, response)):
        message = f"{redacted(url)}: sends to {other}, which answered {status}"
        raise ResolveError(message, "check the proxy between here and there")
    if status in patience.REFUSED:
        raise RefusedError(message, "check the credentials in your settings")
    raise ResolveError(message, "check the address and the credentials in your settings")


def _credentials(url: str) -> dict[str, str]:
    import urllib3

    user = urlsplit(url).netloc.rpartition("@")[0]
    if user:
        return urllib3.make_headers(basic_auth=unquote(user))
    token = _tokens.get(_origin(url))
    return {"authorization": f"Bearer {token}"} if token else {}


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def unreachable(url: str, fault: Exception) -> ResolveError:
    """Return the error for a server that does not answer."""
    import urllib3

    reason: BaseException = fault
    if isinstance(fault, urllib3.exceptions.MaxRetryError) and fault.reason is not None:
        reason = fault.reason
    message = f"{redacted(url)}: cannot be reached: {type(reason).__name__}"
    return ResolveError(message, "check the network and proxy settings, then run the command again")


def size(url: str) -> int:
    """Return the size in bytes of what is at `url`, without reading it."""
    path = local_path(url)
    if path:
        with _open_file(path, 0) as (file, _):
            return file.seek(0, os.SEEK_END)
    try:
        length = _length(url, "HEAD")
    except ResolveError:
        length = _length(url, "GET")  # signed addresses are good for GET alone
    if not length.isdecimal():
        message = f"{redacted(url)}: does not say how large it is"
        raise ResolveError(message, "check the proxy between here and there")
    return int(length)


def _length(url: str, method: str) -> str:
    with _open_http(url, _PLAIN, method) as (response, _):
        return str(response.headers.get("content-length", ""))  # type: ignore[attr-defined]
