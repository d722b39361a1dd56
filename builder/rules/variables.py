"""Variables of the container: does the engine read them, and what do they undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.arguments import releases_read
from builder.catalogue.flags import flag as flag_of
from builder.catalogue.flags import similar_variables, variable
from builder.catalogue.releases import releases
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

_PREFIX = "VLLM_"
_SOURCE = "vllm/envs.py in the wheels"
_STRICT = "fail-on-environ-validation"
_V1 = "VLLM_USE_V1"
_AHEAD = "VLLM_USE_AOT_COMPILE"
_FORCE = "VLLM_FORCE_AOT_LOAD"
_NO_CACHE = "VLLM_DISABLE_COMPILE_CACHE"
_AHEAD_BY_DEFAULT = Version("2.10.0")
"""First torch with which the engine compiles ahead of time unless told otherwise
(`use_aot_compile` in vllm/envs.py of 0.20.2)."""
_KEYED = (Version("0.12.0"), Version("0.27.0"))
"""From the first one every variable is in the compile cache's key (`compile_factors` in
vllm/envs.py), from the second the folder of the engine's settings is not."""
_SETTINGS = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "VLLM_CONFIG_ROOT")
"""What names folders that are in the key."""
_OFF = {"0", "false", "no", "off", ""}
_HUB = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_REPORTS = ("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")


def place_of(name: str) -> str:
    """Return the field of a variable."""
    return f"serve.env.{name}"


def is_on(subject: Subject, name: str) -> bool:
    """Whether the stack switches a variable on."""
    return subject.stack.serve.env.get(name, "0").lower() in {"1", "true"}


@rule("variable-unknown", "the engine's release reads every VLLM_ variable")
def variable_unknown(subject: Subject) -> Iterator[Finding]:
    """Warn of variables that the engine passes over: what they ask for does not happen."""
    for name, value in subject.stack.serve.env.items():
        known = variable(name)
        if not name.startswith(_PREFIX) or (known and known.offered(subject.version)):
            continue
        text, hint, moves = _passed_over(subject, name, value, known)
        leave: Move = (Change(place_of(name), None),)
        verified = subject.version in releases_read()
        if _STRICT in subject.args:
            text += f"; {_STRICT} makes that the end of the start"
            yield error(place_of(name), text, hint, _SOURCE, moves=moves or (leave,))
        else:
            more = {"moves": moves or (leave,), "verified": verified}
            yield warning(place_of(name), text, hint, _SOURCE, **more)


def _passed_over(
    subject: Subject, name: str, value: str, known: Flag | None
) -> tuple[str, str, tuple[Move, ...]]:
    """Return what is so, what to write, and the changes that keep what was meant."""
    passed = f"{subject.engine} passes {name} over"
    if known is None:
        near = similar_variables(name, subject.version)
        # A name that is written wrong is not known as secret yet: its value is not repeated.
        kept = [each for each in near[:1] if not is_secret_setting(each, value)]
        rename = tuple((Change(place_of(name), None), Change(place_of(n), value)) for n in kept)
        hint = f"write {near[0]}, or leave it out" if near else "leave it out"
        return f"{passed}: no release from 0.6.0 on reads it", hint, rename
    others = other_releases(subject, lambda row: known.offered(row.version))
    moves = others if subject.is_cuda else ()
    span = _span(known, subject.version)
    if name == _V1:
        gone = "; the old engine that 0 asks for is no longer there" if value == "0" else ""
        return f"{passed}: {span}{gone}", "leave it out: V1 is the only engine left", ()
    return f"{passed}: {span}", *_instead(subject, known, value, moves)


def _instead(
    subject: Subject, known: Flag, value: str, moves: tuple[Move, ...]
) -> tuple[str, tuple[Move, ...]]:
    """Return what took its place: a flag, or nothing."""
    taken = flag_of(known.instead) if known.instead.startswith("--") else None
    if taken is None or not taken.offered(subject.version):
        return known.instead or "leave it out", moves
    name = known.instead.removeprefix("--")
    if is_secret_setting(name, value):
        return f"{known.instead} took its place", moves
    there = Change(place_of(known.name), None), Change(f"serve.args.{name}", value)
    return f"write serve.args: {{{name}: {value}}}", (there, *moves)


def _span(known: Flag, version: str) -> str:
    """Say from when to when a variable was read, seen from a release."""
    gone = known.removed_in(version)
    return f"gone since {gone}" if gone else f"read from {known.added_in(version)} on"


