"""What a registry can do to a transfer, one class for each thing that callers tell apart.

RegistryError (PublishError)   base of all
├── UnauthorizedError          401: nobody, or somebody it does not know
├── ForbiddenError             403: somebody it knows, without the right
├── NotFoundError              404: no such repository, manifest, blob or upload
├── TooLargeError              413: more bytes than it takes
├── RejectedError              another 4xx, or a status that makes no sense here
├── DigestError                it stored, or names, something else than was sent
├── UnfitError                 it answered what no registry should
├── UntrustedError             its certificate is not trusted
└── PassingError               may work if asked again
    ├── BusyError              408, 429, 5xx
    ├── LostError              an upload that it does not know any more
    └── BrokenError            the connection could not be made, or broke
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from builder.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
_SECRETS = re.compile(
    r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?"  # JSON web token
    r"|\b(?:Bearer|Basic)\s+[\w.~+/=-]{8,}"
    r"|(?<=://)[^/\s@]+@"  # user and password of an address
    r"|(?<=\w)\?[^\s\"'`]*",  # its query: signatures
    re.IGNORECASE,
)
_HOPELESS = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, 507)
_SERVER_FAULTS = 500


class RegistryError(PublishError):
    """A registry refused, or did not do what was asked."""

    status: int | None = None
    """What it answered, where it did."""


class UnauthorizedError(RegistryError):
    """The registry does not know who asks."""


class ForbiddenError(RegistryError):
    """The registry knows who asks, and does not let them."""


class NotFoundError(RegistryError):
    """The registry has no such repository, manifest, blob or upload."""


class TooLargeError(RegistryError):
    """The registry does not take so many bytes."""


class RejectedError(RegistryError):
    """The registry does not take what was sent."""


class DigestError(RegistryError):
    """The registry names another digest than that of what was sent."""


class UnfitError(RegistryError):
    """The registry answered what no registry should."""


class UntrustedError(RegistryError):
    """The certificate of the registry is not trusted."""


class PassingError(RegistryError):
    """It may work if asked again."""

    retry_after: float | None = None
    """Seconds that the registry asked to be left alone."""


class BusyError(PassingError):
    """The registry answered that it cannot now."""


class LostError(PassingError):
    """The registry does not know an upload any more, or ended it too early."""


class BrokenError(PassingError):
    """The connection could not be made, or broke."""


@dataclass(frozen=True)
class Asked:
    """What was asked of whom, for messages."""

    place: str
    """Such as `localhost:5000/demo`."""
    what: str
    """Such as `manifest 1.0`."""
    right: str
    """`pull` or `push`."""
    login: str
    """What to do about credentials: a command."""


_CLASSES: dict[int, type[RegistryError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    413: TooLargeError,
}


def is_passing(status: int) -> bool:
    """Tell whether an answer may be another one later."""
    busy = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return busy or (status >= _SERVER_FAULTS and status not in _HOPELESS)


def refusal(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> RegistryError:
    """Return the error for an answer that is not the one that was hoped for."""
    kind = BusyError if is_passing(status) else _CLASSES.get(status, RejectedError)
    reason = reasons(body) or f"answered {status}"
    error = kind(
        f"{asked.place}: the registry refused {asked.what}: {reason}", _hint(asked, status)
    )
    error.status = status
    if isinstance(error, PassingError):
        error.retry_after = _seconds(headers.get("retry-after", ""))
    return error


def reasons(body: bytes) -> str:
    """Return what the errors of an answer say, fit for a terminal; empty if they say nothing."""
    try:
        listed = json.loads(body)["errors"]
        texts = [_reason(error) for error in listed]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return clean("; ".join(text for text in texts if text))


def _reason(error: Mapping[str, object]) -> str:
    code = str(error.get("code") or "").lower().replace("_", " ")
    said = str(error.get("message") or "").rstrip(".")
    return code if said.lower() == code else ": ".join(filter(None, (code, said)))


def clean(text: str) -> str:
    """Return a stranger's text on one line, short, and without what looks like a secret."""
    line = " ".join(_SECRETS.sub("…", _CONTROL.sub(" ", text)).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _hint(asked: Asked, status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return asked.login
    if status == HTTPStatus.FORBIDDEN:
        return f"ask its owner for the right to {asked.right}, or log in as somebody who has it"
    if status == HTTPStatus.NOT_FOUND:
        return "check the name; some registries want a repository to be made before the first push"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "raise the limit of the registry or of the proxy before it (`client_max_body_size`)"
    if is_passing(status):
        return "run the command again later: what the registry has is not sent again"
    return "see the registry's own log for the reason"


def _seconds(retry_after: str) -> float | None:
    """Return what `Retry-After` asks for: seconds or a date (RFC 9110, 10.2.3)."""
    text = retry_after.strip()
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
