"""What is asked of the hub's API, and what its answers mean to a person."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from builder import console
from builder.errors import ResolveError
from builder.sources import patience, web
from builder.units import human_seconds

if TYPE_CHECKING:
    import datetime
    from collections.abc import Callable, Mapping

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_ATTEMPTS = 5
_TIMEOUT = 60.0
_UNAUTHORISED = (401, 403)
_NOT_FOUND = 404
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    path: str
    size: int
    sha256: str | None
    """Known of files in large file storage."""
    git: str | None
    """Git's own digest of a file that is not."""


@dataclass(frozen=True)
class Listing:
    """A commit."""

    commit: str
    entries: Mapping[str, Entry]
    modified: datetime.datetime | None
    """When the repository last changed, as far as the hub says."""


def endpoint() -> str:
    """Return where the hub is."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def url(repo: str, commit: str, path: str) -> str:
    """Return where a file is, and sign in there."""
    from huggingface_hub import constants, get_token, hf_hub_url

    host = endpoint()
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    web.sign_in(host, token or "")
    return hf_hub_url(repo, path, revision=commit, endpoint=host)


def listing(repo: str, revision: str) -> Listing:
    """Return the commit that a branch, a tag or a commit names, with its files."""

    def ask(api: HfApi) -> ModelInfo:
        return api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)

    info = _ask(repo, revision, ask)
    commit = info.sha or ""
    pinned = _COMMIT.fullmatch(revision)
    if not _COMMIT.fullmatch(commit) or (pinned and commit != revision):
        raise _nonsense(repo, f"names no commit for `{revision}`")
    entries = [_entry(repo, sibling) for sibling in info.siblings or ()]
    return Listing(commit, {entry.path: entry for entry in entries}, info.last_modified)


def _entry(repo: str, sibling: RepoSibling) -> Entry:
    large = sibling.lfs
    size = large.size if large else sibling.size
    sha256 = large.sha256 if large else None
    if size is None or (sha256 and not _SHA256.fullmatch(sha256)):
        raise _nonsense(repo, f"gives no size or digest for `{sibling.rfilename}`")
    return Entry(sibling.rfilename, size, sha256, None if large else sibling.blob_id)


def committed(repo: str, found: Listing) -> datetime.datetime | None:
    """Return the date of a commit; where the hub keeps no history, that of the last change."""
    from huggingface_hub.errors import HfHubHTTPError

    def ask(api: HfApi) -> datetime.datetime | None:
        try:
            commits = api.list_repo_commits(repo, revision=found.commit)
        except HfHubHTTPError as fault:
            if fault.response.status_code == _NOT_FOUND:
                return None
            raise
        return commits[0].created_at if commits else None

    return _ask(repo, found.commit, ask) or found.modified


def refusal(repo: str) -> ResolveError:
    """Find out why the hub does not let us have a file."""
    try:
        _ask(repo, "", lambda api: api.auth_check(repo))
    except ResolveError as fault:
        return fault
    message = f"{repo}: the hub refused to send a file"
    return ResolveError(message, "set HF_TOKEN to a token that may read this repository")


def _ask(repo: str, revision: str, call: Callable[[HfApi], Answer]) -> Answer:
    """Ask, wait if the hub says so, and say what went wrong."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint(), library_name="builder")
    attempt = 0
    while True:
        attempt += 1
        try:
            return call(api)
        except HfHubHTTPError as fault:
            pause = _pause(fault, attempt)
            if pause is None or attempt == _ATTEMPTS:
                raise _explained(fault, repo, revision) from fault
            console.note(f"{repo}: the hub is busy, next attempt in {human_seconds(pause)}")
            time.sleep(pause)
        except (_transport_error(), ConnectionError) as fault:
            raise _unreachable(repo, fault) from fault
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise _nonsense(repo, f"cannot be understood: {type(fault).__name__}") from fault


def _transport_error() -> type[Exception]:
    """Return the base of the errors of the client's HTTP library: httpx, or what follows it."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1]


def _pause(fault: HfHubHTTPError, attempt: int) -> float | None:
    """Return how long to wait before asking again, None if that would not help."""
    response = fault.response
    return patience.pause(response.status_code, response.headers, attempt)


def _explained(fault: HfHubHTTPError, repo: str, revision: str) -> ResolveError:
    from huggingface_hub import errors

    status = fault.response.status_code
    if isinstance(fault, errors.GatedRepoError):
        reason = "is gated: its licence must be accepted first"
        hint = f"accept it at {endpoint()}/{repo} and set HF_TOKEN to a token of that account"
    elif isinstance(fault, errors.RevisionNotFoundError):
        reason, hint = f"has no revision `{revision}`", "check model.revision"
    elif isinstance(fault, errors.RepositoryNotFoundError):
        reason = "does not exist, or is private"
        hint = "check model.repo, or set HF_TOKEN to a token that may read it"
    elif isinstance(fault, errors.DisabledRepoError):
        reason, hint = "was disabled by the hub", "choose another model"
    elif status in _UNAUTHORISED:
        reason = f"the hub refused access ({status})"
        hint = "set HF_TOKEN to a valid token that may read it, or unset it"
    else:
        reason, hint = f"the hub answered {status}", "run the command again later"
    return ResolveError(f"{repo}: {reason}", hint)


def _unreachable(repo: str, fault: Exception) -> ResolveError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(fault, OfflineModeIsEnabled):
        message = f"{repo}: cannot be looked up while HF_HUB_OFFLINE is set"
        return ResolveError(message, "unset HF_HUB_OFFLINE")
    place = web.redacted(endpoint())
    message = f"{repo}: the hub at {place} cannot be reached: {type(fault).__name__}"
    return ResolveError(message, "check the network and proxy settings, or set HF_ENDPOINT")


def _nonsense(repo: str, reason: str) -> ResolveError:
    message = f"{repo}: the answer of {web.redacted(endpoint())} {reason}"
    return ResolveError(message, "check HF_ENDPOINT: a model hub must answer there")
