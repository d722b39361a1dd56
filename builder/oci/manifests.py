"""Manifests, and the lists that registries keep of them: tags and referrers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from builder import digest as digests
from builder.errors import IntegrityError
from builder.oci.profiles import profile
from builder.oci.refusals import NotFoundError, UnfitError, clean
from builder.oci.session import Call, Session
from builder.oci.transport import Answer, Request, origin
from builder.oci.upload import check_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.digest import Digest

INDEX = "application/vnd.oci.image.index.v1+json"
_ACCEPT = (
    f"application/vnd.oci.image.manifest.v1+json, {INDEX}, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)
_SILENT_TYPES = ("application/json", "text/plain", "application/octet-stream", "")
"""Types that say nothing about a manifest."""
_LIST_BYTES = 16 << 20
_PAGES = 1000
_STORE_SECONDS = 300.0
_NEXT = re.compile(r"<([^>]*)>[^<]*?;\s*rel=\"?next\"?", re.IGNORECASE)
_CHECK = "check the registry and the proxy before it"


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index, as the registry has it."""

    data: bytes
    media_type: str
    digest: Digest


def read(session: Session, reference: str) -> Manifest:
    """Return the manifest of a tag or digest, verified where there is a digest to hold it to."""
    request = Request(method="GET", url=_url(session, reference), headers={"accept": _ACCEPT})
    answer = session.ask(Call(what=f"manifest {reference}", request=request))
    data = session.transport.content(answer, profile(session.reference.registry).manifest_bytes)
    got = digests.of_bytes(data)
    named = answer.headers.get("docker-content-digest", "")
    expected = reference if reference.startswith("sha256:") else named
    if expected.startswith("sha256:") and expected != got:
        message = f"{session.reference.name}: manifest {reference}: expected {expected}, got {got}"
        raise IntegrityError(message, _CHECK)
    return Manifest(data, _media_type(answer, data), got)


def write(session: Session, manifest: Manifest, reference: str) -> None:
    """Store a manifest under a tag or its digest; to do so twice does no harm."""
    request = Request(
        method="PUT",
        url=_url(session, reference),
        headers={"content-type": manifest.media_type},
        body=manifest.data,
        seconds=_STORE_SECONDS,
    )
    expected = (HTTPStatus.CREATED,)
    what = f"manifest {reference}"
    answer = session.ask(Call(what=what, request=request, right="push", expected=expected))
    session.finish(answer)
    check_digest(session, answer, manifest.digest)


def referrers(
    session: Session, digest: Digest, artifact_type: str | None
) -> tuple[dict[str, Any], ...]:
    """Return the descriptors of what refers to a manifest."""
    query = "?" + urlencode({"artifactType": artifact_type}) if artifact_type else ""
    url = session.url(f"referrers/{digest}{query}")
    try:
        pages = list(_pages(session, url, f"referrers of {digest}"))
    except NotFoundError:
        pages = list(_tagged(session, digest))
    found = [entry for page in pages for entry in _entries(session, page, "manifests")]
    if any(not isinstance(entry, dict) for entry in found):
        raise _unreadable(session, "referrers")
    # Whether it has filtered is the registry's choice, and says so in a header that some forget.
    return tuple(e for e in found if artifact_type in (None, e.get("artifactType")))


def tags(session: Session) -> tuple[str, ...]:
    """Return every tag, in the order of the registry."""
    pages = _pages(session, session.url("tags/list"), "the list of tags")
    return tuple(str(tag) for page in pages for tag in _entries(session, page, "tags"))


def _url(session: Session, reference: str) -> str:
    return session.url(f"manifests/{quote(reference, safe=':')}")


def _media_type(answer: Answer, data: bytes) -> str:
    """The header decides; where it says nothing, the manifest itself."""
    named = str(answer.headers.get("content-type", "")).partition(";")[0].strip().lower()
    if named not in _SILENT_TYPES:
        return named
    try:
        return str(json.loads(data).get("mediaType") or named)
    except (ValueError, AttributeError, RecursionError):
        return named


def _tagged(session: Session, digest: Digest) -> Iterator[Any]:
    """The index under the tag that stands in for a list of referrers (OCI distribution 1.1)."""
    try:
        found = read(session, digest.replace(":", "-"))
    except NotFoundError:
        return
    yield _json(session, found.data, "referrers")


def _pages(session: Session, url: str, what: str) -> Iterator[Any]:
    for _ in range(_PAGES):
        request = Request(method="GET", url=url, headers={"accept": f"{INDEX}, application/json"})
        call = Call(what=what, request=request)
        answer, data = session.patiently(partial(_page, session, call))
        yield _json(session, data, what)
        following = _NEXT.search(answer.headers.get("link", ""))
        if not following:
            return
        target = session.transport.joined(url, following[1])
        if origin(target) != origin(url) or target == url:
            raise _unreadable(session, what)
        url = target
    raise _unreadable(session, what)


def _page(session: Session, call: Call) -> tuple[Answer, bytes]:
    answer = session.ask(call)
    return answer, session.transport.content(answer, _LIST_BYTES)


def _json(session: Session, data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise _unreadable(session, what) from fault


def _entries(session: Session, page: Any, name: str) -> list[Any]:
    entries = page.get(name) if isinstance(page, dict) else 0
    if entries is None:  # an empty list, as some write it
        return []
    if not isinstance(entries, list):
        raise _unreadable(session, name)
    return entries


def _unreadable(session: Session, what: str) -> UnfitError:
    return UnfitError(f"{session.reference.name}: {clean(what)}: unreadable answer", _CHECK)
