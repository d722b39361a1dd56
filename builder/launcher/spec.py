"""`BUILDER_SERVE`: what to serve and how, as the recipe wrote it into the image.

One JSON object, version 1, parsed strictly: every fault is named by its dotted place, all at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from builder.launcher import variables
from builder.launcher.exits import ExitCode, LauncherError
from builder.launcher.fields import Fields

VERSION = 1


@dataclass(frozen=True)
class Metrics:
    """Where the engine counts, in Prometheus' text format, and under which names."""

    path: str
    waiting: tuple[str, ...]
    """Gauges: requests that wait."""
    running: tuple[str, ...]
    """Gauges: requests that run."""
    tokens: tuple[str, ...]
    """Counters: tokens read or written."""


@dataclass(frozen=True)
class Require:
    """What the host must have. 0 or None: not asked for."""

    gpus: int
    gpu: str | None
    """The catalogue's name of the GPU that the image is for; words only."""
    compute_capability: tuple[int, int] | None
    memory_bytes: int
    """Memory of each GPU."""
    driver: str | None
    """Oldest NVIDIA driver, e.g. `580.65.06`."""
    shm_bytes: int


@dataclass(frozen=True)
class Spec:
    """Everything the launcher is told. Times are in seconds."""

    argv: tuple[str, ...]
    model: str
    """Served name, used in requests."""
    port: int
    probe_port: int
    start_budget: float
    drain: float
    max_model_len: int | None
    """Tokens in prompt and answer together."""
    health: str
    routes: tuple[str, ...]
    """Routes that the warm-up asks."""
    metrics: Metrics | None
    """None: the engine does not count, and progress cannot be watched."""
    stall: float
    """How long requests may wait without a token moving; 0: for ever."""
    require: Require


def parse(environ: Mapping[str, str]) -> Spec:
    """The spec in the environment, port override applied; LauncherError names every fault."""
    faults: list[str] = []
    values = dict(_decode(environ.get(variables.SERVE)))
    override = environ.get(variables.PROBE_PORT)
    if override:
        values["probe_port"] = _number(override, faults)
    fields = Fields(values, variables.SERVE, faults)
    if fields.whole("version") != VERSION:
        faults.append(f"{variables.SERVE}.version: must be {VERSION}, the only one known here")
    spec = _spec(fields)
    if not faults and spec.port == spec.probe_port:
        faults.append(f"{variables.SERVE}.probe_port: must differ from port, both are {spec.port}")
    if faults:
        hint = f"{variables.SERVE} is written by `builder build`; to change it: docker run -e"
        raise LauncherError(ExitCode.SPEC, "\n".join(faults), hint)
    return spec


def _decode(text: str | None) -> Mapping[str, object]:
    fault = "is not set" if not text else "is not a JSON object"
    try:
        values = json.loads(text or "null")
    except ValueError as error:
        fault, values = f"is not JSON: {error}", None
    if isinstance(values, dict):
        return values
    hint = (
        "run the image with its own environment; for another program: docker run IMAGE -- COMMAND"
    )
    raise LauncherError(ExitCode.SPEC, f"{variables.SERVE}: {fault}", hint)


def _number(text: str, faults: list[str]) -> object:
    if text.isascii() and text.isdigit():
        return int(text)
    faults.append(f"{variables.PROBE_PORT}: must be a port number, got `{text}`")
    return 1


def _spec(fields: Fields) -> Spec:
    require = fields.section("require")
    spec = Spec(
        argv=fields.texts("argv", at_least=1),
        model=fields.text("model"),
        port=fields.port("port"),
        probe_port=fields.port("probe_port"),
        start_budget=fields.seconds("start_budget", above_zero=True),
        drain=fields.seconds("drain"),
        max_model_len=fields.optional("max_model_len", lambda name: fields.whole(name, low=1)),
        health=fields.path("health"),
        routes=fields.paths("routes"),
        metrics=fields.optional("metrics", lambda name: _metrics(fields.section(name))),
        stall=fields.seconds("stall"),
        require=_require(require),
    )
    fields.refuse_unknown("version", *Spec.__dataclass_fields__)
    return spec


def _metrics(fields: Fields) -> Metrics:
    fields.refuse_unknown(*Metrics.__dataclass_fields__)
    return Metrics(
        path=fields.path("path"),
        waiting=fields.texts("waiting"),
        running=fields.texts("running"),
        tokens=fields.texts("tokens"),
    )


def _require(fields: Fields) -> Require:
    fields.refuse_unknown(*Require.__dataclass_fields__)
    capability = fields.optional("compute_capability", lambda name: fields.numbers(name, parts=2))
    return Require(
        gpus=fields.whole("gpus"),
        gpu=fields.optional("gpu", fields.text),
        compute_capability=None if capability is None else (capability[0], capability[1]),
        memory_bytes=fields.whole("memory_bytes"),
        driver=fields.optional("driver", fields.version),
        shm_bytes=fields.whole("shm_bytes"),
    )
