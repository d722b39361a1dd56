"""Flags that contradict each other, need each other, or do nothing in these images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from packaging.version import Version

from builder.rules.arguments import offered, place_of
from builder.rules.change import Change, Move
from builder.rules.finding import error, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_PARSED = "vllm/entrypoints/openai/cli_args.py of 0.18.0: validate_parsed_serve_args"
_GRAPHS = (
    *("cudagraph-capture-sizes", "max-cudagraph-capture-size"),
    *("cuda-graph-sizes", "max-seq-len-to-capture", "optimization-level"),
)
_COMPILATION = "compilation-config"
_GRAPH_KEYS = re.compile(r"mode|level|.*cuda_?graph.*|backend|use_inductor")
"""Of a `compilation-config`; what else stands in it holds for an eager engine too."""
_EXACT = "kv-cache-memory-bytes"
_SHARE = "serve.gpu_memory_utilization"


class _Twin(NamedTuple):
    """A flag and a part of another that say the same: the engine takes one of them."""

    flag: str
    group: str
    key: str
    since: str


_TWINS = (
    _Twin("attention-backend", "attention-config", "backend", "0.13.0"),
    _Twin("cudagraph-capture-sizes", "compilation-config", "cudagraph_capture_sizes", "0.11.1"),
    _Twin(
        "max-cudagraph-capture-size", "compilation-config", "max_cudagraph_capture_size", "0.11.1"
    ),
    _Twin("enable-flashinfer-autotune", "kernel-config", "enable_flashinfer_autotune", "0.16.0"),
)
"""vllm/engine/arg_utils.py of 0.11.1, 0.13.0 and 0.20.2: `are mutually exclusive`."""

_NEEDS = (
    ("enable-auto-tool-choice", "tool-call-parser", "0"),
    ("enable-reasoning", "reasoning-parser", "0"),
    ("enable-log-outputs", "enable-log-requests", "0.11.0"),
)
"""Flag, what it needs, and since when: the engine ends with a TypeError."""

_UNREAD = ("headless", "grpc", "api-server-count")
"""What `vllm serve` reads and the server's module, which the images start, does not
(vllm/entrypoints/cli/serve.py of 0.20.2)."""


@rule("flag-conflict", "the flags do not contradict each other")
def flag_conflict(subject: Subject) -> Iterator[Finding]:
    """Refuse pairs that the engine refuses; warn where one flag makes another do nothing."""
    yield from _twins(subject)
    yield from _needs(subject)
    yield from _ignored(subject)
    yield from _out_of_reach(subject)


def _twins(subject: Subject) -> Iterator[Finding]:
    for twin in _TWINS:
        inner = subject.mapping(twin.group).get(twin.key)
        if inner is None or twin.flag not in subject.args:
            continue
        if Version(subject.version) < Version(twin.since):
            continue
        text = f"{twin.flag} and {twin.group}.{twin.key} say the same: the engine takes one of them"
        moves: tuple[Move, ...] = ((Change(place_of(twin.flag), None),),)
        source = f"vllm/engine/arg_utils.py of {twin.since}"
        hint = f"leave {twin.flag} out"
        yield error(place_of(twin.flag), text, hint, source, moves=moves)


def _needs(subject: Subject) -> Iterator[Finding]:
    for flag, needed, since in _NEEDS:
        if flag not in subject.args or needed in subject.args:
            continue
        if Version(subject.version) < Version(since) or not offered(flag, subject.version):
            continue
        text = f"{flag} without {needed}: the engine ends at once"
        moves: tuple[Move, ...] = ((Change(place_of(flag), None),),)
        hint = f"write {needed} as well"
        yield error(place_of(flag), text, hint, _PARSED, moves=moves)


def _ignored(subject: Subject) -> Iterator[Finding]:
    """Flags that do nothing beside another, or in these images."""
    args = subject.args
    if _EXACT in args and subject.stack.serve.gpu_memory_utilization is not None:
        text = f"{_EXACT} sets the cache's size; gpu_memory_utilization does not bound it any more"
        moves: tuple[Move, ...] = ((Change(place_of(_EXACT), None),), (Change(_SHARE, None),))
        source = "vllm/config/cache.py of 0.10.2"
        yield warning(_SHARE, text, "write one of the two", source, moves=moves)
    graphs = [flag for flag in _GRAPHS if flag in args]
    if any(_GRAPH_KEYS.fullmatch(key) for key in subject.mapping(_COMPILATION)):
        graphs.append(_COMPILATION)
    if "enforce-eager" in args and graphs:
        text = f"enforce-eager compiles and captures nothing: {', '.join(graphs)} does nothing"
        leave: Move = tuple(Change(place_of(flag), None) for flag in graphs)
        moves = ((Change(place_of("enforce-eager"), None),), leave)
        source = "vllm/config/vllm.py of 0.20.2"
        yield warning(place_of(graphs[0]), text, "leave one side out", source, moves=moves)
    for flag in _UNREAD:
        if flag in args and offered(flag, subject.version):
            text = (
                f"{flag} does nothing: `vllm serve` reads it, the module that is started does not"
            )
            moves = ((Change(place_of(flag), None),),)
            source = "vllm/entrypoints/cli/serve.py and openai/api_server.py of 0.20.2"
            yield warning(place_of(flag), text, "leave it out", source, moves=moves)
    parser = "tool-call-parser"
    if parser in args and "enable-auto-tool-choice" not in args:
        text = f"{parser} is used only with enable-auto-tool-choice: no tool is chosen without it"
        moves = ((Change(place_of("enable-auto-tool-choice"), value=True),),)
        source = "vllm/entrypoints/serve/render/serving.py of 0.20.2"
        yield warning(
            place_of(parser), text, "write enable-auto-tool-choice: true", source, moves=moves
        )


def _out_of_reach(subject: Subject) -> Iterator[Finding]:
    """What the launcher cannot do without: the API on its port, and its counters."""
    if "uds" in subject.args and offered("uds", subject.version):
        text = "the API listens on a socket file: the launcher asks its port, and is never ready"
        moves: tuple[Move, ...] = ((Change(place_of("uds"), None),),)
        yield error(place_of("uds"), text, "leave it out", "docs/launcher.md", moves=moves)
    if "disable-log-stats" in subject.args:
        text = "the engine counts nothing: /metrics has no figures of it, and the launcher "
        text += "cannot see a stall"
        moves = ((Change(place_of("disable-log-stats"), None),),)
        yield warning(
            place_of("disable-log-stats"), text, "leave it out", "docs/launcher.md", moves=moves
        )
