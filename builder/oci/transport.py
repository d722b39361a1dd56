"""One HTTP exchange: connections, certificates, proxies, and redirects followed by hand.

What goes out with credentials goes to one origin: scheme, host and port.  Nothing follows a
redirect from https to http.
"""

from __future__ import annotations

import functools
import os
import random
import ssl
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from builder import __version__
from builder.errors import HostError
from builder.oci.refusals import BrokenError, RegistryError, UnfitError, UntrustedError, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import urllib3

_CONNECT_SECONDS = 15.0
_READ_SECONDS = 60.0
_REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_DOCKER_CERTIFICATES = Path("/etc/docker/certs.d")
_POOL = 16
_BLOCK = 1 << 16

Answer = Any
"""A `urllib3.BaseHTTPResponse`, its body not yet read."""


@dataclass(frozen=True)
class Settings:
    """How registries are reached; the same for every repository of a command."""

    plain_http: frozenset[str] = frozenset()
    """Hosts, with their ports, for which http was asked."""
    certificates: str | None = None
    """File of certificates to trust instead of the system's."""
    sleep: Callable[[float], object] = time.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent; credentials are not part of it, since they do not go wherever it goes."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)
    seconds: float = _READ_SECONDS
    """How long the registry may be silent before it answers."""


class SourceError(Exception):
    """What was to be sent could not be read: the fault is not the registry's."""


class Transport:
    """Sends requests on behalf of one repository."""

    def __init__(self, settings: Settings, place: str) -> None:
        self.settings = settings
        self.place = place
        """How messages begin."""

    def send(self, request: Request, authorization: str | None = None) -> Answer:
        """Send one request and return the answer, whatever it is.

        Raises:
            BrokenError: there was none.
        """
        import urllib3

        headers = {"user-agent": f"builder/{__version__}", "accept-encoding": "identity"}
        headers |= request.headers
        if authorization:
            headers["authorization"] = authorization
        with self.faults(request.url):
            return self._manager(request.url).urlopen(
                request.method,
                request.url,
                headers=headers,
                body=request.body,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=request.seconds),
                preload_content=False,
                redirect=False,
                retries=False,
            )

    def follow(self, request: Request, authorization: str | None = None) -> Answer:
        """Send a GET or HEAD and follow redirects; other hosts are not told who asks."""
        for _ in range(_REDIRECTS + 1):
            answer = self.send(request, authorization)
            location = answer.headers.get("location")
            if answer.status not in _MOVED or not location:
                return answer
            answer.close()
            target = self.joined(request.url, location)
            if origin(target) != origin(request.url):
                authorization = None
            request = replace(request, url=target)
        message = f"{self.place}: over {_REDIRECTS} redirects"
        raise UnfitError(message, "check the registry and the proxy before it")

    def joined(self, url: str, location: str) -> str:
        """Return where `location`, in an answer from `url`, leads to."""
        try:
            target = urljoin(url, location.strip())
            scheme, host, _ = origin(target)
        except ValueError:
            scheme, host, target = "", "", ""
        if scheme not in ("http", "https") or not host:
            message = f"{self.place}: answered with an unreadable address"
            raise UnfitError(message, "check the registry and the proxy before it")
        if scheme == "http" and urlsplit(url).scheme == "https":
            message = f"{self.place}: leads from https to `http://{clean(host)}`"
            hint = "let the proxy before the registry send `X-Forwarded-Proto: https`"
            raise UnfitError(message, hint)
        return target

    def content(self, answer: Answer, limit: int) -> bytes:
        """Return the body of an answer, of at most `limit` bytes.

        Raises:
            UnfitError: there is more.
        """
        data = bytearray()
        with _closed_unless_read(answer), self.faults():
            for block in answer.stream(_BLOCK, decode_content=True):
                data += block
                if len(data) > limit:
                    message = f"{self.place}: answered with over {limit} bytes"
                    raise UnfitError(message, "check the registry and the proxy before it")
        return bytes(data)

    @contextmanager
    def faults(self, url: str = "") -> Iterator[None]:
        """Report what goes wrong on a connection, to `url` if it is new, in our words."""
        import urllib3

        try:
            yield
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise self._fault(url, cause(fault)) from fault

    def _fault(self, url: str, reason: BaseException) -> RegistryError:
        if isinstance(reason, ssl.SSLCertVerificationError):
            message = f"{self.place}: its certificate is not trusted: {reason.verify_message}"
            folder = _DOCKER_CERTIFICATES / _netloc(url)
            return UntrustedError(message, f"put its CA into {folder}/ca.crt or set SSL_CERT_FILE")
        fault = f"to {clean(_netloc(url))} failed" if url else "broke"
        message = f"{self.place}: the connection {fault}: {_words(reason)}"
        return BrokenError(message, "check the network and proxy settings, then run it again")

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and (is_loopback(parts.netloc) or urllib.request.proxy_bypass(parts.netloc)):
            proxy = None
        folder = _DOCKER_CERTIFICATES / _netloc(url)
        if parts.scheme != "https":
            return _pool(proxy, None)
        own = tuple(map(str, sorted(folder.glob("*.c*rt"))))
        trusted = self.settings.certificates or os.environ.get("SSL_CERT_FILE")
        return _pool(proxy, (trusted or "", *own))