@rule("compile-cache", "starts can use what an earlier start compiled")
def compile_cache(subject: Subject) -> Iterator[Finding]:
    """Speak of variables that demand, switch off or move the cache of compiled graphs."""
    if "enforce-eager" in subject.args:
        return
    if is_on(subject, _NO_CACHE):
        text = "every start compiles the model anew: nothing compiled is kept"
        moves: tuple[Move, ...] = ((Change(place_of(_NO_CACHE), None),),)
        hint = "leave it out, and give the containers a volume at /cache"
        source = "vllm/envs.py of 0.20.2"
        yield warning(place_of(_NO_CACHE), text, hint, source, moves=moves)
    yield from _forced(subject)
    yield from _keyed(subject)


def _forced(subject: Subject) -> Iterator[Finding]:
    known = variable(_FORCE)
    if not is_on(subject, _FORCE) or known is None or not known.offered(subject.version):
        return
    place, source = place_of(_FORCE), "vllm/compilation/decorators.py of 0.20.2"
    moves: tuple[Move, ...] = ((Change(place, None),),)
    if _compiles_ahead(subject):
        text = (
            "a graph that is not in the cache ends the start instead of being compiled, and the "
            "image has none: its key holds GPU, flags and variables"
        )
        hint = "leave it out: a volume at /cache is used without it"
        yield error(place, text, hint, source, moves=moves)
    else:
        text = f"does nothing: {subject.engine} does not compile ahead of time here"
        yield warning(place, text, "leave it out", source, moves=moves)


def _compiles_ahead(subject: Subject) -> bool:
    if is_on(subject, _NO_CACHE):
        return False
    asked = subject.stack.serve.env.get(_AHEAD)
    release = releases().get(subject.version)
    if asked is not None or release is None:
        return asked == "1"
    return Version(release.torch) >= _AHEAD_BY_DEFAULT


def _keyed(subject: Subject) -> Iterator[Finding]:
    asked = Version(subject.version)
    if not _KEYED[0] <= asked < _KEYED[1]:
        return
    for name in _SETTINGS:
        if name in subject.stack.serve.env:
            text = (
                f"{name} is part of the compile cache's key before {_KEYED[1]}: what was compiled "
                f"under another value is compiled again"
            )
            hint = "leave it out, or keep it the same as long as a cache volume lives"
            yield note(place_of(name), text, hint, "vllm/envs.py of 0.20.2 and 0.27.0")


def is_offline(subject: Subject) -> bool:
    """Whether the image keeps the hub's libraries from asking the network."""
    env = subject.stack.serve.env
    return env.get("HF_HUB_OFFLINE", "1").lower() not in _OFF


@rule("offline", "the image starts without a network and reports nothing")
def offline(subject: Subject) -> Iterator[Finding]:
    """Warn of variables that undo it, and refuse names that only the hub could answer."""
    for name in (*_HUB, *_REPORTS):
        value = subject.stack.serve.env.get(name)
        if value is None or value.lower() not in _OFF:
            continue
        does = "lets the engine ask the hub" if name in _HUB else "lets it report its use"
        text = f'{name}: "{value}" takes away the 1 of the image and {does}'
        moves: tuple[Move, ...] = ((Change(place_of(name), None),),)
        hint = "leave it out: all that is served is in the image"
        yield warning(place_of(name), text, hint, "docs/launcher.md", moves=moves)
    if is_offline(subject):
        yield from _from_the_hub(subject)


def _from_the_hub(subject: Subject) -> Iterator[Finding]:
    for flag, repo in _repositories(subject):
        place = f"serve.args.{flag}"
        text = f"names {repo} of the hub: the image holds the stack's model alone, and no network"
        hint = "leave it out, or give a folder that is mounted into the container"
        moves: tuple[Move, ...] = ((Change(place, None),),)
        source = "vllm/engine/arg_utils.py of 0.20.2: HF_HUB_OFFLINE wants files that are there"
        yield error(place, text, hint, source, moves=moves)


def _repositories(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield each flag that names a repository, and the repository."""
    for flag in ("tokenizer", "hf-config-path", "speculative-model"):
        if _is_repository(subject.args.get(flag)):
            yield flag, subject.args[flag]
    draft = subject.mapping("speculative-config").get("model")
    if _is_repository(draft):
        yield "speculative-config", str(draft)


def _is_repository(value: object) -> bool:
    return isinstance(value, str) and value.count("/") == 1 and not value.startswith(("/", "."))
