"""Who a registry lets in: challenges, tokens, and when a token must be renewed.

A secret is sent to the registry that it belongs to, and to the token service which that registry
names, never on plain http unless the registry itself is spoken to so.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from builder.oci import credentials
from builder.oci.refusals import (
    Asked,
    ForbiddenError,
    RejectedError,
    UnauthorizedError,
    UnfitError,
    clean,
    refusal,
)
from builder.oci.transport import Answer, Request, Transport, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from builder.oci.credentials import Credentials
    from builder.reference import Reference

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110 calls a word so
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+([A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|$)))?")
_DEFAULT_SECONDS = 60.0
"""Life of a token whose service does not say (distribution's token specification)."""
_MARGIN = 0.2
_LONGEST_MARGIN = 30.0
_ANSWER_BYTES = 1 << 20
_OK = 200
_REFUSED = (UnauthorizedError, ForbiddenError, RejectedError)


@dataclass(frozen=True)
class Challenge:
    """How a server wants to be told who asks."""

    scheme: str
    """In lower case."""
    parameters: Mapping[str, str]


def challenges(values: Iterable[str]) -> list[Challenge]:
    """Return what `WWW-Authenticate` headers ask for (RFC 9110, 11.6.1)."""
    return [found for value in values for found in _challenges(value)]


def _challenges(text: str) -> Iterator[Challenge]:
    position = 0
    while position < len(text):
        if text[position] in ", \t":
            position += 1
            continue
        scheme = _SCHEME.match(text, position)
        if not scheme:
            return  # what cannot be read ends the list
        position = scheme.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(text, position):
            value = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
            parameters.setdefault(found[1].lower(), value)
            position = found.end()
            comma = re.compile(r"[\s,]*,[\s,]*").match(text, position)
            if not comma or not _PARAMETER.match(text, comma.end()):
                break
            position = comma.end()
        yield Challenge(scheme[1].lower(), parameters)


def scope(repository: str, actions: str) -> str:
    """Return what a token is asked for, such as `repository:demo:pull,push`."""
    return f"repository:{repository}:{actions}"


@dataclass(frozen=True)
class _Grant:
    """A token and until when it is used."""

    header: str = field(repr=False)
    until: float


class Authority:
    """Tells a registry who asks; knows nothing secret until the registry wants to know."""

    def __init__(self, transport: Transport, reference: Reference, scheme: str) -> None:
        self._transport = transport
        self._reference = reference
        self._scheme = scheme
        self._challenge: Challenge | None = None
        self._grants: dict[tuple[str, ...], _Grant] = {}
        self._credentials: Credentials | None = None
        self._looked = False
        self._lock = threading.RLock()

    def learn(self, answer: Answer) -> bool:
        """Remember what a 401 asks for; tell whether it is something that can be given."""
        offered = {each.scheme: each for each in challenges(_headers(answer, "www-authenticate"))}
        chosen = offered.get("bearer") or offered.get("basic")
        if chosen is None:
            return False
        if chosen.scheme == "bearer" and not chosen.parameters.get("realm"):
            message = f"{self._reference.name}: the registry names no token service"
            raise UnfitError(message, "check the registry's settings: `auth.token.realm`")
        self._challenge = chosen
        return True

    def authorization(self, scopes: Sequence[str]) -> str | None:
        """Return the header that lets us do what `scopes` say, None where nobody is asked.

        The first scope is needed; if the others are refused, it is asked for alone.
        """
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            grant = self._grants.get(tuple(scopes))
            if grant is None or grant.until <= self._now():
                grant = self._grants[tuple(scopes)] = self._granted(scopes)
            return grant.header

    def renew(self, answer: Answer, scopes: Sequence[str], used: str | None) -> bool:
        """After a 401 to `used`, tell whether another attempt makes sense."""
        with self._lock:
            if not self.learn(answer) or self._challenge is None:
                return False
            if self._challenge.scheme == "basic":
                return used is None and self.known()
            grant = self._grants.get(tuple(scopes))
            if grant and grant.header == used:
                del self._grants[tuple(scopes)]
            return True

    def known(self) -> bool:
        """Tell whether there are credentials."""
        return self._found() is not None

    def is_scoped(self) -> bool:
        """Tell whether rights are asked for, with credentials that may have more of them."""
        return self._challenge is not None and self._challenge.scheme == "bearer" and self.known()

    def login(self) -> str:
        """Return what a person can do where we are not let in."""
        command = credentials.login(self._reference.registry)
        found = self._credentials
        return f"check the login in {found.origin}, or renew it: {command}" if found else command

    def _now(self) -> float:
        return self._transport.settings.clock()

    def _found(self) -> Credentials | None:
        with self._lock:
            if not self._looked:
                self._credentials = credentials.find(self._reference)
                self._looked = True
            return self._credentials

    def _basic(self) -> str | None:
        found = self._found()
        return _basic(found) if found and found.password else None

    def _granted(self, scopes: Sequence[str]) -> _Grant:
        try:
            return self._fetched(scopes)
        except _REFUSED:
            if len(scopes) == 1:
                raise
            return self._fetched(scopes[:1])

    def _fetched(self, scopes: Sequence[str]) -> _Grant:
        begin = self._now()
        found = self._found()
        realm = self._realm(secret=found is not None)
        if found and found.identity_token:
            answer = self._transport.send(self._refresh(realm, scopes, found.identity_token))
        else:
            header = _basic(found) if found else None
            answer = self._transport.follow(self._ask(realm, scopes, found), header)
        data = self._transport.content(answer, _ANSWER_BYTES)
        if answer.status != _OK:
            what = f"a token for {self._reference.repository}"
            asked = Asked(self._reference.name, what, _rights(scopes), self.login())
            raise refusal(asked, answer.status, answer.headers, data)
        token, seconds = self._read(data)
        margin = min(_LONGEST_MARGIN, _MARGIN * seconds)
        return _Grant(f"Bearer {token}", begin + seconds - margin)

    def _realm(self, *, secret: bool) -> str:
        assert self._challenge is not None  # noqa: S101 - callers looked
        realm = self._challenge.parameters["realm"]
        parts = urlsplit(realm)
        plain = parts.netloc in self._transport.settings.plain_http or is_loopback(parts.netloc)
        plain = (plain or parts.netloc == self._reference.host) and self._scheme == "http"
        if parts.scheme == "https" or (parts.scheme == "http" and (plain or not secret)):
            return realm
        message = f"{self._reference.name}: its token service is `{clean(realm)}`"
        hint = "no password is sent there: let the registry name a service on https"
        raise UnfitError(message, hint)

    def _ask(self, realm: str, scopes: Sequence[str], found: Credentials | None) -> Request:
        fields = [*self._service(), *(("scope", each) for each in scopes)]
        if found:
            fields.append(("account", found.username))
        mark = "&" if urlsplit(realm).query else "?"
        return Request(method="GET", url=f"{realm}{mark}{urlencode(fields)}")

    def _refresh(self, realm: str, scopes: Sequence[str], token: str) -> Request:
        fields = [
            ("grant_type", "refresh_token"),
            *self._service(),
            ("client_id", "builder"),
            ("scope", " ".join(scopes)),
            ("refresh_token", token),
        ]
        headers = {"content-type": "application/x-www-form-urlencoded"}
        body = urlencode(fields).encode()
        return Request(method="POST", url=realm, headers=headers, body=body)

    def _service(self) -> list[tuple[str, str]]:
        assert self._challenge is not None  # noqa: S101 - callers looked
        service = self._challenge.parameters.get("service")
        return [("service", service)] if service else []

    def _read(self, data: bytes) -> tuple[str, float]:
        try:
            fields: dict[str, Any] = json.loads(data)
            token = fields.get("token") or fields.get("access_token")
            seconds = float(fields.get("expires_in") or _DEFAULT_SECONDS)
        except (ValueError, TypeError, AttributeError, RecursionError):
            token, seconds = None, 0.0
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            message = f"{self._reference.name}: its token service answered without a token"
            raise UnfitError(message, "check the registry and the proxy before it") from None
        return token, seconds


def _headers(answer: Answer, name: str) -> list[str]:
    return list(answer.headers.getlist(name))


def _basic(found: Credentials) -> str:
    pair = f"{found.username}:{found.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _rights(scopes: Sequence[str]) -> str:
    return "push" if "push" in scopes[0].rpartition(":")[2] else "pull"