@contextmanager
def _closed_unless_read(answer: Answer) -> Iterator[None]:
    """Give up the connection of an answer that is not read to its end."""
    try:
        yield
    except BaseException:
        answer.close()
        raise


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: who gets to see what is sent there."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def is_loopback(host: str) -> bool:
    """Tell whether `HOST[:PORT]` is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def cause(fault: BaseException) -> BaseException:
    """Return what a fault of urllib3 comes from."""
    import urllib3

    while True:
        inner = getattr(fault, "reason", None) or fault.__cause__ or fault.__context__
        if isinstance(fault, urllib3.exceptions.ProtocolError) and len(fault.args) > 1:
            inner = fault.args[1]
        if not isinstance(inner, BaseException) or not isinstance(
            fault, urllib3.exceptions.HTTPError
        ):
            return fault
        fault = inner


def _netloc(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _words(reason: BaseException) -> str:
    """Return what went wrong as a person would say it."""
    import urllib3

    if isinstance(reason, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(reason, ssl.SSLError) and reason.reason:
        return clean(f"tls: {reason.reason}".replace("_", " ").lower())
    if isinstance(reason, OSError):
        return clean(reason.strerror or str(reason)).lower()
    return clean(type(reason).__name__)


@functools.cache
def _pool(proxy: str | None, trusted: tuple[str, ...] | None) -> urllib3.PoolManager:
    """Return the shared connections through `proxy` that trust those certificates."""
    import urllib3

    from builder.oci import connections

    settings: dict[str, Any] = {
        "maxsize": _POOL,
        "ssl_context": trusted and _context(*trusted),
        "socket_options": connections.SOCKET_OPTIONS,
    }
    manager = urllib3.PoolManager(**settings) if proxy is None else _proxied(proxy, settings)
    manager.pool_classes_by_scheme = {"http": connections.HttpPool, "https": connections.HttpsPool}
    return manager


def _proxied(proxy: str, settings: dict[str, Any]) -> urllib3.PoolManager:
    import urllib3

    try:
        parts = urlsplit(proxy)
        user, _, host = parts.netloc.rpartition("@")
        headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
        address = urlunsplit(parts._replace(netloc=host))
        return urllib3.ProxyManager(address, proxy_headers=headers, **settings)
    except (ValueError, urllib3.exceptions.HTTPError) as fault:
        hint = "check http_proxy and https_proxy; write `/` in a password as %2F"
        message = "proxy: what the environment names is not an address"
        raise HostError(message, hint) from fault


def _context(trusted: str, *own: str) -> ssl.SSLContext:
    """Return what to trust: one file or the system's, and Docker's own for that host."""
    path = trusted
    try:
        context = ssl.create_default_context(cafile=trusted or None)
        for path in own:
            _take(context, Path(path))
    except OSError as fault:
        message = f"{path}: expected certificates in PEM form: {clean(str(fault)).lower()}"
        raise HostError(message, "check SSL_CERT_FILE and /etc/docker/certs.d") from fault
    return context


def _take(context: ssl.SSLContext, path: Path) -> None:
    """`*.crt` is to be trusted; `*.cert` with `*.key` says who we are."""
    if path.suffix == ".crt":
        context.load_verify_locations(path)
    elif path.with_suffix(".key").exists():
        context.load_cert_chain(path, path.with_suffix(".key"))
