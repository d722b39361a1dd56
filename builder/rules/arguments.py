"""Flags of `serve.args`: does the release have them, and does leaving one out say no."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from builder.catalogue import flags
from builder.catalogue.arguments import releases_read
from builder.rules.alternatives import other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule
from builder.stack.credentials import is_secret_setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue.arguments import Flag
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_ONE_FLAG = re.compile(r"--([a-z0-9.-]+)")
_MOST_NAMED = 4
_NO = "no-"
_MOVED = {"enable-prefix-caching": "reuses prefixes", "async-scheduling": "schedules ahead"}
"""Switches whose default moved, by what they do."""
_AT_START = "enable-chunked-prefill"
"""On for models that write text unless told otherwise, which no default says
(vllm/engine/arg_utils.py of 0.10.2, vllm/config/model.py of 0.20.2)."""
_SOURCE = "vllm/engine/arg_utils.py and vllm/entrypoints/**/cli_args.py in the wheels"


class _Unknown(NamedTuple):
    """Why a flag is refused, what to write, and the changes that keep what was meant."""

    text: str
    hint: str
    moves: tuple[Move, ...]


def place_of(flag: str) -> str:
    """Return the field of a flag."""
    return f"serve.args.{flag}"


def given(subject: Subject) -> Iterator[tuple[str, str, object]]:
    """Yield each flag that the engine gets: with dashes, as written, and its value."""
    for written, value in subject.stack.serve.args.items():
        if value is not False and value is not None:
            yield written.replace("_", "-"), written, value


def offered(flag: str, version: str) -> bool:
    """Whether a release takes a flag under this name, `no-…` and `….key` included."""
    return flags.spelling(flag, version) is not None


@rule("flag-unknown", "the engine's release has every flag of serve.args")
def flag_unknown(subject: Subject) -> Iterator[Finding]:
    """Refuse flags that the release does not have: its parser ends with status 2."""
    version = subject.version
    for flag, written, value in given(subject):
        if offered(flag, version):
            continue
        place, whole = place_of(written), resolved(flag, version)
        if whole is not None:
            text = f"{flag} is short for {whole}, until a release has another flag like it"
            moves: tuple[Move, ...] = (_renamed(flag, whole, value),)
            yield warning(place, text, f"write {whole}", _SOURCE, moves=moves)
            continue
        found = _refused(subject, flag, value)
        if version in releases_read():
            yield error(place, found.text, found.hint, _SOURCE, moves=found.moves)
        else:
            more = {"moves": found.moves, "verified": False}
            yield warning(place, found.text, found.hint, _SOURCE, **more)


def resolved(flag: str, version: str) -> str | None:
    """Return the flag that the parser takes a name for, None where it takes it for none."""
    if offered(flag, version):
        return flag
    whole = _abbreviated(flag, version)
    return whole[0] if len(whole) == 1 and flags.flag(flag) is None else None


def _abbreviated(flag: str, version: str) -> list[str]:
    """Return the flags that begin like this: the parser takes the beginning of one alone."""
    if "." in flag:
        return []
    names = [name.removeprefix("--") for name in flags.flags()]
    names += [f"{_NO}{name}" for name in names if flag.startswith(_NO)]
    names += [way[2:] for way in flags.ways() if way.startswith("--")]
    begin = dict.fromkeys(name for name in names if name.startswith(flag))
    return [name for name in begin if offered(name, version)]


def _renamed(flag: str, name: str, value: object) -> Move:
    leave = Change(place_of(flag), None)
    # A name that is written wrong is not known as secret yet: its value is not repeated.
    if is_secret_setting(name, str(value)):
        return (leave,)
    return leave, Change(place_of(name), value)


def _refused(subject: Subject, flag: str, value: object) -> _Unknown:
    name = flags.canonical(flag)
    never = next((row for row in flags.nevers() if row.name == name), None)
    leave: Move = (Change(place_of(flag), None),)
    if never is not None:
        return _Unknown(f"no release has {name}", never.instead, (leave,))
    known = flags.flag(flag)
    if known is not None and known.offered(subject.version):
        text = f"{subject.engine} has {known.name} under no name like --{flag}"
        return _Unknown(text, f"leave it out, or write {known.name.removeprefix('--')}", (leave,))
    if known is not None:
        return _gone(subject, known, flag, value)
    whole = _abbreviated(flag, subject.version)
    if whole:
        text = f"{flag} may be short for {', '.join(whole[:_MOST_NAMED])}: the parser refuses it"
        return _Unknown(text, "write the whole flag", (leave,))
    return _misspelt(subject, flag, value)


def _misspelt(subject: Subject, flag: str, value: object) -> _Unknown:
    short = flags.spelling(f"-{flag}", subject.version)
    near = [short.flag.name] if short else list(flags.similar(flag, subject.version))
    names = [name.removeprefix("--") for name in near[:1]]
    moves: tuple[Move, ...] = tuple(_renamed(flag, name, value) for name in names)
    hint = f"write {names[0]}" if names else "leave it out"
    text = f"{subject.engine} has no flag --{flag}, and no release from 0.6.0 on had it"
    return _Unknown(text, hint, moves or ((Change(place_of(flag), None),),))


def _gone(subject: Subject, known: Flag, flag: str, value: object) -> _Unknown:
    """A flag of other releases: the last or the first that has it, and what to write."""
    version = subject.version
    moves = other_releases(subject, lambda row: known.offered(row.version))
    moves = moves if subject.is_cuda else ()
    leave: Move = (Change(place_of(flag), None),)
    first = known.added_in(version)
    if known.removed_in(version) is None and first is not None:
        text = f"{subject.engine} has no {known.name} yet; {first} is the first with it"
        return _Unknown(text, f"take {first}, or leave it out", (*moves, leave))
    last = flags.last_with(known.name, version)
    text = f"{subject.engine} has no {known.name} any more"
    text += f"; {last} is the last with it" if last else f": it went before {releases_read()[0]}"
    instead = known.instead.replace("--", "") or "leave it out"
    hint = f"write {instead}" if known.instead.startswith("--") else instead
    return _Unknown(text, hint, _taken(subject, known, flag, value) or (*moves, leave))


def _taken(subject: Subject, known: Flag, flag: str, value: object) -> tuple[Move, ...]:
    """Where another flag of one name took its place, its value goes there."""
    found = _ONE_FLAG.fullmatch(known.instead)
    if found is None or not offered(found[1], subject.version) or value is True:
        return ()
    return (_renamed(flag, found[1], value),)


@rule("flag-default", "what is left out is off, and what moved is written down")
def flag_default(subject: Subject) -> Iterator[Finding]:
    """Warn of `false` where the engine's default is on; note a default that moved just now."""
    for written, value in subject.stack.serve.args.items():
        flag = written.replace("_", "-")
        opposite = f"{_NO}{flag}"
        if value is False and _is_on_by_default(subject, flag) and opposite not in subject.args:
            text = f"false leaves the flag out, and {subject.engine} has it on by default"
            moves: tuple[Move, ...] = (_renamed(flag, opposite, value=True),)
            hint = f"write {opposite}: true"
            yield warning(place_of(written), text, hint, "vllm/config in the wheels", moves=moves)
    yield from _moved(subject)


def _is_on_by_default(subject: Subject, flag: str) -> bool:
    row = flags.default(flag.replace("-", "_"), subject.version)
    if row is not None and subject.is_cuda and row.value in {"true", "auto"}:
        return offered(f"{_NO}{flag}", subject.version)
    is_pair = flags.form(flag, subject.version) == "pair"
    if flag == _AT_START:
        return is_pair and subject.model is not None and subject.model.task != "embedding"
    return is_pair and flags.default_of(flag, subject.version) == "true"


def _moved(subject: Subject) -> Iterator[Finding]:
    written = {name.replace("_", "-") for name in subject.stack.serve.args}
    for flag, does in _MOVED.items():
        row = flags.default(flag.replace("-", "_"), subject.version)
        if row is None or not subject.is_cuda or written & {flag, f"{_NO}{flag}"}:
            continue
        if _minor(row.since) == _minor(subject.version):
            text = f"{subject.engine} {does} by default; releases before {row.since} did not"
            hint = f"write {flag}: true, or {_NO}{flag}: true as it was"
            yield note("serve.args", text, hint, row.source)


def _minor(version: str) -> tuple[int, ...]:
    return Version(version).release[:2]
