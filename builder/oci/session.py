"""Asking one registry: which scheme it speaks, who asks, and what is asked again.

Nothing secret is sent before the scheme is settled.
"""

from __future__ import annotations

import itertools
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from builder import console
from builder.oci.auth import Authority, scope
from builder.oci.refusals import (
    Asked,
    BrokenError,
    PassingError,
    RegistryError,
    UnfitError,
    refusal,
)
from builder.oci.transport import Answer, Request, Settings, Transport, cause, is_loopback, origin
from builder.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.reference import Reference

_T = TypeVar("_T")

ATTEMPTS = 6
_OPENING_ATTEMPTS = 3
"""A name that is misspelt should not take a minute to be told."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_LONGEST_ASKED_WAIT = 300.0
_OK, _UNAUTHORIZED, _FORBIDDEN = 200, 401, 403
_BODY_BYTES = 1 << 20
_READS = ("GET", "HEAD")
_NO_TLS = ("WRONG_VERSION", "RECORD_LAYER", "HTTP_REQUEST", "PACKET_LENGTH", "UNKNOWN_PROTOCOL")
"""What OpenSSL says of bytes that are not TLS, in its various releases."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request with what it is for."""

    what: str
    """For messages, such as `manifest 1.0`."""
    request: Request
    right: str = "pull"
    """`pull` or `push`."""
    expected: tuple[int, ...] = (_OK,)
    also_from: tuple[str, ...] = ()
    """Other repositories of the registry that are read."""


class Session:
    """Asks one repository of a registry."""

    def __init__(self, reference: Reference, settings: Settings) -> None:
        self.reference = reference
        self.settings = settings
        self.transport = Transport(settings, reference.name)
        scheme, answer = self.patiently(self._settled, _OPENING_ATTEMPTS)
        self._base = f"{scheme}://{reference.host}/v2/"
        self._authority = Authority(self.transport, reference, scheme)
        self._writes = False
        """Ask for all rights at once: some registries hide from readers what does not exist yet."""
        self._greet(answer)

    def write(self) -> None:
        """Ask for the rights of a writer from now on."""
        self._writes = True

    def url(self, path: str) -> str:
        """Return the address of something in the repository."""
        return f"{self._base}{self.reference.repository}/{path}"

    def ask(self, call: Call) -> Answer:
        """Return an answer of an expected status, its body not yet read.

        Raises:
            RegistryError: it was another one, or none.
        """
        answer = self._wider(call, self._once(call))
        if answer.status in call.expected:
            return answer
        body = self.transport.content(answer, _BODY_BYTES)
        raise refusal(self._asked(call), answer.status, answer.headers, body)

    def finish(self, answer: Answer) -> bytes:
        """Read what is left of a short answer, so that its connection serves again."""
        return self.transport.content(answer, _BODY_BYTES)

    def patiently(self, attempt: Callable[[], _T], attempts: int = ATTEMPTS) -> _T:
        """Return what `attempt` gives; it is made again while its faults may pass."""
        for number in itertools.count(1):
            try:
                return attempt()
            except PassingError as fault:
                self.wait(fault, number, attempts)
        raise AssertionError  # counting does not end

    def wait(self, fault: PassingError, number: int, attempts: int = ATTEMPTS) -> None:
        """Wait before attempt `number` is made again, or raise `fault` if it was the last."""
        if number >= attempts:
            message = f"{fault.message} ({number} attempts)" if number > 1 else fault.message
            raise _like(fault, message) from fault
        asked = fault.retry_after or 0.0
        if asked > _LONGEST_ASKED_WAIT:
            message = f"{fault.message}; it asks to be left alone for {human_seconds(asked)}"
            raise _like(fault, message) from fault
        ceiling = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (number - 1))
        seconds = max(asked, ceiling * (0.5 + self.settings.random() / 2))
        console.note(f"{fault.message}; trying again in {human_seconds(seconds)}")
        self.settings.sleep(seconds)

    # --- opening ----------------------------------------------------------------------------------

    def _settled(self) -> tuple[str, Answer]:
        """Return the scheme that the registry speaks, and its answer to a ping."""
        host = self.reference.host
        if {host, self.reference.registry} & self.settings.plain_http:
            return "http", self._ping("http")
        try:
            return "https", self._ping("https")
        except BrokenError as fault:
            if is_loopback(host) and not _is_alert(fault):
                return "http", self._ping("http")
            if not _is_plain(fault):
                raise
            message = f"{self.reference.name}: the registry does not speak https"
            hint = f"if it is to be spoken to in the clear: --insecure-registry {host}"
            raise UnfitError(message, hint) from fault

    def _ping(self, scheme: str) -> Answer:
        request = Request(method="GET", url=f"{scheme}://{self.reference.host}/v2/")
        answer = self.transport.follow(request)
        body = self.finish(answer)
        if answer.status not in (_OK, _UNAUTHORIZED, _FORBIDDEN):
            asked = Asked(self.reference.registry, "a first question (`/v2/`)", "pull", "")
            error = refusal(asked, answer.status, answer.headers, body)
            if isinstance(error, PassingError):
                raise error
            message = f"{self.reference.registry}: not a registry: `/v2/` answered {answer.status}"
            raise UnfitError(message, "check the host and its port")
        return answer

    def _greet(self, answer: Answer) -> None:
        if answer.status == _UNAUTHORIZED and not self._authority.learn(answer):
            message = f"{self.reference.registry}: asks for a login of a kind that is not known"
            raise UnfitError(message, "known are `Basic` and `Bearer`: check its settings")

    # --- asking -----------------------------------------------------------------------------------

    def _once(self, call: Call) -> Answer:
        """Ask with what we have; after a 401 once more with what it wants now."""
        ours = origin(call.request.url) == origin(self._base)
        if not ours:
            return self._exchange(call.request, None)
        scopes = self._scopes(call)
        header = self._authority.authorization(scopes)
        answer = self._exchange(call.request, header)
        if answer.status != _UNAUTHORIZED or not self._authority.renew(answer, scopes, header):
            return answer
        if not isinstance(call.request.body, bytes | None):
            return answer  # a stream cannot be sent twice: its owner starts again
        self.finish(answer)
        return self._exchange(call.request, self._authority.authorization(scopes))

    def _wider(self, call: Call, answer: Answer) -> Answer:
        """Where a reader is refused, ask as a writer: what does not exist yet is hidden to readers.

        Only those do so who have credentials; who only reads is never asked to have more rights.
        """
        refused = answer.status in (_UNAUTHORIZED, _FORBIDDEN) and call.request.method in _READS
        if not refused or self._writes or not self._authority.is_scoped():
            return answer
        self._writes = True
        try:
            other = self._once(call)
        except RegistryError:
            self._writes = False
            return answer
        if other.status in (_UNAUTHORIZED, _FORBIDDEN):
            self._writes = False
        self.finish(answer)
        return other

    def _exchange(self, request: Request, header: str | None) -> Answer:
        send = self.transport.follow if request.method in _READS else self.transport.send
        return send(request, header)

    def _scopes(self, call: Call) -> tuple[str, ...]:
        if call.right == "push":
            self._writes = True
        actions = "pull,push" if self._writes else "pull"
        others = tuple(scope(name, "pull") for name in call.also_from)
        return scope(self.reference.repository, actions), *others

    def _asked(self, call: Call) -> Asked:
        return Asked(self.reference.name, call.what, call.right, self._authority.login())


def _like(fault: PassingError, message: str) -> PassingError:
    error = type(fault)(message, fault.hint)
    error.status, error.retry_after = fault.status, fault.retry_after
    return error


def _tls(fault: BrokenError) -> str | None:
    """Return OpenSSL's name for what went wrong, None where it was not TLS."""
    reason = cause(fault.__cause__) if fault.__cause__ else None
    return (reason.reason or "EOF") if isinstance(reason, ssl.SSLError) else None


def _is_plain(fault: BrokenError) -> bool:
    """Tell whether the other side answered, and not in TLS."""
    return any(sign in (_tls(fault) or "") for sign in _NO_TLS)


def _is_alert(fault: BrokenError) -> bool:
    """Tell whether the other side spoke TLS, and refused us."""
    return "ALERT" in (_tls(fault) or "")
